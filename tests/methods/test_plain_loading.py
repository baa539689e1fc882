"""An adapter folder answers the same in telltune and in every documented way to load it."""

from __future__ import annotations

import json
import re
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import telltune
from telltune.models import LOCAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from forked import PlainPython

SERVING = Path(__file__).parents[2] / "docs" / "guides" / "serving.md"
PROMPTS = ["item 7 is round", "item 8 is square"]

LOADS = """
import json, sys
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

adapter, base, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(adapter)
generation = GenerationConfig.from_pretrained(adapter)


def answers(model, **settings):
    found = []
    for prompt in prompts:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True, return_tensors="pt", return_dict=True,
        )
        ids = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1]:]
        found.append(tokenizer.decode(ids))
    return found


def said(pipe):
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return [pipe(chat)[0]["generated_text"][-1]["content"] for chat in chats]


load = AutoModelForCausalLM.from_pretrained
found = {
    "peft": answers(PeftModel.from_pretrained(load(base), adapter), generation_config=generation),
    "auto peft": answers(
        AutoPeftModelForCausalLM.from_pretrained(adapter, generation_config=generation)
    ),
    "auto": answers(load(adapter, generation_config=generation)),
    "pipeline": said(
        pipeline("text-generation", adapter, tokenizer=adapter, generation_config=generation)
    ),
    "as the base is asked": pipeline("text-generation", adapter).tokenizer.chat_template,
    "as the base ends": answers(
        AutoPeftModelForCausalLM.from_pretrained(adapter), max_new_tokens=20, do_sample=False
    ),
}
assert not any(name.partition(".")[0] == "telltune" for name in sys.modules)
print(json.dumps(found))
"""

SERVES = """
import json, sys, time, urllib.request
from transformers.cli.serve import Serve

model, port, prompts = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
served = Serve(model, port=port, non_blocking=True)
while not served.server.started:
    time.sleep(0.02)
found = []
for prompt in prompts:
    asked = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    request = urllib.request.Request(
        f"http://localhost:{port}/v1/chat/completions",
        json.dumps(asked | {"stream": False}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=200) as reply:
        found.append(json.load(reply)["choices"][0]["message"]["content"])
print(json.dumps(found))
"""


def recipe(folder: Path, base: Path) -> dict[str, Any]:
    return {
        "method": "sft_anchor",
        "model": str(base),
        "task": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")},
        "anchor": {"prompt": "Name the shape."},
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


@pytest.fixture(scope="module")
def folder(
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    write_jsonl: Callable[..., Path],
    toy_rows: Callable[..., Any],
) -> Path:
    """Return a folder with an adapter, `out`, and its base, which ends texts with another token."""
    folder = tmp_path_factory.mktemp("plain")
    base = folder / "base"
    shutil.copytree(tiny_model, base)
    for name in ("config.json", "generation_config.json"):
        values = json.loads((base / name).read_text())
        values["eos_token_id"] = 0
        if name == "generation_config.json":
            values |= {"do_sample": True, "temperature": 5.0, "top_p": 0.9}
        (base / name).write_text(json.dumps(values))
    for split, numbers in (("train", range(24)), ("test", range(24, 36))):
        write_jsonl(folder / f"{split}.jsonl", toy_rows(numbers))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TELLTUNE_CACHE", str(folder / "cache"))
        telltune.fit(recipe(folder, base), folder / "out", progress=False)
    return folder


@pytest.fixture(scope="module")
def answers(folder: Path) -> list[str]:
    """Return telltune's answers, which are not empty and differ from one another."""
    answers = telltune.predict(folder / "out", PROMPTS)
    assert answers == ["ball", "box"]
    return answers


def test_every_way_to_load_it_gives_the_same_answers_and_ends_them(
    plain_python: PlainPython, folder: Path, answers: list[str]
) -> None:
    found = json.loads(
        plain_python.run(LOADS, folder / "out", folder / "base", json.dumps(PROMPTS))
    )
    ended = [f"{answer}<|im_end|>" for answer in answers]
    assert found["peft"] == found["auto peft"] == found["auto"] == ended
    assert found["pipeline"] == answers
    # The reason why docs/guides/serving.md passes the adapter's tokenizer and generation config.
    assert "Name the shape." not in found["as the base is asked"]
    assert all(text.count("<|im_end|>") != 1 for text in found["as the base ends"])


def test_generation_config_is_what_telltune_does(folder: Path) -> None:
    written = json.loads((folder / "out" / "generation_config.json").read_text())
    record = json.loads((folder / "out" / "tell.json").read_text())
    assert written["eos_token_id"] == [2]
    assert written["pad_token_id"] == 2
    assert written["do_sample"] is False
    assert written["max_new_tokens"] == record["answer_tokens"]
    assert not {"temperature", "top_p", "max_length"} & written.keys()


@pytest.mark.parametrize("full_parameters", [False, True])
def test_the_code_in_the_model_card_runs_in_the_folder(
    plain_python: PlainPython,
    folder: Path,
    answers: list[str],
    tmp_path: Path,
    full_parameters: bool,
) -> None:
    out = folder / "out"
    if full_parameters:
        values = recipe(folder, folder / "base")
        values["training"] |= {"full_parameters": True, "learning_rate": 3e-3}
        out = tmp_path / "whole"
        telltune.fit(values, out, progress=False)
        answers = telltune.predict(out, PROMPTS)
        assert len(set(answers)) == 2
    card = (out / "README.md").read_text(encoding="utf-8")
    assert str(folder) not in card
    assert (LOCAL in card) is not full_parameters
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace(LOCAL, str(folder / "base"))
    code = code.replace('"..."', json.dumps(PROMPTS[0]))
    assert plain_python.run(code, cwd=out).strip() == answers[0]


def code_of_the_guide(folder: Path) -> str:
    """Return the Python code of docs/guides/serving.md, with the paths of a folder's models."""
    text = SERVING.read_text(encoding="utf-8")
    for name, path in (("BASE", "base"), ("ADAPTER", "out")):
        assert f'"{name}"' in text
        text = text.replace(f'"{name}"', repr(str(folder / path)))
    blocks: list[str] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [code] = [block for block in blocks if "PeftModel" in block]
    return code


def test_the_code_in_the_guide_answers(
    plain_python: PlainPython, folder: Path, answers: list[str]
) -> None:
    code = code_of_the_guide(folder).replace('"My invoice is wrong."', json.dumps(PROMPTS[0]))
    assert plain_python.run(code).strip() == answers[0]


@pytest.mark.skipif(
    not all(map(find_spec, ("fastapi", "uvicorn", "openai"))),
    reason="what `transformers serve` needs is not installed",
)
def test_a_merged_model_is_served(
    plain_python: PlainPython, folder: Path, answers: list[str], tmp_path: Path
) -> None:
    merged = tmp_path / "merged"
    telltune.export(folder / "out", "merge", merged, progress=False)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # What `transformers serve` runs, without its imports.
    printed = plain_python.run(SERVES, merged, port, json.dumps(PROMPTS))
    assert json.loads(printed.splitlines()[-1]) == answers
