"""The command that serves adapters or a whole model with vLLM's own server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from telltune.errors import ModelError
from telltune.exporting.answers import lost_answers, lost_prompts
from telltune.fitting.adapter_folder import CHAT_TEMPLATE, read_tell, refuse_damaged
from telltune.fitting.baseline_folder import is_baseline
from telltune.fitting.model_card import is_whole_model
from telltune.models import ADAPTER_CONFIG, compute_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank (`MaxLoRARanks` in vllm/config/lora.py)."""

_MERGE = "merge it (`tell export --merge`)"


def vllm_command(folders: Sequence[Path], *, trust_model: bool) -> tuple[list[str], list[str]]:
    """Return the command that serves folders with vLLM, and how answers differ from telltune's.

    Args:
        folders: One whole model, or adapters of one base with the same chat template.
        trust_model: Whether vLLM may run the base model's own code if tell.json asks for it.

    Raises:
        ModelError: A folder cannot be read, or vLLM cannot serve it, or not beside the others.
    """
    records = [read_tell(folder) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        if is_baseline(record):
            raise ModelError(f"{folder} is a baseline, which vLLM cannot serve.")
        if is_whole_model(record) and len(folders) > 1:
            raise ModelError(f"vLLM serves {folder}, a whole model, only alone; serve it apart.")
        refuse_damaged(folder, record["files"])
    place, own_code = str(folders[0].resolve()), records[0]["recipe"]["model"]["trust_remote_code"]
    names = [folder.resolve().name for folder in folders]
    if is_whole_model(records[0]):
        what = [place, "--served-model-name", names[0]]
    else:
        places = [f"{name}={folder.resolve()}" for name, folder in zip(names, folders, strict=True)]
        base, rank = _base_and_rank(folders)
        what = [
            *base,
            *("--enable-lora", "--lora-modules", *places, "--max-lora-rank", str(rank)),
            *(["--max-loras", str(len(folders))] if len(folders) > 1 else []),
            # vLLM takes the chat template, with the anchor, and the end of an answer from these.
            *("--tokenizer", place, "--generation-config", place),
        ]
    # By default, vLLM computes models with fp32 weights in bf16.
    computed = compute_dtype(records[0]["recipe"]["training"]["precision"])
    dtype = ["--dtype", str(computed).removeprefix("torch.")]
    # vLLM does not read `do_sample: false`, and would sample.
    greedy = ["--override-generation-config", json.dumps({"temperature": 0})]
    custom = ["--trust-remote-code"] if own_code and trust_model else []
    differences = [*_other_base(records[0])]
    for record in records:
        differences += [*lost_answers(record), *lost_prompts(record)]
    return ["vllm", "serve", *what, *custom, *dtype, *greedy], list(dict.fromkeys(differences))


def _base_and_rank(folders: Sequence[Path]) -> tuple[list[str], int]:
    """Return the base of adapters, as vLLM's arguments, and the value for --max-lora-rank."""
    from telltune.inference.vllm_engine import beyond_vllm

    configs = [_config(folder) for folder in folders]
    first = (configs[0]["base_model_name_or_path"], configs[0].get("revision"))
    for folder, config in zip(folders, configs, strict=True):
        beyond = beyond_vllm(config)
        if beyond:
            raise ModelError(
                f"{folder} uses {', '.join(beyond)}, which vLLM does not support in adapters; "
                f"{_MERGE}."
            )
        if config["r"] > _RANKS[-1]:
            raise ModelError(
                f"{folder} has rank {config['r']}, but vLLM serves ranks up to {_RANKS[-1]}; "
                f"{_MERGE}."
            )
        if (config["base_model_name_or_path"], config.get("revision")) != first:
            raise ModelError(f"{folder} has another base than {folders[0]}; serve it apart.")
        for name in (CHAT_TEMPLATE, "generation_config.json"):
            if _content(folder / name) != _content(folders[0] / name):
                raise ModelError(
                    f"{folder} has another {name} than {folders[0]}, but vLLM uses one for all "
                    "adapters; serve it apart."
                )
    rank = max(config["r"] for config in configs)
    revision = ["--revision", first[1]] if first[1] else []
    return [first[0], *revision], next(one for one in _RANKS if one >= rank)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / ADAPTER_CONFIG} cannot be read: {error}.") from None
    return config


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _other_base(record: dict[str, Any]) -> list[str]:
    if is_whole_model(record) or record["recipe"]["model"]["name"] != "embedded":
        return []
    told = (
        "The adapter was trained on the 4-bit weights of the embedded model; "
        f"{record['base']['hub_id']} has other weights, so answers can differ (`tell "
        "export --merge` keeps them)."
    )
    return [told]
