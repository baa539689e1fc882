"""What a study has found so far: one typed row a cell, in a file that only grows."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from telltune.errors import StorageError
from telltune.storage import writing

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.data.task import Split
    from telltune.study.spec import Cell

__all__ = ["ANSWERS", "RESULTS", "Results", "Row", "cell_key", "is_finished", "read_answers"]

RESULTS = "results.jsonl"
ANSWERS = "answers"
"""Folder with a file of answers a cell."""


@dataclass(frozen=True)
class Row:
    """A finished or failed cell.

    Attributes:
        key: Of the cell's recipe and data: the same key is the same work.
        status: Whether there are scores.
        task: The task's name.
        method: The method's name in recipes.
        name: Its name in tables.
        size: Task tokens that it might use; None where it uses no task data.
        leverage_ratio: That was asked for; None where the method does not mix.
        seed: Of the draw, the order and the adapter.
        split: Whose items were answered.
        reason: Why a cell failed.
        metric: The headline metric.
        scores: By metric: score, low, high.
        per_item: By metric: one score an item.
        warnings: Why the scores may not mean what they seem to; one sentence each.
        counts: Task and general tokens, steps, trained tokens: what the method used.
        forgetting: What became of general examples, and whether the task leaks.
        seconds: Of training, answering, the general examples, and the rest.
        curve: Training loss as lists of one length: `step`, and for each source (`task`,
            `general`) the mean loss a token since the point before, None where it had no turn.
            Thinned to at most 60 points; empty where nothing was trained.
        hashes: Of the task's training and test data, the general data, the base model.
        versions: Of telltune, its code, and the libraries.
        recipe: In full.
    """

    key: str
    status: Literal["done", "failed"]
    task: str
    method: str
    name: str
    size: int | None
    leverage_ratio: float | None
    seed: int
    split: Split = "test"
    reason: str = ""
    metric: str = ""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    per_item: dict[str, list[float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    forgetting: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    curve: dict[str, list[float | None]] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Of the headline metric."""
        return self.scores[self.metric]["score"]


def cell_key(cell: Cell, hashes: dict[str, str]) -> str:
    """A name for the work of a cell: the same for the same recipe on the same data and base.

    Where files lie does not count, only what they say; so a study can move to another machine.

    Args:
        cell: Which.
        hashes: Of its data and its base.
    """
    # A key that is not given is left out, so that one which a later telltune adds changes nothing.
    recipe = cell.recipe.model_dump(mode="json", exclude_none=True)
    for part in ("train", "dev", "test", "embedded", "unlabeled"):
        recipe["task"].pop(part, None)
    recipe.pop("general", None)
    recipe.pop("model")
    work = {"recipe": recipe, "hashes": hashes}
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:16]


def read_answers(folder: Path, row: Row) -> list[dict[str, Any]]:
    """What a finished cell answered, item by item, as `write_predictions` wrote it.

    Args:
        folder: Of the study.
        row: The cell's.

    Raises:
        StorageError: The file cannot be read.
    """
    path = folder / ANSWERS / f"{row.key}.jsonl"
    try:
        # Not `splitlines`: answers may hold other line ends, such as U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path}: the answers of a finished cell cannot be read ({error}); remove its row "
            f"({row.key}) from {RESULTS} and run the study again."
        ) from None


class Results:
    """The rows of a study's folder.

    Args:
        folder: Made with the first row.

    Raises:
        StorageError: A row cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RESULTS
        self._by_key: dict[str, Row] = {}
        self._latest: dict[tuple[Any, ...], Row] = {}
        if not self.path.exists():
            return
        with writing(self.path):
            lines = self.path.read_bytes().split(b"\n")
        # A process that was killed in the midst of a row leaves a part of it, without its end.
        *whole, torn = lines
        for number, line in enumerate(whole, 1):
            self._keep(self._row(number, line))
        if torn:
            with writing(self.path), self.path.open("r+b") as file:
                file.truncate(sum(len(line) + 1 for line in whole))

    def append(self, row: Row) -> None:
        """Write a row so that it is on the disk before this returns.

        Raises:
            StorageError: The disk refuses.
        """
        line = json.dumps(asdict(row), ensure_ascii=False) + "\n"
        with writing(self.path, needed=len(line)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        self._keep(row)

    @property
    def rows(self) -> list[Row]:
        """The latest of each cell: an edited one stands for what it was before."""
        return list(self._latest.values())

    def find(self, cell: Cell, key: str) -> Row | None:
        """The latest row of a cell's work, under whatever name; of an earlier edit, perhaps."""
        named = self._latest.get(_place(cell))
        return named if named is not None and named.key == key else self._by_key.get(key)

    def is_latest(self, cell: Cell, row: Row) -> bool:
        """Whether a row is the one that `rows` has for a cell."""
        return self._latest.get(_place(cell)) is row

    def _keep(self, row: Row) -> None:
        self._by_key[row.key] = self._latest[_place(row)] = row

    def _row(self, number: int, line: bytes) -> Row:
        try:
            values = json.loads(line)
            return Row(**{f.name: values[f.name] for f in fields(Row) if f.name in values})
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{self.path}:{number}: no row of a study ({error}); mend or remove the line."
            ) from None


def is_finished(row: Row, *, aside: bool) -> bool:
    """Whether a cell need not be run again.

    Args:
        row: The cell's.
        aside: Whether the study asks about general examples: a row of an earlier edit, which had no
            general data, says nothing of them.
    """
    return row.status == "done" and (bool(row.forgetting) or not aside)


def _place(cell: Cell | Row) -> tuple[Any, ...]:
    """Where it stands in tables."""
    return (cell.task, cell.name, cell.size, cell.leverage_ratio, cell.seed)
