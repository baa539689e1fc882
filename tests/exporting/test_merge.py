"""A merged folder is a complete model, which answers as the adapter does."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
import yaml

import telltune
from telltune.errors import ModelError, RecipeError, StorageError
from telltune.exporting.answers import compare_answers
from telltune.fitting.adapter_folder import load_predictor, read_tell
from telltune.verification import verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from forked import PlainPython

PLAIN = """
import json, sys
from transformers import pipeline

sys.modules["peft"] = None  # cannot be imported
pipe = pipeline("text-generation", sys.argv[1])
chats = [[{"role": "user", "content": prompt}] for prompt in json.loads(sys.argv[2])]
print(json.dumps([pipe(chat)[0]["generated_text"][-1]["content"] for chat in chats]))
assert not any(name.partition(".")[0] == "telltune" for name in sys.modules)
"""
PROMPTS = ["item 7 is round", "item 8 is square"]
KINDS = {"round": "ball", "square": "box", "flat": "sheet"}


@pytest.fixture(scope="module")
def work(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, write_jsonl: Callable[..., Path]
) -> Path:
    """Holds `base`, the tiny model in bf16 with sampling settings, and `out`, a scored adapter."""
    from transformers import AutoModelForCausalLM

    work = tmp_path_factory.mktemp("work")
    shutil.copytree(tiny_model, work / "base")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    model.save_pretrained(work / "base")
    sampling = {"do_sample": True, "temperature": 5.0, "eos_token_id": 0}
    (work / "base" / "generation_config.json").write_text(json.dumps(sampling))
    for split, numbers in (("train", range(24)), ("test", range(24, 48))):
        rows = [
            {"prompt": f"item {n} is {kind}", "completion": KINDS[kind]}
            for n in numbers
            for kind in [list(KINDS)[n % 3]]
        ]
        write_jsonl(work / f"{split}.jsonl", rows)
    recipe = {
        "method": "sft_anchor",
        "model": str(work / "base"),
        "task": {"train": str(work / "train.jsonl"), "test": str(work / "test.jsonl")},
        "anchor": "Name the shape.",
        "mixture": {"passes": 8},
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.0},
        "training": {
            "batch_size": 4,
            "learning_rate": 1e-2,
            "schedule": "constant",
            "precision": "fp32",
            "max_length": 256,
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TELLTUNE_CACHE", str(work / "cache"))
        telltune.fit(recipe, work / "out", progress=False)
        telltune.evaluate(work / "out", progress=False)
        telltune.export(work / "out", "merge", work / "merged", progress=False)
    return work


def test_plain_transformers_answers_as_the_adapter_does(
    plain_python: PlainPython, work: Path
) -> None:
    answers = telltune.predict(work / "out", PROMPTS)
    assert answers == ["ball", "box"]
    found = json.loads(plain_python.run(PLAIN, work / "merged", json.dumps(PROMPTS)))
    assert found == answers == telltune.predict(work / "merged", PROMPTS)


def test_weights_are_added_in_fp32_and_saved_in_the_precision_of_the_base(work: Path) -> None:
    from safetensors.torch import load_file

    base, merged = (load_file(work / name / "model.safetensors") for name in ("base", "merged"))
    adapter = load_file(work / "out" / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "AB")
    wanted = base[f"{name}.weight"].float() + b @ a * (16 / 8)
    assert merged[f"{name}.weight"].dtype == torch.bfloat16
    torch.testing.assert_close(merged[f"{name}.weight"], wanted.bfloat16(), rtol=0, atol=0)
    assert json.loads((work / "merged" / "config.json").read_text())["dtype"] == "bfloat16"


def test_the_folder_has_what_a_model_needs_and_nothing_of_the_adapter(work: Path) -> None:
    merged, out = work / "merged", work / "out"
    assert {path.name for path in merged.iterdir()} == {
        *("README.md", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "scores.json", "tell.json", "tokenizer.json"),
        "tokenizer_config.json",
    }
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json"):
        assert (merged / name).read_bytes() == (out / name).read_bytes()
    assert all(check.held is not False for check in verify(merged).checks)


def test_the_card_says_what_was_merged_and_how_it_scored(work: Path) -> None:
    card = (work / "merged" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "transformers"
    assert "Merged model: `tell export --merge` added" in card
    assert "saved the weights as bfloat16" in card
    assert "| train, test | 24 | accuracy |" in card
    assert "Scored before the adapter was merged." in card
    assert "PeftModel" not in card
    telltune.evaluate(work / "merged", progress=False)
    card = (work / "merged" / "README.md").read_text(encoding="utf-8")
    assert "| train, test | 24 | accuracy |" in card
    assert "before the adapter was merged" not in card


def test_answers_are_compared_and_the_first_difference_is_told(work: Path, tmp_path: Path) -> None:
    same = compare_answers(work / "out", work / "merged")
    assert (same.asked, same.equal, same.difference) == (20, 20, "")
    # A model whose weights are all zero always writes the same token.
    shutil.copytree(work / "merged", tmp_path / "zero")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "zero" / "model.safetensors"
    save_file({k: v * 0 for k, v in load_file(file).items()}, file, {"format": "pt"})
    record = read_tell(tmp_path / "zero")
    record["files"].pop("model.safetensors")
    (tmp_path / "zero" / "tell.json").write_text(json.dumps(record))
    other = compare_answers(work / "out", tmp_path / "zero")
    assert (other.asked, other.equal) == (20, 0)
    assert other.difference.startswith(
        f"{work / 'test.jsonl'}:1: the adapter answers 'ball', the exported model '"
    )


def test_a_quantized_base_is_merged_whole_and_without_data_nothing_is_compared(
    work: Path, tmp_path: Path
) -> None:
    shutil.copytree(work / "out", tmp_path / "alone")
    record = read_tell(tmp_path / "alone")
    record["recipe"]["task"] |= {"train": [{"path": "gone.jsonl"}], "test": None}
    record["recipe"]["model"]["quantization"] = "nf4"
    record["base"]["revision"] += "+nf4"
    (tmp_path / "alone" / "tell.json").write_text(json.dumps(record))
    done = telltune.export(tmp_path / "alone", "merge", tmp_path / "merged", progress=False)
    assert done.answers is not None
    assert done.answers.asked == 0
    quantized, compared = done.warnings
    assert "trained on a base quantized to nf4" in quantized
    assert compared == "The answers were not compared, because the task data cannot be read here."
    weights = (tmp_path / "merged" / "model.safetensors").read_bytes()
    assert weights == (work / "merged" / "model.safetensors").read_bytes()


def test_files_are_never_replaced(work: Path) -> None:
    with pytest.raises(StorageError, match="is not an empty folder"):
        telltune.export(work / "out", "merge", work / "merged", progress=False)


def test_another_base_is_refused_and_nothing_is_written(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "out", tmp_path / "out")
    record = read_tell(tmp_path / "out")
    record["base"]["revision"] = "f00d"
    (tmp_path / "out" / "tell.json").write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"was trained on .* f00d, but found"):
        telltune.export(tmp_path / "out", "merge", tmp_path / "merged", progress=False)
    assert not (tmp_path / "merged").exists()


def test_a_merged_model_is_served_as_it_is(work: Path) -> None:
    with pytest.raises(RecipeError, match="is a whole model and is used as it is"):
        telltune.export(work / "merged", "merge", work / "again", progress=False)
    done = telltune.export(work / "merged", "vllm")
    [command] = done.commands
    assert command.startswith(f"vllm serve {work / 'merged'} --served-model-name merged ")
    assert load_predictor(work / "merged").anchor is not None


def test_ollama_and_gguf_start_from_a_merged_folder(work: Path, tmp_path: Path) -> None:
    done = telltune.export(work / "out", "ollama", tmp_path / "mine", progress=False)
    assert done.answers is not None
    assert done.answers.equal == 20
    assert done.commands == (f"ollama create mine -f {tmp_path / 'mine' / 'Modelfile'}",)
    text = (tmp_path / "mine" / "Modelfile").read_text(encoding="utf-8")
    assert "user\nName the shape.\n\n" in text
    assert all(check.held is not False for check in verify(tmp_path / "mine").checks)
    made = telltune.export(tmp_path / "mine", "gguf", gguf_type="q8_0")
    assert made.answers is None
    assert made.commands[0].endswith(f"{tmp_path / 'mine-q8_0.gguf'} --outtype q8_0")
