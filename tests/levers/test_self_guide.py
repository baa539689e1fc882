"""SELF-GUIDE runs on the tiny model, whose random texts pass if the filters are wide."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from telltune.answering import predict
from telltune.api import fit, plan
from telltune.cli import app
from telltune.data.anchor import Anchor
from telltune.data.examples import Example
from telltune.data.task import TaskData
from telltune.errors import DataError, RecipeError
from telltune.fitting.adapter_folder import load_predictor
from telltune.inference import writer
from telltune.levers import self_guide
from telltune.levers.self_guide import SelfGuide
from telltune.recipe import SynthesisSpec
from telltune.study.synthetic_file import SYNTHETIC, write_synthetic

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.levers.protocol import Yield

# Texts of any length, each with its own answer.
DEMONSTRATIONS = [Example("x", "y"), Example("x " * 6, "y " * 6), Example("z", "z")]
WIDE = SynthesisSpec(examples=40, rounds=2, samples=2, shots=2, consistency=0.5)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache, without the examples of other tests."""
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))


def make(
    base: Any,
    spec: SynthesisSpec = WIDE,
    seed: int = 0,
    demonstrations: Sequence[Example] = DEMONSTRATIONS,
    ask: str = "Do it.",
) -> Yield:
    task = TaskData("toy", tuple(demonstrations), (), Anchor(ask), ())
    return SelfGuide(spec).make(task, base, seed=seed)


def test_a_seed_makes_the_same_again_and_nothing_is_lost(tiny_base: Any) -> None:
    made = make(tiny_base, seed=1)
    assert 0 < len(made.examples) <= 40
    assert made.asked % 32 == 0
    assert made.asked == len(made.examples) + sum(made.refused.values())
    prompts = [example.prompt for example in made.examples]
    assert len(set(prompts)) == len(prompts)
    assert all(0.5 <= example.confidence <= 1 for example in made.examples)
    again = make(tiny_base, seed=1)
    assert again == made
    # Cached texts count with the time that writing them took.
    assert again.seconds > 0.5 * made.seconds
    assert {e.prompt for e in make(tiny_base, seed=2).examples} != set(prompts)


def test_what_was_cut_short_goes_on_with_the_round_where_it_was(
    tiny_base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(tiny_base)
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "another"))
    asked: list[int] = []
    generate = self_guide._Rounds._generate

    def cut(self: Any, requests: Any, longest: int, temperature: float, number: int) -> Any:
        asked.append(number)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return generate(self, requests, longest, temperature, number)

    monkeypatch.setattr(self_guide._Rounds, "_generate", cut)
    with pytest.raises(KeyboardInterrupt):
        make(tiny_base)
    assert make(tiny_base) == whole
    # Inputs of a round, and two samples of its answers; the second ones are made again.
    assert asked == [0, 0, 1, 1, 2, 2, 3]


def test_answers_that_samples_agree_on_are_right_and_others_are_refused(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The language model's texts are given.
    shapes = {"round": "ball", "square": "box"}
    written = [f"thing {n} is {kind}" for n in range(14) for kind in shapes]
    texts = [*written, written[0], "", "odd thing is odd", "odd thing is even"]

    def say(base: Any, prompts: Any, *, temperature: float, seed: int, **_: object) -> list[str]:
        if temperature == WIDE.temperature:
            return texts
        kinds = [re.findall(r"is (\w+)", base.tokenizer.decode(ids))[-1] for ids in prompts]
        # Each input is answered twice; the answers to odd things differ.
        return [shapes.get(kind, ("ball", "box")[seed % 2]) for kind in kinds]

    monkeypatch.setattr(writer, "sample_texts", say)
    known = [
        Example(f"item {n} is {kind}", shape) for n in range(3) for kind, shape in shapes.items()
    ]
    strict = WIDE.model_copy(update={"rounds": 1, "consistency": 1.0})
    made = make(tiny_base, strict, demonstrations=known)
    assert [(e.prompt, e.completion) for e in made.examples] == [
        (text, shapes[text.split()[-1]]) for text in written
    ]
    assert {e.confidence for e in made.examples} == {1.0}
    assert made.refused == {"answer: inconsistent": 2, "input: duplicate": 1, "input: empty": 1}


def test_all_refused_is_an_error_that_names_the_filter(tiny_base: Any) -> None:
    labels = [Example(f"item {n}", "ball") for n in range(3)]
    spec = SynthesisSpec(rounds=1, samples=2, consistency=1)
    with pytest.raises(
        DataError, match=r"kept no examples: 0 examples from 32 inputs.*(length|label)"
    ):
        make(tiny_base, spec, demonstrations=labels, ask="Name it.")
    with pytest.raises(DataError, match="there are 1; add more"):
        make(tiny_base, spec, demonstrations=labels[:1])


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def free(
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    shared_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """Return a recipe with the demonstrations above, whose texts are written for its first run."""
    monkeypatch.setenv("TELLTUNE_CACHE", str(shared_cache))
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
    assert json.loads((tmp_path / "made" / "yield.json").read_text()) == made.to_dict()
    file = tmp_path / "made" / SYNTHETIC
    assert len(file.read_text().splitlines()) == len(made.examples)
    recipe = free | {"method": "self_guide" if use_as == "only" else "tell"}
    recipe["synthesis"] |= {"use_as": use_as}
    plain = plan(free | {"synthesis": None}, measure=False)
    record = fit(recipe, tmp_path / "out", progress=False).record
    counts = record["counts"]
    kept = len(made.examples)
    [told] = record["levers"]
    assert told | {"seconds": 0} == made.to_dict() | {"seconds": 0}
    rows = [json.loads(x) for x in (tmp_path / "out" / "made.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [example.prompt for example in made.examples]
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


@pytest.mark.parametrize("use_as", ["task", "third"])
def test_a_control_with_tells_steps_counts_general_and_made_data(
    free: dict[str, Any], tmp_path: Path, use_as: str
) -> None:
    recipe = free | {"mixture": {"general_examples": 40, "passes": 1}}
    recipe["synthesis"] |= {"use_as": use_as}
    tell, control = (
        fit(recipe | {"method": name}, tmp_path / name, progress=False).record["counts"]
        for name in ("tell", "sft_anchor_steps")
    )
    each = -(-control["task_examples"] // recipe["training"]["batch_size"])
    assert control["general_examples"] == 0
    assert control["passes"] > 1
    assert abs(tell["optimizer_steps"] - control["optimizer_steps"]) <= each / 2


def test_a_method_that_mixes_nothing_takes_none_beside_general_data(
    free: dict[str, Any], tmp_path: Path
) -> None:
    recipe = free | {"method": "sft"}
    recipe["synthesis"] |= {"use_as": "third"}
    with pytest.raises(RecipeError, match="set `task` or `only`"):
        fit(recipe, tmp_path / "out", progress=False)


def test_the_commands_say_what_was_made_and_what_was_refused(
    free: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "free.yaml"
    path.write_text(yaml.safe_dump(free | {"method": "sft"}))

    def tell(*arguments: str) -> str:
        ran = CliRunner().invoke(app, [arguments[0], str(path), *arguments[1:]])
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    said = tell("synthesize", "--out", str(tmp_path / "made"))
    told = json.loads(tell("synthesize", "--out", str(tmp_path / "made"), "--json"))
    found = f"{told['made']} examples from {told['asked']} inputs; refused: "
    assert f"{tmp_path / 'made' / SYNTHETIC}: {found}" in said
    assert said.endswith(". Inputs were written in 2 rounds.\n")
    assert f"synthesis: {found}" in tell("fit", "--out", str(tmp_path / "run"))
