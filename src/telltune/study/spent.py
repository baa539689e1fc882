"""Where a study's time went, and how much of it was overhead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.study.results import Row

__all__ = ["Spent", "time_spent"]


@dataclass(frozen=True)
class Spent:
    """Where a study's time went, in seconds.

    A cell's time is that from its start to its row. Work that has a row under two names counts
    once. What is between cells (reading the study and its data, writing rows and this summary) and
    what a killed process did not finish has no row, and is not in it.

    Attributes:
        training: Optimizer steps from first to last, with their log and checkpoints.
        answering: Answers to the test items: the prompts' tokens and the decoding of answers.
        general: Losses of and answers to held-out general examples, before and after training.
        other: The rest of finished cells: loading the base (once a process), tokenizing, sampling
            the model's own responses (once for all cells), setting adapters up and saving them,
            scoring with its bootstrap and, where that is a metric, the perplexity.
        failed: Cells without a score, whatever they spent it on; not part of the overhead.
        overhead: `other` as a share of all that finished cells took.
    """

    training: float
    answering: float
    general: float
    other: float
    failed: float
    overhead: float

    @property
    def finished(self) -> float:
        """Of finished cells, in all."""
        return self.training + self.answering + self.general + self.other


def time_spent(rows: Sequence[Row]) -> Spent:
    """Add up the time of a study's cells.

    Args:
        rows: Of the study; one at least is finished.
    """
    work = {row.key: row for row in rows}.values()
    done = [row.seconds for row in work if row.status == "done"]
    phases = ("training", "answering", "general", "other")
    by_phase = {phase: sum(seconds[phase] for seconds in done) for phase in phases}
    return Spent(
        **by_phase,
        failed=sum(sum(row.seconds.values()) for row in work if row.status == "failed"),
        overhead=by_phase["other"] / sum(by_phase.values()),
    )
