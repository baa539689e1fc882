"""How long a study's evaluation takes by how it is laid out: a simulation on measured durations.

    python benchmarks/decoupled.py   # a second

Ways to run trials on nodes with one accelerator each, from arXiv 2403.07648:

- coupled: a trial loads the base, generates, computes its metrics, and only then leaves the
  accelerator; first come, first served.
- loaded once: a node keeps the base from trial to trial.
- metrics apart: an answered trial leaves the accelerator, and CPU workers compute its metrics.
- longest first: as both, and what takes longest begins first, by known durations.

Durations are those of this repository's study (each finished cell: training and answering on the
accelerator, `other` as metrics, an upper bound), and of 63 made trials of the shape that the paper
shows: most short, few very long, a tenth with metrics by programs or judges that take as long as
the generation. Loading takes a made trial a minute.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from telltune.cli.console import print_table

HERE = Path(__file__).parent
RESULTS = Path(__file__).with_suffix(".json")
NODES = (1, 4)
CPU_WORKERS = 4
"""Beside each accelerator."""
LOADING = 0.5
"""Seconds that the embedded model takes to load here, its file read before (0.41, 0.43, 0.64)."""


@dataclass(frozen=True)
class Trial:
    """Seconds of each part."""

    load: float
    generate: float
    metrics: float


def main() -> None:
    """Simulate all, and print the table."""
    found = []
    for name, trials in (("benchmarks/study", measured()), ("63 made trials", made())):
        for nodes in NODES:
            times = {
                "coupled": coupled(trials, nodes),
                "loaded once": decoupled(trials, nodes, apart=False, longest=False),
                "metrics apart": decoupled(trials, nodes, apart=True, longest=False),
                "longest first": decoupled(trials, nodes, apart=True, longest=True),
            }
            found.append({"trials": name, "nodes": nodes, "makespan": times})
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    rows = [
        (
            row["trials"],
            str(row["nodes"]),
            *(told(s, row["makespan"]["coupled"]) for s in row["makespan"].values()),
        )
        for row in found
    ]
    columns = ("trials", "nodes", "coupled", "loaded once", "metrics apart", "longest first")
    print_table("Makespan", columns, rows)


def told(seconds: float, coupled: float) -> str:
    """With how many times quicker that is."""
    return f"{seconds:,.0f} s, {coupled / seconds:.2f}x"


def measured() -> list[Trial]:
    """The finished cells of the study, in the order of its rows."""
    trials = []
    for line in (
        (HERE.parent / "runs" / "study" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        row = json.loads(line)
        if row["status"] == "done":
            spent = row["seconds"]
            busy = spent["training"] + spent["answering"] + spent["general"]
            trials.append(Trial(LOADING, busy, spent["other"]))
    return trials


def made() -> list[Trial]:
    """Trials of the published shape."""
    rng = np.random.default_rng(0)
    generate = np.exp(rng.normal(np.log(120), 1.0, 63))
    slow = rng.random(63) < 0.1
    metrics = np.where(slow, generate, 0.05 * generate)
    return [Trial(60.0, float(g), float(m)) for g, m in zip(generate, metrics, strict=True)]


def coupled(trials: list[Trial], nodes: int) -> float:
    """Each trial holds a node from its loading to its metrics."""
    free = [0.0] * nodes
    for trial in trials:
        heapq.heapreplace(free, free[0] + trial.load + trial.generate + trial.metrics)
    return max(free)


def decoupled(trials: list[Trial], nodes: int, *, apart: bool, longest: bool) -> float:
    """A node loads once; metrics are its own work, or that of CPU workers."""
    if longest:
        # What has the longest metrics must be answered early; of the rest the longest goes first.
        trials = sorted(trials, key=lambda t: (-t.metrics, -t.generate))
    free = [trials[0].load] * nodes
    workers = [0.0] * (nodes * CPU_WORKERS)
    for trial in trials:
        done = free[0] + trial.generate + (0.0 if apart else trial.metrics)
        heapq.heapreplace(free, done)
        if apart:
            heapq.heapreplace(workers, max(workers[0], done) + trial.metrics)
    return max(*free, *workers)


if __name__ == "__main__":
    main()
