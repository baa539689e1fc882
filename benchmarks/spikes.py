"""Inject loss spikes into training runs, and count those that the health check finds.

    python benchmarks/spikes.py   # a minute on one core; no model is trained

A spike adds the same number of nats to the loss of every token of one step, which has at least
twelve steps before it. Each run is also checked as it is: an alarm is false. The runs are:

- Simulated runs with steps of four examples, 100 for each kind of data. Losses of tokens follow a
  gamma distribution around the example's own difficulty, which is log-normal. The loss of the task
  falls exponentially, and varies more in proportion as it falls, as in recorded runs; that of
  general texts stays. Labels have one to four tokens. A wrong label costs two to nine nats once the
  task is learned.
- Runs of benchmarks/study with a row for each step, of the embedded model. Their rows have the mean
  loss of each source only, which stands in for the median. Means vary more, so this is harder.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from telltune.cli.console import print_table
from telltune.training.callbacks import spike_of

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
RESULTS = Path(__file__).with_suffix(".json")
NATS = (2, 4, 8)
BEFORE = 12
EVERY = 10
"""Number of steps between two injected spikes. Each is injected into a run of its own."""
RUNS, STEPS, BATCH = 100, 150, 4
KINDS = {
    "labels and general texts, 2% wrong": {"wrong": 0.02},
    "labels and general texts, 10% wrong": {"wrong": 0.1},
    "texts and general texts": {"labels": False},
    "labels only, 2% wrong": {"wrong": 0.02, "share": 1.0},
    "labels only, 10% wrong": {"wrong": 0.1, "share": 1.0},
    "texts only": {"labels": False, "share": 1.0},
}

Row = dict[str, float]


def main() -> None:
    """Check all runs, and print the table."""
    found = []
    for kind, settings in KINDS.items():
        runs = [simulated(seed, **settings) for seed in range(RUNS)]
        found.append({"runs": kind, **judge(runs)})
    found.append({"runs": "embedded model, means of steps", **judge(list(recorded()))})
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    columns = ("runs", "number", "with a false alarm", *(f"{nats} nats" for nats in NATS))
    rows = [
        (
            row["runs"],
            str(row["number"]),
            str(row["false_alarms"]),
            *(f"{row['found'][str(nats)]:.0%}" for nats in NATS),
        )
        for row in found
    ]
    print_table("Loss spikes found", columns, rows)


def judge(runs: list[list[Row]]) -> dict[str, object]:
    """Return how many runs have a false alarm, and the share of injected spikes that are found."""
    alarms, tries, hits = 0, 0, dict.fromkeys(NATS, 0)
    for run in runs:
        alarms += any(spike_of(row, run[:i]) for i, row in enumerate(run))
        for i in range(BEFORE, len(run), EVERY):
            tries += 1
            for nats in NATS:
                raised = {name: value + nats for name, value in run[i].items()}
                hits[nats] += bool(spike_of(raised, run[:i]))
    return {
        "number": len(runs),
        "false_alarms": alarms,
        "spikes": tries,
        "found": {str(nats): round(hits[nats] / tries, 3) for nats in NATS},
    }


def simulated(
    seed: int, *, wrong: float = 0.0, labels: bool = True, share: float = 0.4
) -> list[Row]:
    """Return the rows of a healthy run; `share` of its examples are of the task."""
    rng = np.random.default_rng(seed)
    start, pace = rng.uniform(2, 7), rng.uniform(10, 60)
    rows = []
    for step in range(STEPS):
        usual = 0.02 + (start - 0.02) * np.exp(-max(0, step - 5) / pace)
        of_task = rng.binomial(BATCH, share)
        tokens = {"task": [], "general": []}
        for example in range(BATCH):
            if example >= of_task:
                count = max(1, int(np.exp(rng.normal(3.5, 1.2))))
                mean = 2.3 * np.exp(rng.normal(-0.1, 0.45))
                tokens["general"].append(rng.gamma(0.6, mean / 0.6, count))
                continue
            count = rng.integers(1, 5) if labels else rng.integers(10, 60)
            learned = 1 - usual / start
            shape, spread = 4 - 3.2 * learned, 0.2 + 0.5 * learned
            nll = rng.gamma(shape, usual * np.exp(rng.normal(0, spread)) / shape, count)
            if rng.random() < wrong:
                nll[0] = max(nll[0], rng.uniform(2, 9) * learned)
            tokens["task"].append(nll)
        rows.append(
            {
                f"median_{source}": float(np.median(np.concatenate(parts)))
                for source, parts in tokens.items()
                if parts
            }
        )
    return rows


def recorded() -> Iterator[list[Row]]:
    """Yield the runs of the study whose curves have a point for each step."""
    with tarfile.open(HERE / "study" / "rows.tar.xz") as archive:
        file = archive.extractfile("results.jsonl")
        assert file is not None
        for line in file.read().decode().splitlines():
            curve = json.loads(line).get("curve") or {}
            steps = curve.get("step", [])
            if len(steps) <= BEFORE or steps != list(range(1, len(steps) + 1)):
                continue
            yield [
                {
                    f"median_{source}": curve[source][i]
                    for source in ("task", "general")
                    if source in curve and curve[source][i] is not None
                }
                for i in range(len(steps))
            ]


if __name__ == "__main__":
    main()
