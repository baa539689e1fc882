"""Summary of a comparison in a few sentences: gain, fast baselines and forgetting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from telltune.evaluation.score import PERPLEXITY
from telltune.methods.baselines import Baseline
from telltune.methods.registry import get_method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.study.compare import ComparisonRow


def best_trained(rows: Sequence[ComparisonRow]) -> ComparisonRow | None:
    """Return the row of the trained method with the highest score; the first of equals.

    Return None if no method was trained or the score is a perplexity.
    """
    trained = [row for row in _trained(rows) if row.metric != PERPLEXITY]
    return max(trained, key=lambda row: row.score, default=None)


def conclusion(rows: Sequence[ComparisonRow]) -> list[str]:
    """Return the findings of a comparison as sentences."""
    best, said = best_trained(rows), []
    sft = next((row for row in rows if row.method == "sft"), None)
    if best is not None and sft is not None:
        said.append(_gain(best, sft))
    quick = [row for row in rows if isinstance(get_method(row.method), Baseline)]
    if best is not None and quick:
        said.append(_quick(max(quick, key=lambda row: row.score), best))
    return [*said, *_forgotten(rows)]


def _trained(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    return [row for row in rows if get_method(row.method).trains]


def _gain(best: ComparisonRow, sft: ComparisonRow) -> str:
    if best is sft:
        return f"No other trained method scores higher than sft ({sft.score:.1f})."
    told = f"{best.method} scores {best.score:.1f} with {best.task_tokens:,} labeled tokens"
    if best.unlabeled_examples:
        told += f" and {best.unlabeled_examples:,} unlabeled inputs"
    told += f", sft {sft.score:.1f} with {sft.task_tokens:,} labeled tokens"
    clear = best.difference_low is not None and best.difference_low > 0
    return f"{told}: {'a clear gain' if clear else 'no clear difference on these items'}."


def _quick(quick: ComparisonRow, best: ComparisonRow) -> str:
    told = f"The baseline {quick.method} scores {quick.score:.1f} after {quick.seconds:,.0f} s"
    if quick.high < best.score:
        return f"{told}, less than {best.method}."
    return f"{told}; for this task alone, an adapter may not be needed."


def _forgotten(rows: Sequence[ComparisonRow]) -> list[str]:
    known = [row for row in rows if row.general_loss is not None]
    base, trained = [row for row in known if row.method == "base"], _trained(known)
    if not base or not trained:
        return []
    losses = ", ".join(f"{row.general_loss:.2f} ({row.method})" for row in (*base, *trained))
    leaks = [f"{row.leakage:.0%} ({row.method})" for row in trained if row.leakage is not None]
    said = [f"Forgetting: the loss on held-out general examples is {losses}."]
    drifts = [f"{row.drift:.2f} ({row.method})" for row in trained if row.drift is not None]
    if drifts:
        said.append(
            "On the base's own answers to everyday prompts, which no training data contain, it "
            f"rises by {', '.join(drifts)}."
        )
    if leaks:
        said.append(f"Unrelated prompts answered in the task's format: {', '.join(leaks)}.")
    return said
