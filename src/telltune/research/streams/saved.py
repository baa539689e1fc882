"""Files of a saved cascade: its settings, and what it has learned."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml

from telltune.errors import StorageError
from telltune.storage import write_bytes, write_text

if TYPE_CHECKING:
    from telltune.research.streams.spec import CascadeSpec

SETTINGS = "cascade.yaml"
"""File with the settings."""
_STATE = "state.pt"


def has_state(folder: Path) -> bool:
    """Return whether a cascade was saved in a folder."""
    return (folder / _STATE).exists()


def read_state(folder: Path) -> dict[str, Any]:
    """Return the last saved state of a cascade.

    Raises:
        StorageError: There is no state, or it is damaged.
    """
    path = folder / _STATE
    if not path.exists():
        raise StorageError(f"{path} is missing: {folder} is not the folder of a cascade.")
    try:
        found: dict[str, Any] = torch.load(path, weights_only=True)
        if not {"labels", "lines", "models"} <= found.keys():
            raise ValueError("it lacks a part")
    except Exception as error:
        raise StorageError(f"{path} is damaged ({error}); remove {folder} to start over.") from None
    return found


def write_cascade(folder: Path, spec: CascadeSpec, state: dict[str, Any]) -> None:
    """Write the settings and the state, each atomically.

    Raises:
        StorageError: The folder cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(_as_tensors(state), buffer)
    # The state comes first: a folder without it is not that of a cascade.
    write_bytes(folder / _STATE, buffer.getvalue())
    settings = _rooted(spec).model_dump(mode="json", exclude_defaults=True)
    text = yaml.safe_dump(settings, allow_unicode=True, sort_keys=False)
    path = folder / SETTINGS
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _rooted(spec: CascadeSpec) -> CascadeSpec:
    """Return the settings with absolute paths, which are valid in any working directory."""
    levels = [level.model_copy(update={"path": _absolute(level.path)}) for level in spec.levels]
    top = spec.top.model_copy(
        update={"adapter": _absolute(spec.top.adapter), "model": _absolute(spec.top.model)}
    )
    return spec.model_copy(update={"levels": levels, "top": top})


def _absolute(name: str | None) -> str | None:
    """Return the absolute path of a folder that exists; other names are returned as they are."""
    if name is None or name == "embedded" or not Path(name).exists():
        return name
    return str(Path(name).resolve())


def _as_tensors(value: Any) -> Any:
    """Convert arrays to tensors, which `torch.load` reads with `weights_only=True`."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {key: _as_tensors(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_tensors(inner) for inner in value]
    return value
