"""Time breakdown of a study, with its share of overhead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.study.results import ResultRow

__all__ = ["TimeBreakdown", "time_spent"]


@dataclass(frozen=True)
class TimeBreakdown:
    """Time breakdown of a study, in seconds.

    The time of a cell is measured from its start to its row. Work with rows under two names counts
    once. Time between cells (reading the study and its data, writing rows and this summary) and
    unfinished work of killed processes are not included.

    Attributes:
        training: Optimizer steps from first to last, including logging and checkpoints.
        answering: Answers to the test items: reading prompts and decoding answers.
        general: Losses on and answers to held-out general examples, before and after training.
        other: Rest of finished cells: loading the base (once per process), tokenizing, sampling the
            model's own responses (once for all cells), creating and saving adapters, scoring with
            the bootstrap, and the perplexity if it is a metric.
        failed: Total time of cells without a score; not part of the overhead.
        overhead: `other` as a share of the time of finished cells.
    """

    training: float
    answering: float
    general: float
    other: float
    failed: float
    overhead: float

    @property
    def finished(self) -> float:
        """Total time of finished cells."""
        return self.training + self.answering + self.general + self.other


def time_spent(rows: Sequence[ResultRow]) -> TimeBreakdown:
    """Add up the time of a study's cells."""
    work = {row.key: row for row in rows}.values()
    done = [row.seconds for row in work if row.status == "done"]
    phases = ("training", "answering", "general", "other")
    by_phase = {phase: sum(seconds[phase] for seconds in done) for phase in phases}
    return TimeBreakdown(
        **by_phase,
        failed=sum(sum(row.seconds.values()) for row in work if row.status == "failed"),
        overhead=by_phase["other"] / sum(by_phase.values()),
    )
