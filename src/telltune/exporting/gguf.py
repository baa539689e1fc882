"""Shell commands of llama.cpp that convert a model folder to a GGUF file."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from telltune.errors import RecipeError

if TYPE_CHECKING:
    from pathlib import Path

_WRITTEN = ("f32", "f16", "bf16", "q8_0")
"""Types that convert_hf_to_gguf.py writes."""
_QUANTIZED = (
    *("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m"),
    *("q5_0", "q5_1", "q5_k_s", "q5_k_m", "q6_k"),
)
"""Types that llama-quantize makes of an f16 file."""


def check_gguf_type(kind: str) -> None:
    """Refuse a type that llama.cpp does not make.

    Raises:
        RecipeError: The type is unknown.
    """
    if kind.lower() not in _WRITTEN + _QUANTIZED:
        raise RecipeError(
            f"--gguf {kind}: llama.cpp makes {', '.join(_WRITTEN + _QUANTIZED)}; choose one."
        )


def gguf_commands(folder: Path, kind: str) -> list[str]:
    """Return the commands of llama.cpp that write a model folder as a GGUF file beside it."""
    kind = kind.lower()
    written = kind if kind in _WRITTEN else "f16"
    here = folder.resolve()
    file, final = (here.with_name(f"{here.name}-{one}.gguf") for one in (written, kind))
    convert = ["python", "llama.cpp/convert_hf_to_gguf.py", str(here)]
    commands = [shlex.join([*convert, "--outfile", str(file), "--outtype", written])]
    if final != file:
        commands.append(shlex.join(["llama-quantize", str(file), str(final), kind.upper()]))
    return commands
