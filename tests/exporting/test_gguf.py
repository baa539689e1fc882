"""Commands of llama.cpp name the right files and types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from telltune.errors import RecipeError
from telltune.exporting.gguf import check_gguf_type, gguf_commands

if TYPE_CHECKING:
    from pathlib import Path


def test_llama_cpp_converts_and_quantizes(tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    converted, quantized = tmp_path / "merged-f16.gguf", tmp_path / "merged-q4_k_m.gguf"
    convert = f"python llama.cpp/convert_hf_to_gguf.py {folder} --outfile"
    assert gguf_commands(folder, "F16") == [f"{convert} {converted} --outtype f16"]
    assert gguf_commands(folder, "Q4_K_M") == [
        f"{convert} {converted} --outtype f16",
        f"llama-quantize {converted} {quantized} Q4_K_M",
    ]


def test_an_unknown_type_is_refused() -> None:
    check_gguf_type("Q8_0")
    with pytest.raises(RecipeError, match=r"--gguf q9: llama\.cpp makes f32, f16"):
        check_gguf_type("q9")
