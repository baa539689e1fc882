"""Measure the cost of a busy machine, by number of threads and way of waiting.

    python benchmarks/threads.py   # about 8 minutes on two cores that nobody else uses

The same SFT of the embedded model in fp32 runs in a separate process each time: alone, and beside
one and two processes that only compute. These ways take turns:

    all threads    one per core, which spin while they wait (PyTorch's default)
    bounded        one per core, which sleep after waiting a quarter of a millisecond
    passive        one per core, which sleep at once
    one thread
    telltune       nothing set: as many threads as there are free cores

A process's fair share is cores / processes. The fair time is that of one thread alone, divided by
the share if it is below one core. Seconds are those of training, from tell.json. Every other round
takes the ways in reverse. Arguments choose rounds, ways and loads, and where the rows go:
`python benchmarks/threads.py --rounds 2 --out rows.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from machine import describe
from telltune.cli.console import print_table
from telltune.models.threads import cpu_limit

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).with_suffix(".json")
CORES = round(cpu_limit())
WAYS: dict[str, dict[str, str]] = {
    "all threads": {"OMP_NUM_THREADS": str(CORES), "GOMP_SPINCOUNT": "300000"},
    "bounded": {"OMP_NUM_THREADS": str(CORES), "GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_NUM_THREADS": str(CORES), "OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "telltune": {},
}
LOADS = (0, 1, 2)
RECIPE = {
    "method": "sft_anchor",
    "task": {"embedded": "answer_kind", "max_tokens": 1500},
    "mixture": {"passes": 1},
    "lora": {"dropout": 0},
    "training": {
        "learning_rate": 1e-3,
        "batch_size": 4,
        "micro_batch_tokens": 2048,
        "precision": "fp32",
    },
}


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run some processes that compute without end."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def train(way: str) -> tuple[float, list[int]]:
    """Train once in a separate process, and return the seconds and each number of threads set."""
    unset = {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {k: v for k, v in os.environ.items() if k not in unset} | WAYS[way]
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        command = [sys.executable, __file__, "--fit", folder]
        done = subprocess.run(
            command, env=environment, check=True, text=True, stdout=subprocess.PIPE
        )
    took, *threads = json.loads(done.stdout.splitlines()[-1])
    return round(took, 2), threads


def fit(folder: str) -> None:
    """Train, and print the seconds and each number of threads that was set."""
    import torch

    from telltune.api import fit as fitted

    with patch.object(torch, "set_num_threads", wraps=torch.set_num_threads) as setter:
        done = fitted(RECIPE, Path(folder) / "out", progress=False)
    numbers = [call.args[0] for call in setter.call_args_list]
    print(json.dumps([done.record["seconds"], *numbers]))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--loads", default=",".join(map(str, LOADS)))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.fit:
        fit(given.fit)
        return
    ways, loads = given.ways.split(","), [int(n) for n in given.loads.split(",")]
    found: dict[str, Any] = {"machine": describe(), "busy_processes": {}}
    by_load: dict[int, dict[str, list[float]]] = {n: {way: [] for way in ways} for n in loads}
    for turn in range(given.rounds):
        for load in loads:
            with busy(load):
                for way in ways[:: -1 if turn % 2 else 1]:
                    took, threads = train(way)
                    by_load[load][way].append(took)
                    print(load, way, took, "threads:", threads, flush=True)
    found["busy_processes"] = by_load
    alone = {way: median(by_load[0][way]) for way in ways} if 0 in loads else {}
    rows = []
    for load, times in by_load.items():
        fair = None
        if load and "one thread" in alone:
            fair = alone["one thread"] / min(1.0, CORES / (load + 1))
        elif not load:
            fair = alone.get("all threads")
        for way in ways:
            taken = median(times[way])
            ratio = "" if fair is None else f"{taken / fair:.2f}"
            rows.append((str(load), way, f"{taken:.1f}", ratio, str(times[way])))
    print_table(
        "Seconds of training", ("busy processes", "way", "seconds", "to the fair time", "all"), rows
    )
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
