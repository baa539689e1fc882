"""Simulate how long a study's evaluation takes in several layouts, from measured durations.

    python benchmarks/decoupled.py   # a second

The layouts for nodes with one accelerator each are from arXiv 2403.07648:

- coupled: a trial loads the base, generates and computes its metrics before it leaves the
  accelerator; trials run in their order.
- loaded once: a node keeps the base for all its trials.
- metrics apart: also, CPU workers compute the metrics after a trial has left the accelerator.
- longest first: also, trials with known long durations start first.
- answered apart: also, CPU workers answer after the training, as fast as the accelerator.

The durations are those of this repository's study, and of 63 simulated trials. In the study, a
finished cell occupies the accelerator for training and answering; `other` is an upper bound of its
metrics. Its answers were computed on CPU cores. The simulated trials do not train, and are
distributed as in the paper: most are short and few very long. For a tenth of them, metrics (by
programs or judges) take as long as generation. Loading takes a minute.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from telltune.cli.console import print_table

HERE = Path(__file__).parent
RESULTS = Path(__file__).with_suffix(".json")
NODES = (1, 4)
CPU_WORKERS = 4
"""Number of CPU workers per accelerator."""
LOADING = 0.5
"""Seconds to load the embedded model from a cached file (measured: 0.41, 0.43, 0.64)."""


@dataclass(frozen=True)
class Trial:
    """Durations of the parts of a trial in seconds."""

    load: float
    train: float
    answer: float
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
            if any(t.train for t in trials):
                # What follows a training is work for CPU workers, like metrics.
                moved = [
                    replace(t, answer=0.0, metrics=t.answer + t.metrics) if t.train else t
                    for t in trials
                ]
                times["answered apart"] = decoupled(moved, nodes, apart=True, longest=True)
            found.append({"trials": name, "nodes": nodes, "makespan": times})
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    ways = list(found[0]["makespan"])
    rows = []
    for row in found:
        spent = row["makespan"]
        cells = [told(spent[way], spent["coupled"]) if way in spent else "" for way in ways]
        rows.append((row["trials"], str(row["nodes"]), *cells))
    print_table("Makespan", ("trials", "nodes", *ways), rows)


def told(seconds: float, coupled: float) -> str:
    """Return the seconds, and the speedup over `coupled`."""
    return f"{seconds:,.0f} s, {coupled / seconds:.2f}x"


def measured() -> list[Trial]:
    """Return the finished cells of the study, in the order of its rows."""
    trials = []
    for line in (
        (HERE.parent / "runs" / "study" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    ):
        row = json.loads(line)
        if row["status"] == "done":
            spent = row["seconds"]
            answer = spent["answering"] + spent["general"]
            trials.append(Trial(LOADING, spent["training"], answer, spent["other"]))
    return trials


def made() -> list[Trial]:
    """Return simulated trials of the published shape."""
    rng = np.random.default_rng(0)
    generate = np.exp(rng.normal(np.log(120), 1.0, 63))
    slow = rng.random(63) < 0.1
    metrics = np.where(slow, generate, 0.05 * generate)
    return [Trial(60.0, 0.0, float(g), float(m)) for g, m in zip(generate, metrics, strict=True)]


def coupled(trials: list[Trial], nodes: int) -> float:
    """Return the makespan if each trial occupies a node from loading to metrics."""
    free = [0.0] * nodes
    for trial in trials:
        spent = trial.load + trial.train + trial.answer + trial.metrics
        heapq.heapreplace(free, free[0] + spent)
    return max(free)


def decoupled(trials: list[Trial], nodes: int, *, apart: bool, longest: bool) -> float:
    """Return the makespan if nodes load once; CPU workers compute metrics if `apart`."""
    if longest:
        # Trials with the longest metrics are answered first; of the others, the longest.
        trials = sorted(trials, key=lambda t: (-t.metrics, -t.train - t.answer))
    free = [trials[0].load] * nodes
    workers = [0.0] * (nodes * CPU_WORKERS)
    for trial in trials:
        done = free[0] + trial.train + trial.answer + (0.0 if apart else trial.metrics)
        heapq.heapreplace(free, done)
        if apart:
            heapq.heapreplace(workers, max(workers[0], done) + trial.metrics)
    return max(*free, *workers)


if __name__ == "__main__":
    main()
