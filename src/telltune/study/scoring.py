"""Scores of answered cells, and rows of failed ones; neither needs the model."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.clock import clock
from telltune.errors import TellError
from telltune.evaluation.score import (
    Answers,
    write_predictions,
)
from telltune.masking import masked
from telltune.storage import write_text
from telltune.study.results import ANSWERS, ResultRow

if TYPE_CHECKING:
    from telltune.data.examples import Example

FAILURES = "failures"


@dataclass(frozen=True)
class Answered:
    """A cell with answers that are not scored yet; scoring does not need the model."""

    row: ResultRow
    answers: Answers
    items: list[Example]
    confidence: float


def score_cell(found: Answered, out: Path, answers: str = ANSWERS) -> ResultRow:
    """Score a cell's answers and write them to `out/answers`; a failure also returns a row."""
    began = clock()
    row = found.row
    try:
        evaluation = found.answers.score(found.confidence, row.seed)
        write_predictions(out / answers / f"{row.key}.jsonl", found.items, evaluation)
    except Exception as error:
        title = f"{row.task}, {row.name}, seed {row.seed}"
        return failed_row(replace(row, status="failed"), error, began, out, title)
    nll = found.answers.nll
    seconds = row.seconds | {"other": row.seconds["other"] + clock() - began}
    return replace(
        row,
        scores=evaluation.to_dict()["scores"],
        per_item={k: [round(v, 4) for v in rows] for k, rows in evaluation.per_item.items()},
        reference_tokens=[] if nll is None else nll[1].astype(int).tolist(),
        warnings=list(evaluation.warnings),
        seconds={phase: round(spent, 2) for phase, spent in seconds.items()},
    )


def failed_row(row: ResultRow, error: Exception, began: float, out: Path, title: str) -> ResultRow:
    """Return the row of a cell that failed with an error, and write the traceback to `out`."""
    write_text(out / FAILURES / f"{row.key}.txt", masked(traceback.format_exc()))
    kind = "" if isinstance(error, TellError) else f"{type(error).__name__}: "
    logging.getLogger(__name__).warning("%s failed: %s%s", title, kind, error)
    seconds = {"other": clock() - began}
    return replace(row, reason=masked(f"{kind}{error}"), seconds=seconds)
