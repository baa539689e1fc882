"""A study's cells as tasks of a Ray cluster; what they find comes back to the study's folder.

A cell is two tasks: one has the model, trains and answers, and then leaves the accelerator to the
next; the other scores the answers in a process that never loads a model (arXiv 2403.07648). Both
read what the recipe names, on whichever node they run, and what they return goes back over Ray: the
nodes need share no folder but that of the data. Where a node is lost Ray runs its tasks again
elsewhere; rows that came back before are on the disk of whoever asked.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError
from telltune.storage import write_text
from telltune.study.results import ANSWERS, Row
from telltune.study.runner import FAILURES, Answered, CellWorker, score_cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from telltune.data.task import Split
    from telltune.recipe import Recipe
    from telltune.study.spec import Cell, ForgettingSpec

__all__ = ["Cluster", "connect"]

_PATIENCE = 20.0
"""Seconds for a cluster that grows on demand to bring a node that is large enough."""
_TRIES = 3
"""Times that a cell is run again whose node or process was lost."""


@dataclass(frozen=True)
class Cluster:
    """Where cells are run.

    Attributes:
        cpus: For each cell.
        gpus: For each cell.
    """

    cpus: float
    gpus: float

    def run(
        self,
        cells: Mapping[str, Cell],
        forgetting: ForgettingSpec,
        out: Path,
        split: Split,
        mixing: Recipe | None,
    ) -> Iterator[tuple[Cell, Row]]:
        """Run cells, begun in the order given, and give each as it is finished.

        Args:
            cells: By their keys.
            forgetting: What is measured beside the task.
            out: Of the study, where answers go.
            split: Whose items are answered.
            mixing: Names the general data that all are asked about.
        """
        import ray

        answer = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=_TRIES)(_answer)
        # At once, beside whatever runs: it is short, and a finished cell is safe when it is here.
        score = ray.remote(num_cpus=0, max_retries=_TRIES)(_score)
        here = str(Path.cwd())
        waiting = {
            score.remote(answer.remote(cell, key, forgetting, split, mixing, here)): (cell, key)
            for key, cell in cells.items()
        }
        while waiting:
            [done], _ = ray.wait(list(waiting))
            cell, key = waiting.pop(done)
            try:
                row, answers, failure = ray.get(done)
            except ray.exceptions.RayError as error:
                row = _lost(cell, key, split, error)
                answers, failure = None, str(error)
            if answers is not None:
                write_text(out / ANSWERS / f"{key}.jsonl", answers)
            if failure is not None:
                write_text(out / FAILURES / f"{key}.txt", failure)
            yield cell, row


def connect(address: str, *, cpus: float = 1.0, gpus: float | None = None) -> Cluster:
    """Join a Ray cluster, as one that gives it work.

    Args:
        address: `auto` for the one that this machine belongs to, or HOST:PORT.
        cpus: For each cell.
        gpus: For each cell; one if not given, where the cluster has any.

    Raises:
        RecipeError: Ray is not installed, nobody answers, or no node is large enough.
    """
    ray: Any
    try:
        import ray
    except ImportError:
        raise RecipeError("Ray is not installed: `pip install telltune[cluster]`.") from None
    if address != "auto":
        _check_reachable(address)
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=40)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RecipeError(
            f"no Ray cluster answers at {address} ({str(error).splitlines()[0]}); start one with "
            "`ray start --head`, or give its HOST:PORT."
        ) from None
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
    _check_large_enough(ray, address, cpus, gpus)
    return Cluster(cpus, gpus)


def _check_reachable(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise RecipeError(f"`{address}` is no address of a cluster; write `auto` or HOST:PORT.")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise RecipeError(
            f"nobody answers at {address} ({error}); is the cluster's head up, and its port open?"
        ) from None


def _check_large_enough(ray: Any, address: str, cpus: float, gpus: float) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        has = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
        if any(c >= cpus and g >= gpus for c, g in has):
            return
        if time.monotonic() > until:
            told = ", ".join(f"{c:g} CPUs and {g:g} GPUs" for c, g in has)
            raise RecipeError(
                f"no node of the cluster at {address} has {cpus:g} CPUs and {gpus:g} GPUs for a "
                f"cell (nodes have {told}); ask for less with --cpus and --gpus."
            )
        time.sleep(0.5)


_workers: dict[str, CellWorker] = {}
"""Of a process of the cluster, which takes one cell after another: the base stays loaded."""


def _answer(
    cell: Cell,
    key: str,
    forgetting: ForgettingSpec,
    split: Split,
    mixing: Recipe | None,
    folder: str,
) -> tuple[Answered | Row, str | None]:
    """On a node: what a cell answers, and the traceback where it failed."""
    if Path(folder).is_dir():
        os.chdir(folder)  # where relative paths of recipes start
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        said = f"{forgetting}{split}{mixing}"
        worker = _workers.setdefault(said, CellWorker(out, forgetting, split, mixing))
        worker.out = out
        return worker.answer(cell, key), _text(out / FAILURES / f"{key}.txt")


def _score(answered: tuple[Answered | Row, str | None]) -> tuple[Row, str | None, str | None]:
    """On a node: a cell's row, its answers as they are written, and the traceback if it failed."""
    found, failure = answered
    if isinstance(found, Row):
        return found, None, failure
    with tempfile.TemporaryDirectory() as name:
        row = score_cell(found, Path(name))
        answers = _text(Path(name) / ANSWERS / f"{row.key}.jsonl")
        return row, answers, _text(Path(name) / FAILURES / f"{row.key}.txt")


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _lost(cell: Cell, key: str, split: Split, error: Exception) -> Row:
    """The row of a cell whose node or process went away once more than it is tried."""
    reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return replace(CellWorker.blank(cell, key, split), reason=reason)
