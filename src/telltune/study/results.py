"""Results of a study: one typed row per cell in an append-only file."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from telltune.errors import StorageError
from telltune.storage import (
    json_text,
    jsonl_lines,
    or_nan,
    read_cached_json,
    write_json,
    writing,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from telltune.data.files import Split
    from telltune.study.spec import Cell

RESULTS, CELLS = "results.jsonl", "cells.json"
ANSWERS, PREDICTIONS = "answers", "predictions"
"""Folders with one file of answers per cell: in a study's folder, and in a comparison's."""


@dataclass(frozen=True)
class ResultRow:
    """A finished or failed cell.

    Attributes:
        key: Hash of the cell's recipe and data; equal keys are equal work.
        status: "done" if the cell has scores, else "failed".
        task: Name of the task.
        method: Name of the method in recipes.
        name: Name of the method in tables.
        size: Maximum number of task tokens; None if the method uses no task data.
        leverage_ratio: Requested leverage ratio; None if the method does not mix.
        seed: Seed of the data draw, the order and the adapter.
        split: Split whose items were answered.
        reason: Reason of a failure.
        metric: Name of the headline metric.
        scores: `score`, `low` and `high` by metric.
        per_item: One score per item, by metric.
        reference_tokens: Number of tokens of each reference, which weights the item's perplexity;
            empty if perplexity is not a metric.
        warnings: Reasons why the scores may be misleading; one sentence each.
        counts: Counts of task tokens, general tokens, steps and trained tokens.
        forgetting: Fields of `Forgetting` and `Drift`, before and after training.
        seconds: Seconds of training, answering, forgetting measurements (`general`) and the rest.
        curve: Training loss as lists of equal length: `step`, and for each source (`task`,
            `general`) the mean loss per token since the previous point, None if it had no tokens.
            Thinned to at most 60 points; empty if nothing was trained.
        hashes: Hashes of the data that the cell reads, and of the base model, and the numbers of
            its forgetting measurements.
        versions: Versions of telltune, its code, and its libraries.
        recipe: Complete recipe.
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
    reference_tokens: list[int] = field(default_factory=list)
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
        """Score by the headline metric."""
        return self.scores[self.metric]["score"]


_ADDED = {
    "lora": ("use_dora", "use_rslora", "init", "rank_pattern", "alpha_pattern"),
    "synthesis": ("by",),
}
"""Keys that first rows of studies lack, with another default than None."""


def cell_key(cell: Cell, hashes: dict[str, str]) -> str:
    """Return a key for the work of a cell: equal for the same recipe, data and base.

    The key depends on the content of files, not on their paths, so a study can move to another
    machine.
    """
    # Keys added in later versions do not change the hash if they are not set.
    recipe = cell.recipe.model_dump(mode="json", exclude_none=True)
    for section, names in _ADDED.items():
        given = getattr(cell.recipe, section)
        for name in names if given is not None else ():
            default = type(given).model_fields[name].get_default(call_default_factory=True)
            if getattr(given, name) == default:
                del recipe[section][name]
    for part in ("train", "dev", "test", "embedded", "unlabeled"):
        recipe["task"].pop(part, None)
    recipe.pop("general", None)
    recipe.pop("model")
    # Fast paths and trackers do not change what a cell learns.
    for part in ("kernels", "use_liger_kernel", "torch_compile", "deepspeed", "report_to"):
        recipe["training"].pop(part, None)
    work = {"recipe": recipe, "hashes": hashes}
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:16]


def read_answers(folder: Path, key: str) -> list[dict[str, Any]]:
    """Read the answers of a finished cell, one dictionary per item; see `write_predictions`.

    Raises:
        StorageError: The file cannot be read.
    """
    path = folder / f"{key}.jsonl"
    try:
        return [json.loads(line) for line in jsonl_lines(path)]
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path}: the answers of a finished cell cannot be read ({error}); remove its row "
            f"({key}) and run again."
        ) from None


class Results:
    """Rows of a study's folder.

    Raises:
        StorageError: A row cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RESULTS
        self._by_key: dict[str, ResultRow] = {}
        self._latest: dict[tuple[Any, ...], ResultRow] = {}
        self._items: dict[str, str] = {}  # hash of the test items of a task's latest finished row
        if not self.path.exists():
            return
        with writing(self.path):
            lines = self.path.read_bytes().split(b"\n")
        # A process that was killed while writing leaves an incomplete last row.
        *whole, torn = lines
        for number, line in enumerate(whole, 1):
            self._keep(self._row(number, line))
        if torn:
            with writing(self.path), self.path.open("r+b") as file:
                file.truncate(sum(len(line) + 1 for line in whole))

    def append(self, row: ResultRow) -> None:
        """Append a row and sync it to disk before returning.

        Raises:
            StorageError: The row cannot be written.
        """
        line = json_text(asdict(row)) + "\n"
        with writing(self.path, needed=len(line)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        self._keep(row)

    @property
    def rows(self) -> list[ResultRow]:
        """Latest row of each cell; an edited cell replaces its earlier version."""
        return list(self._latest.values())

    def list_cells(self, keys: Mapping[Cell, str]) -> None:
        """Record the cells that the study has now, with their keys; see `of_study`.

        Raises:
            StorageError: The list cannot be written.
        """
        cells = [[*place(cell), key] for cell, key in keys.items()]
        write_json(self.path.parent / CELLS, cells)

    @property
    def of_study(self) -> list[ResultRow]:
        """Latest rows of the cells that the study had when it last ran.

        A folder of an earlier version, or of a search, has no list of cells. All its rows count
        whose items are those of the latest row on test items of their task, if there is one.
        """
        listed = read_cached_json(self.path.parent / CELLS)
        if listed is None:
            return [row for row in self.rows if self._on_latest_items(row)]
        cells = {tuple(cell) for cell in listed}
        return [row for row in self.rows if (*place(row), row.key) in cells]

    def _on_latest_items(self, row: ResultRow) -> bool:
        latest = self._items.get(row.task)
        # Failed rows, and rows of earlier versions, have no hashes.
        return row.hashes.get("test", latest if row.split == "test" else None) == latest

    def find(self, cell: Cell, key: str) -> ResultRow | None:
        """Return the latest row with the work of a cell, possibly under another name."""
        named = self._latest.get(place(cell))
        return named if named is not None and named.key == key else self._by_key.get(key)

    def is_latest(self, cell: Cell, row: ResultRow) -> bool:
        """Return whether a row is the one that `rows` contains for a cell."""
        return self._latest.get(place(cell)) is row

    def _keep(self, row: ResultRow) -> None:
        self._by_key[row.key] = self._latest[place(row)] = row
        if "test" in row.hashes:
            self._items[row.task] = row.hashes["test"]

    def _row(self, number: int, line: bytes) -> ResultRow:
        try:
            values = json.loads(line)
            for score in values.get("scores", {}).values():
                score.update({name: or_nan(value) for name, value in score.items()})
            return ResultRow(
                **{f.name: values[f.name] for f in fields(ResultRow) if f.name in values}
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{self.path}:{number}: not a study row ({error}); fix or remove the line."
            ) from None


def same_data(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Return whether the hashes that both have are equal."""
    return all(now[name] == before[name] for name in before.keys() & now.keys())


def place(cell: Cell | ResultRow) -> tuple[Any, ...]:
    """Return the position of a cell in tables."""
    return (cell.task, cell.name, cell.size, cell.leverage_ratio, cell.seed)
