"""`verify` compares an adapter folder with its tell.json, and names each difference."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import telltune
from telltune.data.task import load_general, load_task
from telltune.errors import ModelError, RecipeError
from telltune.fitting.adapter_folder import provenance
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.model_info import load_model_info
from telltune.methods.registry import get_method
from telltune.recipe import recipe_from_dict
from telltune.verification import Verification, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def fitted(
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    write_jsonl: Callable[..., Path],
    toy_rows: Callable[..., Any],
) -> Path:
    """Return a folder with a model, data, and the adapter `out` that was trained on them."""
    folder = tmp_path_factory.mktemp("fitted")
    shutil.copytree(tiny_model, folder / "model")
    write_jsonl(folder / "train.jsonl", toy_rows(range(12)))
    write_jsonl(
        folder / "general.jsonl",
        [{"prompt": f"Write {n} twice.", "completion": f"{n} and {n}"} for n in range(60)],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TELLTUNE_CACHE", str(folder / "cache"))
        telltune.fit(recipe_in(folder), folder / "out", progress=False)
    return folder


def recipe_in(folder: Path) -> dict[str, Any]:
    return {
        "model": str(folder / "model"),
        "task": {"train": str(folder / "train.jsonl")},
        "general": str(folder / "general.jsonl"),
        "anchor": {"prompt": "Name the shape.", "response": "Shape:"},
        "mixture": {"leverage_ratio": 2.0, "passes": 2},
        "lora": {"rank": 2},
        "training": {"batch_size": 4, "precision": "fp32", "max_length": 128},
    }


@pytest.fixture
def folder(fitted: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may damage; its tell.json names the copied data and model."""
    shutil.copytree(fitted, tmp_path / "here")
    folder = tmp_path / "here"
    for name in ("tell.json", "recipe.yaml"):
        path = folder / "out" / name
        path.write_text(path.read_text().replace(str(fitted), str(folder)))
    recipe = recipe_from_dict(recipe_in(folder))
    model = load_model_info(recipe.model)
    run_plan = build_run_plan(
        get_method("tell"), load_task(recipe), load_general(recipe), model, recipe
    )
    claim(folder, lambda record: record.update(provenance(run_plan, model.shape, recipe)))
    claim(folder, lambda record: record["base"].update(name=str(folder / "model")))
    return folder


