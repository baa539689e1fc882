"""The command of vLLM's server names the base, the adapters, their rank and their template."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from telltune.errors import ModelError
from telltune.exporting.vllm import vllm_command

if TYPE_CHECKING:
    from pathlib import Path


def folder(path: Path, record: dict[str, Any] | None = None, **config: Any) -> Path:
    """Write what is read of an adapter folder."""
    path.mkdir(exist_ok=True)
    recipe = {
        "training": {"full_parameters": False, "precision": "bf16"},
        "model": {"trust_remote_code": True, "quantization": None, "name": "org/base"},
        "evaluation": {"answers": "generate"},
    }
    (path / "tell.json").write_text(json.dumps({"recipe": recipe, "files": {}} | (record or {})))
    values = {"r": 16, "base_model_name_or_path": "org/base", "revision": "f00d"} | config
    (path / "adapter_config.json").write_text(json.dumps(values))
    (path / "chat_template.jinja").write_text("the anchor")
    return path


def test_the_base_is_served_with_the_adapters_and_their_template(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "my tickets", r=9), folder(tmp_path / "two", r=65)
    command, differences = vllm_command([one, two], trust_model=False)
    assert not differences
    assert command == [
        *("vllm", "serve", "org/base", "--revision", "f00d"),
        *("--enable-lora", "--lora-modules", f"my tickets={one}", f"two={two}"),
        *("--max-lora-rank", "128", "--max-loras", "2"),
        *("--tokenizer", str(one), "--generation-config", str(one)),
        *("--dtype", "bfloat16"),
        *("--override-generation-config", '{"temperature": 0}'),
    ]
    assert "--trust-remote-code" in vllm_command([one], trust_model=True)[0]


@pytest.mark.parametrize(("rank", "allowed"), [(1, 1), (2, 8), (16, 16), (65, 128), (512, 512)])
def test_the_rank_is_one_that_vllm_has(tmp_path: Path, rank: int, allowed: int) -> None:
    command, _ = vllm_command([folder(tmp_path, r=rank)], trust_model=False)
    assert command[command.index("--max-lora-rank") + 1] == str(allowed)


def test_what_vllm_cannot_serve_is_refused(tmp_path: Path) -> None:
    good, merged = folder(tmp_path / "good"), {"merged": {"lost": []}}
    config: dict[str, Any]
    for config, told in (
        ({"r": 513}, r"rank 513.*up to 512.* merge it"),
        ({"use_dora": True}, r"uses use_dora, .* merge it"),
        ({"alpha_pattern": {"q_proj": 2}}, r"uses alpha_pattern, .* merge it"),
        ({"modules_to_save": ["lm_head"]}, r"uses modules_to_save, .* merge it"),
        ({"revision": "beef"}, r"has another base than .*good; serve it apart"),
        ({"record": merged}, r"a whole model, only alone; serve it apart"),
        ({"record": {"baseline": {}}}, r"is a baseline, which vLLM cannot serve"),
    ):
        with pytest.raises(ModelError, match=told):
            vllm_command([good, folder(tmp_path / "other", **config)], trust_model=False)
    other = folder(tmp_path / "other")
    (other / "chat_template.jinja").write_text("another anchor")
    with pytest.raises(ModelError, match=r"has another chat_template\.jinja than .*good"):
        vllm_command([good, other], trust_model=False)


def test_a_whole_model_is_served_under_its_name(tmp_path: Path) -> None:
    command, differences = vllm_command(
        [folder(tmp_path, {"merged": {"lost": ["a classifier"]}})], trust_model=False
    )
    assert command[:5] == ["vllm", "serve", str(tmp_path), "--served-model-name", tmp_path.name]
    assert differences == ["a classifier"]
