"""An export refuses what it cannot do, and says what the exported model lacks."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

import telltune
from telltune.cli import main
from telltune.errors import ModelError, RecipeError
from telltune.fitting.adapter_folder import read_tell

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def small(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    task = toy_recipe["task"] | {"max_examples": 12}
    mixture = {"passes": 1, "leverage_ratio": 0}
    return toy_recipe | {"method": "sft_anchor", "task": task, "mixture": mixture}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["tell", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        main()
    return done.value.code


def test_a_baseline_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    telltune.fit(small | {"method": "tfidf_linear"}, tmp_path / "out", progress=False)
    with pytest.raises(ModelError, match="is a baseline, which has no language model to export"):
        telltune.export(tmp_path / "out", "vllm")


def test_a_classifier_stays_behind_and_the_export_says_so(
    small: dict[str, Any], tmp_path: Path
) -> None:
    values = small | {"method": "sft", "product_of_experts": "tfidf"}
    values["task"] |= {"max_examples": 18}
    telltune.fit(values, tmp_path / "out", progress=False)
    assert "answers" in read_tell(tmp_path / "out")["classifier"]
    done = telltune.export(tmp_path / "out", "merge", tmp_path / "merged", progress=False)
    assert done.answers is not None
    assert done.answers.asked == done.answers.equal == 12
    [told] = done.warnings
    assert "small classifier, which the export lacks" in told
    assert told in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "merged" / "classifier.safetensors").exists()
    for name in ("out", "merged"):
        assert telltune.export(tmp_path / name, "vllm").warnings == (told,)


def test_what_a_chat_template_cannot_do_is_told(small: dict[str, Any], tmp_path: Path) -> None:
    evaluation = {"answers": "likelihood", "max_new_tokens": 7}
    telltune.fit(small | {"evaluation": evaluation}, tmp_path / "out", progress=False)
    record = read_tell(tmp_path / "out")
    record |= {"shots": [["user", "a"], ["assistant", "b"]], "answer_after": "####"}
    (tmp_path / "out" / "tell.json").write_text(json.dumps(record))
    told = telltune.export(tmp_path / "out", "vllm").warnings
    assert len(told) == 3
    assert "picks the most likely label" in told[0]
    assert "2 example turns" in told[1]
    assert "'####'" in told[2]


def test_the_command_line_wants_one_target_and_the_options_that_fit(
    small: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    telltune.fit(small, out, progress=False)
    capsys.readouterr()
    for arguments, told in (
        ((), "give exactly one of --merge, --gguf, --ollama, --vllm, --push, not 0"),
        (("--merge", "--vllm"), "not 2"),
        (("--merge",), "--out is missing"),
        (("--gguf", "q9", "--out", tmp_path / "x"), "--gguf q9: llama.cpp makes"),
        (("--vllm", "--out", tmp_path / "x"), "writes no files; leave it out"),
        (("--vllm", "--public"), "--public applies only to --push"),
    ):
        assert run(monkeypatch, out, *arguments) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert run(monkeypatch, out, "--vllm") == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"vllm serve {small['model']} --enable-lora --lora-modules out={out}")
    assert printed.count("\n") == 1
    assert run(monkeypatch, out, "--merge", "--out", tmp_path / "m", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["answers"] == {"asked": 12, "equal": 12, "difference": ""}
    with pytest.raises(RecipeError, match="no target of an export"):
        telltune.export(out, "onnx")  # type: ignore[arg-type]
