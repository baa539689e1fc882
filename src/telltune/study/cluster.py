"""Run the cells of a study as tasks of a Ray cluster.

Nodes are probed first, and those that are slow or broken get no cells. Each cell is two Ray tasks.
The first trains and answers with the model, then frees the accelerator for the next cell. The
second scores the answers in a process that never loads a model (arXiv 2403.07648). On request, the
first one is split too: one task trains, and another one on CPUs answers with the saved adapter.

All read the recipe's files on their own node and return results over Ray, so nodes only need to
share the data folder. If a node is lost, Ray reruns its tasks elsewhere; rows that were returned
before are already on the caller's disk.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError
from telltune.storage import write_text
from telltune.study.cell_data import CellData
from telltune.study.nodes import Probe, files_of, left_out, probe, versions_here
from telltune.study.results import ANSWERS, ResultRow
from telltune.study.scoring import FAILURES, Answered, score_cell
from telltune.study.trained_cell import TrainedCell, can_be_split
from telltune.study.worker import CellWorker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from telltune.data.files import Split
    from telltune.recipe import Recipe
    from telltune.study.spec import Cell, ForgettingSpec

_PATIENCE = 20.0
"""Seconds to wait for an autoscaling cluster to add a node that is large enough."""
_PROBE_PATIENCE = 120.0
"""Seconds to wait for the probe of a node, which imports PyTorch first."""
_TRIES = 3
"""Maximum number of reruns of a cell whose node or process was lost."""


@dataclass(frozen=True)
class Cluster:
    """Connection to a Ray cluster that runs cells.

    Attributes:
        cpus: CPUs of a cell.
        gpus: GPUs of a cell.
        answer_cpus: CPUs of the separate task that answers with a trained adapter; None if cells
            are not split.
    """

    cpus: float
    gpus: float
    answer_cpus: float | None = None

    def run(
        self,
        cells: Mapping[str, Cell],
        forgetting: ForgettingSpec,
        out: Path,
        split: Split,
        mixing: Recipe | None,
    ) -> Iterator[tuple[Cell, ResultRow]]:
        """Start cells in the given order and yield each with its row as it finishes.

        Raises:
            RecipeError: The probe finds no node that can run cells.
        """
        import ray

        without = self.bad_nodes(list(cells.values())) if cells else []
        options = {"max_retries": _TRIES} | elsewhere_than(without)
        slot = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, **options)
        train, answer = slot(_train), slot(_answer)
        aside = ray.remote(num_cpus=self.answer_cpus or 0, **options)(_answer)
        # Scoring is short and needs no reserved CPU, so finished cells return without delay.
        score = ray.remote(num_cpus=0, **options)(_score)
        where = _Where(forgetting, split, mixing, Path.cwd(), out.resolve())

        def start(cell: Cell, key: str) -> Any:
            if self.answer_cpus is None or not can_be_split(cell):
                return answer.remote(where, cell, key, (None, None))
            return aside.remote(where, cell, key, train.remote(where, cell, key))

        waiting = {score.remote(start(cell, key)): (cell, key) for key, cell in cells.items()}
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

    def bad_nodes(self, cells: Sequence[Cell]) -> list[str]:
        """Probe all nodes that are large enough for a cell, and log which of them are bad.

        Returns:
            Ids of the nodes that are slow or broken.

        Raises:
            RecipeError: All of the nodes are.
        """
        ray: Any
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = {n["NodeID"]: n for n in ray.nodes() if self._can_run(n)}
        # The probe reserves no CPU, so that it also runs on a node that is busy.
        settings = {"num_cpus": 0, "num_gpus": self.gpus, "max_retries": 0}
        told = (versions_here(), files_of(cells), Path.cwd())
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            task = ray.remote(scheduling_strategy=there, **settings)(probe)
            asked[task.remote(*told, gpu=self.gpus > 0)] = node
        if not asked:
            return []
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_PATIENCE)
        found = {asked[one]: _result(one) for one in done}
        for one in late:
            ray.cancel(one, force=True)
            found[asked[one]] = Probe(f"it does not answer within {_PROBE_PATIENCE:.0f} s")
        without = left_out(found)
        reasons = "; ".join(
            f"{nodes[node]['NodeManagerAddress']}:{nodes[node]['NodeManagerPort']}: {why}"
            for node, why in without.items()
        )
        if len(without) == len(nodes):
            raise RecipeError(f"no node of the cluster can run the study ({reasons}).")
        if without:
            logging.getLogger(__name__).warning(
                "%d of %d nodes get no cells (%s)", len(without), len(nodes), reasons
            )
        return list(without)

    def _can_run(self, node: Mapping[str, Any]) -> bool:
        """Return whether a node is large enough for a cell."""
        has = node["Resources"]
        enough = has.get("CPU", 0.0) >= self.cpus and has.get("GPU", 0.0) >= self.gpus
        return bool(node["Alive"] and enough)


def _result(probed: Any) -> Probe:
    """Return the result of a probe; an error on the node is a problem of the node."""
    import ray

    try:
        result: Probe = ray.get(probed)
    except ray.exceptions.RayError as error:
        return Probe(f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}")
    return result


def elsewhere_than(nodes: Sequence[str]) -> dict[str, Any]:
    """Return the options of a Ray task that must not run on these nodes, given by their ids."""
    if not nodes:
        return {}
    return {"label_selector": {"ray.io/node-id": f"!in({', '.join(nodes)})"}}


def connect(
    address: str,
    *,
    cpus: float = 1.0,
    gpus: float | None = None,
    answer_cpus: float | None = None,
) -> Cluster:
    """Connect to a Ray cluster: `auto` for that of this machine, or HOST:PORT.

    A cell gets one GPU by default if the cluster has GPUs, else none. For `answer_cpus` see
    `Cluster`.

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
    if answer_cpus is not None:
        _check_large_enough(ray, address, answer_cpus, 0.0)
    return Cluster(cpus, gpus, answer_cpus)


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
        nodes = ray.nodes()
        if any(Cluster(cpus, gpus)._can_run(node) for node in nodes):
            return
        if time.monotonic() > until:
            alive = [node["Resources"] for node in nodes if node["Alive"]]
            has = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive]
            told = ", ".join(f"{c:g} CPUs and {g:g} GPUs" for c, g in has)
            raise RecipeError(
                f"no node of the cluster at {address} has {cpus:g} CPUs and {gpus:g} GPUs for a "
                f"cell (nodes have {told}); lower --cpus, --gpus or --answer-cpus."
            )
        time.sleep(0.5)


