"""Auxiliary tasks on the tiny model: repeated questions, kept answers, training data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from telltune.api import fit
from telltune.data.anchor import Anchor
from telltune.data.examples import Example
from telltune.data.task import TaskData
from telltune.errors import DataError
from telltune.inference.writer import Writer
from telltune.levers import auxiliary
from telltune.levers.auxiliary import Auxiliary, Chain, auxiliary_examples, refine
from telltune.recipe import SynthesisSpec
from telltune.study.synthetic_file import SYNTHETIC, write_synthetic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPES = ("ball", "box")
EXAMPLES = [Example(f"item {n}", SHAPES[n % 2], "items", f"items:{n}") for n in range(6)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache, without the examples of other tests."""
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("short_chains")
def test_only_wrong_chains_are_asked_again_and_the_likeliest_is_kept(tiny_base: Any) -> None:
    chains, seconds = refine(Writer(tiny_base), EXAMPLES, "Name it.", seed=3)
    assert len(chains) == len(EXAMPLES)
    for chain in chains:
        assert 1 <= chain.attempts <= auxiliary._ATTEMPTS
        # With two labels, agreement is likely.
        assert chain.agreed == (chain.likelihood > 0.5)
    # Cached attempts count with their original time.
    again, as_before = refine(Writer(tiny_base), EXAMPLES, "Name it.", seed=3)
    assert again == chains
    assert as_before == pytest.approx(seconds, rel=0.2)
    task = TaskData("items", tuple(EXAMPLES), (), Anchor("Name it."), ())
    got = Auxiliary(SynthesisSpec(make="auxiliary")).make(task, tiny_base, seed=3)
    assert got.notes[0].startswith(f"{sum(chain.agreed for chain in chains)} of 6 chains end in")
    assert got.asked == len(got.examples) + sum(got.refused.values()) == 12
    # A random model prefers one label, so some are right at once and some are asked again.
    assert {chain.attempts == 1 for chain in chains if chain.agreed} >= {True}


def test_examples_say_what_decides_and_how_far_to_trust_it() -> None:
    chains = [Chain("round", "it rolls", 0.8, 1, True), Chain("", "a box", 0.2, 10, False)]
    evidence, reason, other = auxiliary_examples(EXAMPLES[:2], chains)
    assert evidence.prompt.startswith("item 0\n\nWhich words")
    assert (evidence.completion, evidence.source) == ("round", "auxiliary: evidence")
    assert (reason.completion, reason.source) == ("it rolls", "auxiliary: reason")
    assert [e.confidence for e in (evidence, reason, other)] == pytest.approx([0.9, 0.9, 0.6])
    assert (other.completion, other.origin) == ("a box", "items:1")


def test_free_text_has_no_auxiliary_tasks(tiny_base: Any) -> None:
    with pytest.raises(DataError, match="need a closed set"):
        refine(Writer(tiny_base), [Example("a", "b"), Example("c", "d")], "Do it.")


@pytest.mark.usefixtures("short_chains")
def test_a_run_trains_on_them_as_sources_of_their_own(
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    toy_rows: Callable[..., Any],
) -> None:
    toy_recipe["task"]["train"] = str(write_jsonl(tmp_path / "few.jsonl", toy_rows(range(9))))
    recipe = toy_recipe | {"method": "tell_auxiliary", "mixture": {"passes": 1}}
    made = write_synthetic(
        toy_recipe | {"synthesis": {"make": "auxiliary"}}, out=tmp_path / "made", progress=False
    )
    assert len((tmp_path / "made" / SYNTHETIC).read_text().splitlines()) == len(made.examples)
    record = fit(recipe, tmp_path / "out", progress=False).record
    assert record["counts"]["task_examples"] == 9 + len(made.examples)
    assert record["labels"] == ["ball", "box", "sheet"]
    assert record["levers"][0]["made"] == len(made.examples)
    log = (tmp_path / "out" / "training_log.jsonl").read_text().splitlines()[-1]
    assert "weight_task: auxiliary: reason" in log
