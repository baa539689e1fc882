"""A merged model: an adapter added to its base, in a folder that transformers loads."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from telltune.errors import ModelError, StorageError
from telltune.fitting.adapter_folder import (
    CLASSIFIER,
    MADE,
    TELL_JSON,
    base_spec,
    read_tell,
    refuse_damaged,
    whole_files,
)
from telltune.fitting.model_card import CARD, SCORES, model_card, record_scores
from telltune.models import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    load_adapter,
    load_base,
    load_config,
    model_origin,
)
from telltune.storage import read_cached_json, write_json, write_text

_OF_THE_ADAPTER = {ADAPTER_WEIGHTS, ADAPTER_CONFIG, CLASSIFIER, MADE}
"""Files of an adapter folder that a merged model does without."""


def merge_adapter(
    adapter: Path, out: Path, *, lost: Sequence[str] = (), trust_model: bool = False
) -> None:
    """Write a model folder with the adapter added to its base.

    The weights are added in fp32 on the CPU, and saved in the base's precision. tell.json is
    written last, and marks the folder as complete.

    Raises:
        ModelError: The folder is damaged, or its base is missing or has changed.
        StorageError: `out` is not empty, or cannot be written.
    """
    import torch
    from transformers import GenerationConfig

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StorageError(f"{out} is not an empty folder; choose another --out.")
    record = read_tell(adapter)
    refuse_damaged(adapter, record["files"])
    spec = base_spec(adapter, record, trust_model=trust_model)
    spec = spec.model_copy(update={"quantization": None})
    dtype = load_config(spec).dtype or torch.float32
    base = load_base(spec, "fp32", on_cpu=True)
    revision = record["base"]["revision"].partition("+")[0]
    if base.revision != revision:
        raise ModelError(
            f"{adapter} was trained on {base.name} {revision}, but found {base.revision}; fit "
            "again."
        )
    origin = model_origin(spec, base.revision, str(base.model.name_or_path))
    model: Any = load_adapter(base, adapter)[0].merge_and_unload().to(dtype)
    # The base's own configuration may sample, which transformers refuses to save as greedy.
    model.generation_config = GenerationConfig.from_pretrained(adapter)
    size = sum(weight.nbytes for weight in model.parameters())
    with whole_files(out, needed=size) as (filling, files):
        model.save_pretrained(filling)
        for name in record["files"].keys() - _OF_THE_ADAPTER:
            shutil.copyfile(adapter / name, filling / name)
    precision = str(dtype).removeprefix("torch.")
    merged = {"adapter": record["files"][ADAPTER_WEIGHTS], "precision": precision, "lost": [*lost]}
    record |= {"classifier": None, "merged": merged, "files": files}
    write_text(out / CARD, model_card(record, origin))
    for row in read_cached_json(adapter / SCORES) or ():
        note = "Scored before the adapter was merged."
        record_scores(out, row | {"warnings": [note, *row["warnings"]]})
    write_json(out / TELL_JSON, record)
