"""Measure how long a study takes on two nodes of a Ray cluster, coupled and decoupled.

    python benchmarks/makespan.py   # 7 minutes on two cores

The study has the embedded model, two tasks, three methods and two seeds: 10 cells. Both nodes have
one core of this machine. Coupled runs each cell in a separate process, as the baseline of arXiv
2403.07648 does: it loads the base, trains, answers and scores, in the order of the study. Decoupled
is what `tell study --ray` does. Each way runs twice, in turn, in a new cluster.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.cluster_utils import Cluster as Nodes

from machine import describe
from telltune.cli.console import print_table
from telltune.study.cluster import connect
from telltune.study.runner import run_cells
from telltune.study.spec import ForgettingSpec, StudySpec, cells_of
from telltune.study.worker import CellWorker

if TYPE_CHECKING:
    from telltune.study.results import ResultRow
    from telltune.study.spec import Cell

RESULTS = Path(__file__).with_suffix(".json")
ROUNDS = 2
NONE = ForgettingSpec(examples=0, prompts=0)
STUDY: dict[str, Any] = {
    "recipe": {
        "task": "medical_specialty",
        "general": "embedded",
        "mixture": {"leverage_ratio": 2, "passes": 2},
        "lora": {"dropout": 0},
        "training": {"learning_rate": 1e-3, "micro_batch_tokens": 4096, "save_steps": 1_000_000},
        "evaluation": {"max_items": 100},
    },
    "tasks": ["medical_specialty", "mention_json"],
    "methods": ["base", "sft_anchor", "tell"],
    "sizes": [1400],
    "seeds": [0, 1],
}


def decoupled(cells: list[Cell], address: str, out: Path) -> list[ResultRow]:
    """Run the cells as `tell study --ray` does."""
    return run_cells(cells, NONE, out, elsewhere=connect(address).run, progress=False)


def coupled(cells: list[Cell], address: str, _: Path) -> list[ResultRow]:
    """Run each cell in a separate process."""
    connect(address)
    alone = ray.remote(num_cpus=1, max_calls=1)(_whole)
    return ray.get([alone.remote(cell) for cell in cells])


def _whole(cell: Cell) -> ResultRow:
    with tempfile.TemporaryDirectory() as folder:
        return CellWorker(Path(folder), NONE, "test", None).run(cell, "key")


WAYS = {"coupled": coupled, "decoupled": decoupled}


def main() -> None:
    """Run all ways, and print the table."""
    cells = cells_of(StudySpec.model_validate(STUDY))
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    scores: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for way, run in WAYS.items():
            nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0})
            for _ in range(2):
                nodes.add_node(num_cpus=1)
            nodes.wait_for_nodes()
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                rows = run(cells, nodes.address, Path(folder) / "out")
                seconds[way].append(round(time.perf_counter() - began, 1))
            ray.shutdown()
            nodes.shutdown()
            assert [row.status for row in rows] == ["done"] * len(cells), rows
            scores[way] = [row.score for row in rows]
    assert scores["coupled"] == scores["decoupled"]
    found = {"machine": describe(), "cells": len(cells), "makespan_seconds": seconds}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    best = min(seconds["coupled"])
    table = [(way, str(all_), f"{best / min(all_):.2f}x") for way, all_ in seconds.items()]
    print_table("Makespan of 10 cells on two nodes", ("way", "seconds", "best"), table)


if __name__ == "__main__":
    main()
