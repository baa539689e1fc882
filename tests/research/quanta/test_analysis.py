"""`tell quanta` trains, records, clusters, compares and resumes on the tiny model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from telltune.data import task as task_module
from telltune.errors import DataError, RecipeError, StorageError
from telltune.research.quanta import analysis
from telltune.research.quanta.analysis import QUANTA, quanta
from telltune.research.quanta.losses import LossRecorder

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.research.quanta.report import QuantaReport

# The output layer has an adapter; otherwise so small a random model cannot learn.
pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")


@pytest.fixture
def recipe(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe with eight task examples; the reference has eighteen."""
    toy_recipe["task"]["max_tokens"] = 400
    toy_recipe["mixture"] = {"leverage_ratio": 1.0, "passes": 12}
    toy_recipe["training"]["learning_rate"] = 2e-2
    toy_recipe["lora"] |= {"rank": 8, "target_modules": ["q_proj", "v_proj", "up_proj", "lm_head"]}
    return toy_recipe


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the description of each training."""
    seen: list[str] = []
    train = analysis.train

    def spy(base: Any, recipe: Any, data: Any, options: Any) -> Any:
        seen.append(options.description.partition(":")[0])
        return train(base, recipe, data, options)

    monkeypatch.setattr(analysis, "train", spy)
    return seen


class Stopped(Exception):  # noqa: N818 - as when a machine goes down
    """Error that ends a run before its last step."""


class CutShort(LossRecorder):
    """Recorder that stops after a step, and notes the step at which each run begins."""

    after = 12
    began: ClassVar[list[int]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        self.began.append(state.global_step)
        super().on_train_begin(args, state, control, **found)

    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        super().on_step_end(args, state, control, **found)
        if state.global_step == self.after:
            raise Stopped


def run(recipe: dict[str, Any], methods: tuple[str, ...], out: Path, **more: Any) -> QuantaReport:
    settings = {"reference_tokens": 900, "clusters": 3, "moments": 6} | more
    return quanta(recipe, methods, out=out, progress=False, **settings)


@pytest.mark.usefixtures("small_batches")
def test_the_whole_way_and_again_for_another_method(
    recipe: dict[str, Any], tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load_split = task_module.load_split

    def spy(recipe: Any, split: Any, *report: Any) -> Any:
        read.append(split)
        return load_split(recipe, split, *report)

    monkeypatch.setattr(task_module, "load_split", spy)
    out = tmp_path / "out"
    first = run(recipe, ("sft_anchor",), out)
    assert trained == ["reference", "sft_anchor"]

    # 12 dev items of two or three tokens each.
    assert first.tokens["response"] == sum(
        first.tokens[why] for why in ("not_learned", "copied", "known_before", "chosen")
    )
    assert sum(quantum.tokens for quantum in first.quanta) == first.tokens["chosen"] > 12
    assert [q.tokens for q in first.quanta] == sorted(q.tokens for q in first.quanta)[::-1]
    steps = first.reference["optimizer_steps"]
    for quantum in first.quanta:
        assert quantum.start < 0.5 < 0.9 < quantum.end
        assert 0 < quantum.learned < steps
    [sft] = first.methods
    assert sft.task_tokens < first.reference["task_tokens"]
    assert len(sft.learned) == 3
    assert sft.difference == 0

    monkeypatch.setattr(analysis, "LossRecorder", CutShort)
    with pytest.raises(Stopped):
        run(recipe, ("sft_anchor", "tell"), out)
    CutShort.began.clear()
    monkeypatch.setattr(CutShort, "after", 10_000)
    again = run(recipe, ("sft_anchor", "tell"), out)
    assert trained == ["reference", "sft_anchor", "tell", "tell"]
    assert CutShort.began == [10]  # the step of its last checkpoint
    assert again.methods[0] == sft
    assert again.methods[1].general_tokens > 0
    assert json.loads((out / QUANTA).read_text())["methods"][0]["learned"] == sft.learned
    # The test split is not read, and no large file is left.
    assert set(read) == {"train", "dev"}
    assert sorted(path.suffix for path in out.iterdir()) == [".json"] * 5 + [".yaml"]


def test_other_settings_or_data_are_refused(
    recipe: dict[str, Any],
    tmp_path: Path,
    toy_task: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object) -> None:
        raise Stopped

    monkeypatch.setattr(analysis, "train", stop)
    with pytest.raises(Stopped):
        run(recipe, ("sft_anchor",), tmp_path / "out")
    with pytest.raises(StorageError, match="holds a run with moments 6, not 5"):
        run(recipe, ("sft_anchor",), tmp_path / "out", moments=5)
    with toy_task["dev"].open("a") as file:
        file.write('{"prompt": "item 99 is round", "completion": "ball"}\n')
    with pytest.raises(StorageError, match="holds a run with items 12, not 13"):
        run(recipe, ("sft_anchor",), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "methods", "more", "message"),
    [
        ({}, ("base",), {}, "`base` has no training to record"),
        ({}, (), {}, "no method is named"),
        ({}, ("tell",), {"reference_tokens": 300}, "the reference has .* task tokens"),
        ({"dev": None}, ("tell",), {}, "add `task.dev`"),
        ({}, ("tell",), {"clusters": 1}, "clusters is 1; give a whole number of at least 2"),
    ],
)
def test_what_cannot_be_run_is_refused_before_training(
    recipe: dict[str, Any],
    tmp_path: Path,
    trained: list[str],
    change: dict[str, Any],
    methods: tuple[str, ...],
    more: dict[str, Any],
    message: str,
) -> None:
    recipe["task"] |= change
    with pytest.raises(RecipeError, match=message):
        run(recipe, methods, tmp_path / "out", **more)
    assert trained == []


def test_a_reference_that_learned_too_little_says_so(
    recipe: dict[str, Any], tmp_path: Path, trained: list[str]
) -> None:
    recipe["mixture"]["passes"] = 1
    with pytest.raises(DataError, match=r"too few held-out tokens for 3 clusters .*not learned"):
        run(recipe, ("tell",), tmp_path / "out")
    assert trained == ["reference"]
