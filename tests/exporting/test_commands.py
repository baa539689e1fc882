"""Commands for other programs name the right files, rank and types."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from telltune.errors import ModelError, RecipeError
from telltune.exporting.commands import check_gguf_type, gguf_commands, vllm_command

if TYPE_CHECKING:
    from pathlib import Path


def record(**training: Any) -> dict[str, Any]:
    return {
        "recipe": {
            "training": {"full_parameters": False} | training,
            "model": {"trust_remote_code": False},
        }
    }


def adapter(folder: Path, **config: Any) -> Path:
    values = {"r": 16, "base_model_name_or_path": "org/base", "revision": "f00d"} | config
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


def test_vllm_serves_the_base_with_the_adapter_and_its_template(tmp_path: Path) -> None:
    (tmp_path / "my tickets").mkdir()
    folder = adapter(tmp_path / "my tickets", r=9)
    words = shlex.split(vllm_command(folder, record()))
    assert words[:5] == ["vllm", "serve", "org/base", "--revision", "f00d"]
    options = dict(zip(words[6::2], words[7::2], strict=True))
    assert words[5] == "--enable-lora"
    assert options == {
        "--lora-modules": f"my tickets={folder}",
        "--max-lora-rank": "16",
        "--tokenizer": str(folder),
        "--generation-config": str(folder),
    }


@pytest.mark.parametrize(("rank", "allowed"), [(1, 1), (2, 8), (16, 16), (65, 128), (512, 512)])
def test_the_rank_is_one_that_vllm_has(tmp_path: Path, rank: int, allowed: int) -> None:
    folder = adapter(tmp_path, r=rank)
    assert f"--max-lora-rank {allowed} " in vllm_command(folder, record())


def test_a_rank_above_those_of_vllm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"rank 513.*up to 512"):
        vllm_command(adapter(tmp_path, r=513), record())


def test_kinds_that_vllm_ignores_or_refuses_are_to_be_merged(tmp_path: Path) -> None:
    kinds = {"use_dora": True, "alpha_pattern": {"q_proj": 2}, "modules_to_save": ["lm_head"]}
    for name, value in kinds.items():
        with pytest.raises(ModelError, match=rf"uses {name}, .* merge it"):
            vllm_command(adapter(tmp_path, **{name: value}), record())


def test_a_whole_model_needs_no_options(tmp_path: Path) -> None:
    assert vllm_command(tmp_path, record(full_parameters=True)) == f"vllm serve {tmp_path}"
    assert vllm_command(tmp_path, record() | {"merged": {}}) == f"vllm serve {tmp_path}"


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