_workers: dict[str, CellWorker] = {}
"""Workers of a cluster process, by settings; the base stays loaded from cell to cell."""


@dataclass(frozen=True)
class _Where:
    """Settings of the workers of a study, and the folders on the caller's machine."""

    forgetting: ForgettingSpec
    split: Split
    mixing: Recipe | None
    folder: Path
    study: Path

    @contextmanager
    def worker(self) -> Iterator[CellWorker]:
        """Return the worker of this process, with a temporary output folder."""
        if self.folder.is_dir():
            os.chdir(self.folder)  # relative paths in recipes start here
        with tempfile.TemporaryDirectory() as name:
            out = Path(name)
            said = f"{self.forgetting}{self.split}{self.mixing}"
            new = CellWorker(CellData(self.forgetting, self.split, self.mixing), out)
            worker = _workers.setdefault(said, new)
            worker.out, worker.study = out, self.study
            yield worker


def _train(
    where: _Where, cell: Cell, key: str
) -> tuple[TrainedCell | ResultRow | None, str | None]:
    """Train a cell on a node; also return the traceback if it failed."""
    with where.worker() as worker:
        return worker.train(cell, key), _text(worker.out / FAILURES / f"{key}.txt")


def _answer(
    where: _Where,
    cell: Cell,
    key: str,
    trained: tuple[TrainedCell | ResultRow | None, str | None],
) -> tuple[Answered | ResultRow, str | None]:
    """Train and answer a cell on a node, or answer a trained one; a traceback as `_train`."""
    found, failure = trained
    if isinstance(found, ResultRow):
        return found, failure
    with where.worker() as worker:
        return worker.answer(cell, key, found), _text(worker.out / FAILURES / f"{key}.txt")


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
