"""The sentences about a comparison hold for its rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from telltune.study.compare import ComparisonRow
from telltune.study.conclusion import best_trained, conclusion


def row(method: str, score: float, **more: Any) -> ComparisonRow:
    values = {"low": score - 6, "high": score + 6, "metric": "accuracy", "task_tokens": 2700}
    values |= {"general_tokens": 0, "seconds": 90.0, "items": 200}
    return ComparisonRow(method, score, **(values | more))


BASE = row("base", 0.0, general_loss=1.91, leakage=0.0)
SFT = row("sft", 61.0, general_loss=3.33, leakage=0.94)
BETTER = row(
    *("tell_pseudo_label", 69.0),
    unlabeled_examples=1470,
    general_loss=1.69,
    leakage=0.0,
    difference_low=1.5,
)


def test_gain_quick_baseline_and_what_was_forgotten_are_told() -> None:
    quick = row("encoder_em", 66.5, seconds=4.2)
    rows = [BASE, quick, replace(SFT, drift=2.31), replace(BETTER, drift=0.05)]
    gain, seconds, forgotten, drifted, leaked = conclusion(rows)
    assert gain == (
        "tell_pseudo_label scores 69.0 with 2,700 labeled tokens and 1,470 unlabeled inputs, sft "
        "61.0 with 2,700 labeled tokens: a clear gain."
    )
    assert seconds == (
        "The baseline encoder_em scores 66.5 after 4 s; for this task alone, an adapter may not be "
        "needed."
    )
    assert forgotten == (
        "Forgetting: the loss on held-out general examples is 1.91 (base), 3.33 (sft), 1.69 "
        "(tell_pseudo_label)."
    )
    assert drifted == (
        "On the base's own answers to everyday prompts, which no training data contain, it rises "
        "by 2.31 (sft), 0.05 (tell_pseudo_label)."
    )
    assert leaked == (
        "Unrelated prompts answered in the task's format: 94% (sft), 0% (tell_pseudo_label)."
    )
    assert best_trained([BASE, quick, SFT, BETTER]) is BETTER


@pytest.mark.parametrize("low", [-2.0, 0.0, None])
def test_a_difference_that_may_be_chance_is_called_none(low: float | None) -> None:
    [said] = conclusion([SFT, row("tell", 63.0, difference_low=low)])
    assert said.endswith("no clear difference on these items.")


def test_sft_may_be_the_best_and_a_baseline_clearly_worse() -> None:
    best, quick = conclusion([row("tfidf_linear", 24.0), SFT, row("tell", 60.0)])
    assert best == "No other trained method scores higher than sft (61.0)."
    assert quick == "The baseline tfidf_linear scores 24.0 after 90 s, less than sft."


def test_nothing_is_concluded_from_perplexities_or_without_training() -> None:
    perplexed = [row(name, 3.0, metric="perplexity") for name in ("sft", "tell")]
    assert (conclusion(perplexed), best_trained(perplexed)) == ([], None)
    assert (conclusion([BASE]), best_trained([BASE])) == ([], None)
