"""SELF-GUIDE runs on the tiny model, whose random texts pass if the filters are wide."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from telltune.api import fit, predict
from telltune.data.examples import Example
from telltune.errors import DataError, RecipeError
from telltune.fitting.adapter_folder import load_predictor
from telltune.recipe import SynthesisSpec
from telltune.study.synthetic_file import SYNTHETIC, write_synthetic
from telltune.synthesis import self_guide, synthesize

if TYPE_CHECKING:
    from pathlib import Path

# Texts of any length, each with its own answer.
DEMONSTRATIONS = [Example("x", "y"), Example("x " * 12, "y " * 12), Example("z", "z")]
WIDE = SynthesisSpec(examples=40, rounds=3, samples=2, shots=2, consistency=0.5)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache, without the examples of other tests."""
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))


def test_a_seed_makes_the_same_again_and_nothing_is_lost(tiny_base: Any) -> None:
    made = synthesize(tiny_base, DEMONSTRATIONS, "Do it.", WIDE, seed=1)
    told = made.told
    assert 0 < told.kept == len(made.examples) <= 40
    assert told.inputs == told.rounds * 32
    assert told.inputs == told.answered + sum(told.refused_inputs.values())
    # The last round may yield more than requested.
    assert told.answered - sum(told.refused_answers.values()) >= told.kept
    prompts = [example.prompt for example in made.examples]
    assert len(set(prompts)) == len(prompts)
    assert all(0.5 <= example.confidence <= 1 for example in made.examples)
    other = synthesize(tiny_base, DEMONSTRATIONS, "Do it.", WIDE, seed=2)
    assert {e.prompt for e in other.examples} != set(prompts)


def test_what_was_cut_short_goes_on_with_the_round_where_it_was(
    tiny_base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = synthesize(tiny_base, DEMONSTRATIONS, "Do it.", WIDE)
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "another"))
    asked: list[int] = []
    generate = self_guide._Writer._generate

    def cut(self: Any, requests: Any, longest: int, temperature: float, number: int) -> Any:
        asked.append(number)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return generate(self, requests, longest, temperature, number)

    monkeypatch.setattr(self_guide._Writer, "_generate", cut)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tiny_base, DEMONSTRATIONS, "Do it.", WIDE)
    assert synthesize(tiny_base, DEMONSTRATIONS, "Do it.", WIDE) == whole
    # Inputs of a round, and two samples of its answers; the second ones are made again.
    assert asked[:7] == [0, 0, 1, 1, 2, 2, 3]


def test_all_refused_is_an_error_that_names_the_filter(tiny_base: Any) -> None:
    labels = [Example(f"item {n}", "ball") for n in range(3)]
    spec = SynthesisSpec(rounds=1, samples=2, consistency=1)
    with pytest.raises(
        DataError, match=r"kept no examples: 0 examples from 32 inputs.*(length|label)"
    ):
        synthesize(tiny_base, labels, "Name it.", spec)
    with pytest.raises(DataError, match="there are 1; add more"):
        synthesize(tiny_base, labels[:1], "Name it.", spec)


@pytest.fixture
def free(toy_recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Return a recipe with the demonstrations above."""
    rows = [{"prompt": e.prompt, "completion": e.completion} for e in DEMONSTRATIONS]
    train = tmp_path / "free.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    toy_recipe["task"]["train"] = str(train)
    toy_recipe["training"]["max_length"] = 512
    return toy_recipe | {"synthesis": WIDE.model_dump(exclude={"use_as"})}


@pytest.mark.parametrize("use_as", ["task", "general", "third", "only"])
def test_a_run_uses_them_where_the_recipe_says(
    free: dict[str, Any], tmp_path: Path, use_as: str
) -> None:
    made = write_synthetic(free, out=tmp_path / "made", progress=False)
    file = tmp_path / "made" / SYNTHETIC
    assert len(file.read_text().splitlines()) == len(made.examples) == made.told.kept
    recipe = free | {"method": "self_guide" if use_as == "only" else "tell"}
    recipe["synthesis"] |= {"use_as": use_as}
    plain = fit(free | {"synthesis": None}, tmp_path / "plain", progress=False).record["counts"]
    record = fit(recipe, tmp_path / "out", progress=False).record
    counts = record["counts"]
    kept = len(made.examples)
    task, general = {
        "task": (3 + kept, plain["general_examples"]),
        "general": (3, kept),
        "third": (3, plain["general_examples"] + kept),
        "only": (kept, 0),
    }[use_as]
    assert (counts["task_examples"], counts["general_examples"]) == (task, general)
    shots = load_predictor(tmp_path / "out").shots
    assert len(shots) == (4 if use_as == "only" else 0)
    assert len(predict(tmp_path / "out", ["x"])) == 1


def test_a_method_that_mixes_nothing_takes_none_beside_general_data(
    free: dict[str, Any], tmp_path: Path
) -> None:
    recipe = free | {"method": "sft"}
    recipe["synthesis"] |= {"use_as": "third"}
    with pytest.raises(RecipeError, match="set `task` or `only`"):
        fit(recipe, tmp_path / "out", progress=False)