def claim(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of tell.json."""
    path = folder / "out" / "tell.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def differing(found: Verification) -> set[str]:
    return {check.what for check in found.checks if check.held is False}


def test_a_folder_that_nobody_touched_is_what_it_claims(folder: Path) -> None:
    found = verify(folder / "out")
    assert [check for check in found.checks if check.held is not True] == []
    assert found.held is True
    assert found.notes == ()
    assert {check.what for check in found.checks} >= {
        "adapter_model.safetensors",
        "chat_template.jinja",
        "tokenizer.json",
        "method",
        "seed",
        "recipe.yaml",
        "base",
        "base weights",
        "task data",
        "general data",
        "counts",
        "order",
        "training_log.jsonl",
        "anchor",
        "chat template",
    }


def spoil_weights(folder: Path) -> None:
    path = folder / "out" / "adapter_model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def spoil_base(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    weights = load_file(path)
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, path, metadata={"format": "pt"})


def spoil_log(folder: Path) -> None:
    path = folder / "out" / "training_log.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["tokens"] += 1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def repeat_step(folder: Path) -> None:
    path = folder / "out" / "training_log.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[-1]]))


SPOILED: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "a bit of the weights": (spoil_weights, {"adapter_model.safetensors"}),
    "the template": (
        lambda f: rewrite(f / "out" / "chat_template.jinja", "Name the shape.", "Say anything."),
        {"chat_template.jinja", "chat template"},
    ),
    "a file that is gone": (
        lambda f: (f / "out" / "tokenizer.json").unlink(),
        {"tokenizer.json"},
    ),
    "a file that came": (
        lambda f: (f / "out" / "adapter_model.bin").write_bytes(b"x"),
        {"adapter_model.bin"},
    ),
    "task data": (
        lambda f: rewrite(f / "train.jsonl", "item 4 ", "item 5 "),
        {"task data"},
    ),
    "general data of the same length": (
        lambda f: rewrite(f / "general.jsonl", "7 and 7", "7 and 8"),
        {"general data"},
    ),
    "the base": (spoil_base, {"base", "base weights"}),
    "the log": (spoil_log, {"training_log.jsonl"}),
    "a step that stands twice": (repeat_step, {"training_log.jsonl"}),
    "the order": (lambda f: claim(f, lambda r: r.update(order="0" * 64)), {"order"}),
    "the counts": (
        lambda f: claim(f, lambda r: r["counts"].update(general_tokens=1)),
        {"counts"},
    ),
    "the seed": (
        lambda f: claim(f, lambda r: (r.update(seed=1), r["recipe"].update(seed=1))),
        {"recipe.yaml", "order", "training_log.jsonl", "task data", "counts"},
    ),
    "the anchor": (
        lambda f: claim(f, lambda r: r["anchor"].update(response="Form:")),
        {"anchor"},
    ),
    "the passes": (
        lambda f: claim(f, lambda r: r["recipe"]["mixture"].update(passes=3)),
        {"recipe.yaml", "counts", "order", "training_log.jsonl"},
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_each_thing_that_differs_is_named_and_nothing_else(folder: Path, what: str) -> None:
    spoil, named = SPOILED[what]
    spoil(folder)
    found = verify(folder / "out")
    assert found.held is False
    assert differing(found) <= named
    # Steps of another seed may have the same lengths.
    assert differing(found) == named or (what == "the seed" and differing(found))
    assert all(check.reason for check in found.checks if check.held is not True)


def test_what_people_may_edit_is_no_claim(folder: Path) -> None:
    (folder / "out" / "README.md").write_text("# Mine")
    (folder / "out" / ".notes").write_text("mine")
    assert verify(folder / "out").held is True


def test_data_that_are_gone_are_unknown_not_wrong(folder: Path) -> None:
    (folder / "train.jsonl").unlink()
    found = verify(folder / "out")
    assert found.held is None
    [reason] = [check.reason for check in found.checks if check.held is None]
    assert "no file or folder" in reason


def test_a_base_that_is_gone_is_unknown(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    found = verify(folder / "out")
    assert found.held is None
    assert "no such folder" in next(c.reason for c in found.checks if c.what == "base")


def test_what_an_older_tell_json_does_not_say_is_unknown(folder: Path) -> None:
    claim(folder, lambda r: [r.pop(key) for key in ("files", "order", "base_weights")])
    found = verify(folder / "out")
    unknown = {check.what for check in found.checks if check.held is None}
    assert (unknown, found.held) == ({"files", "order", "base weights"}, None)


def test_versions_that_differ_are_a_note(folder: Path) -> None:
    claim(folder, lambda r: r["versions"].update(torch="1.0"))
    found = verify(folder / "out")
    assert found.held is True
    assert found.notes == (f"torch: 1.0 then, {torch.__version__} here",)


def test_the_folder_cannot_grant_its_model_the_right_to_run_code(
    folder: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    (folder / "model" / "own.py").write_text(
        f"open({str(marker)!r}, 'w')\nfrom transformers import LlamaConfig as OwnConfig\n"
    )
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text())
    config |= {"auto_map": {"AutoConfig": "own.OwnConfig"}, "model_type": "its-own"}
    path.write_text(json.dumps(config))
    claim(folder, lambda r: r["recipe"]["model"].update(trust_remote_code=True))
    found = verify(folder / "out")
    assert "needs custom code" in next(c.reason for c in found.checks if c.what == "base")
    assert not marker.exists()


def test_what_is_no_adapter_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tell\.json is missing"):
        verify(tmp_path)
    (tmp_path / "tell.json").write_text('{"recipe": {"task": 3}}')
    with pytest.raises(RecipeError, match=r"tell\.json: `task`"):
        verify(tmp_path)


def test_provenance_says_what_rounding_depends_on(folder: Path) -> None:
    record = json.loads((folder / "out" / "tell.json").read_text())
    said = record["computed_with"]
    assert said["threads"] == torch.get_num_threads()
    assert said["precision"] == "torch.float32"
    assert said.keys() >= {"machine", "instructions", "torch", "system"}
    assert list(record["base_weights"]) == ["model.safetensors"]


def test_a_run_with_pseudo_labels_names_the_unlabeled_inputs_that_changed(
    fitted: Path,
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    toy_rows: Callable[..., Any],
) -> None:
    inputs = write_jsonl(tmp_path / "inputs.jsonl", toy_rows(range(20, 40)))
    recipe = recipe_in(fitted) | {
        "method": "sft",
        "general": None,
        "mixture": {"passes": 1},
        "pseudo_label": {"by": "tfidf"},
    }
    recipe["task"] |= {"unlabeled": str(inputs)}
    telltune.fit(recipe, tmp_path / "out", progress=False)
    assert json.loads((tmp_path / "out" / "tell.json").read_text())["levers"][0]["made"] == 20

    def held() -> dict[str, bool | None]:
        return {check.what: check.held for check in verify(tmp_path / "out").checks}

    assert held()["unlabeled data"] is True
    # The order of examples that the lever made cannot be computed again.
    assert held()["order of the examples"] is None
    write_jsonl(inputs, toy_rows(range(20, 39)))
    assert held()["unlabeled data"] is False
