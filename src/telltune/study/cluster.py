"""Run the cells of a study as tasks of a Ray cluster.

Each cell is two Ray tasks. The first trains and answers with the model, then frees the accelerator
for the next cell. The second scores the answers in a process that never loads a model
(arXiv 2403.07648). Both read the recipe's files on their own node and return results over Ray, so
nodes only need to share the data folder. If a node is lost, Ray reruns its tasks elsewhere; rows
that were returned before are already on the caller's disk.
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
from telltune.study.results import ANSWERS, ResultRow
from telltune.study.runner import FAILURES, Answered, CellWorker, score_cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from telltune.data.files import Split
    from telltune.recipe import Recipe
    from telltune.study.spec import Cell, ForgettingSpec

_PATIENCE = 20.0
"""Seconds to wait for an autoscaling cluster to add a node that is large enough."""
_TRIES = 3
"""Maximum number of reruns of a cell whose node or process was lost."""


@dataclass(frozen=True)
class Cluster:
    """Connection to a Ray cluster that runs cells, each with the given CPUs and GPUs."""

    cpus: float
    gpus: float

    def run(
        self,
        cells: Mapping[str, Cell],
        forgetting: ForgettingSpec,
        out: Path,
        split: Split,
        mixing: Recipe | None,
    ) -> Iterator[tuple[Cell, ResultRow]]:
        """Start cells in the given order and yield each with its row as it finishes."""
        import ray

        answer = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=_TRIES)(_answer)
        # Scoring is short and needs no reserved CPU, so finished cells return without delay.
        score = ray.remote(num_cpus=0, max_retries=_TRIES)(_score)
        settings = (forgetting, split, mixing, Path.cwd(), out.resolve())
        waiting = {
            score.remote(answer.remote(cell, key, *settings)): (cell, key)
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
    """Connect to a Ray cluster: `auto` for that of this machine, or HOST:PORT.

    A cell gets one GPU by default if the cluster has GPUs, else none.

    Raises:
        RecipeError: Ray is not installed, the cluster does not respond, or no node is large enough.
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
            f"no Ray cluster responds at {address} ({str(error).splitlines()[0]}); start one with "
            "`ray start --head`, or pass its HOST:PORT."
        ) from None
    if gpus is None:
        gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
    _check_large_enough(ray, address, cpus, gpus)
    return Cluster(cpus, gpus)


def _check_reachable(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise RecipeError(f"`{address}` is not a cluster address; use `auto` or HOST:PORT.")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise RecipeError(
            f"no response from {address} ({error}); check the cluster's head node and its port."
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
                f"cell (nodes have {told}); lower --cpus or --gpus."
            )
        time.sleep(0.5)


_workers: dict[str, CellWorker] = {}
"""Workers of a cluster process, by settings; the base stays loaded from cell to cell."""


def _answer(
    cell: Cell,
    key: str,
    forgetting: ForgettingSpec,
    split: Split,
    mixing: Recipe | None,
    folder: Path,
    study: Path,
) -> tuple[Answered | ResultRow, str | None]:
    """Train and answer a cell on a node; also return the traceback if it failed."""
    if folder.is_dir():
        os.chdir(folder)  # relative paths in recipes start here
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        said = f"{forgetting}{split}{mixing}"
        worker = _workers.setdefault(said, CellWorker(out, forgetting, split, mixing))
        worker.out, worker.study = out, study
        return worker.answer(cell, key), _text(out / FAILURES / f"{key}.txt")


def _score(
    answered: tuple[Answered | ResultRow, str | None],
) -> tuple[ResultRow, str | None, str | None]:
    """Score a cell on a node; return its row, its answers file and the traceback of a failure."""
    found, failure = answered
    if isinstance(found, ResultRow):
        return found, None, failure
    with tempfile.TemporaryDirectory() as name:
        row = score_cell(found, Path(name))
        answers = _text(Path(name) / ANSWERS / f"{row.key}.jsonl")
        return row, answers, _text(Path(name) / FAILURES / f"{row.key}.txt")


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _lost(cell: Cell, key: str, split: Split, error: Exception) -> ResultRow:
    """Return the row of a cell whose node or process was lost in every attempt."""
    reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return replace(CellWorker.blank(cell, key, split), reason=reason)
