"""Run a study's cells in several processes within a time limit, on a large machine.

    python benchmarks/study_shards.py benchmarks/study.yaml --out DIR --processes 12 --seconds 400

It is for one GPU that a small model leaves idle most of the time: twelve processes share it. On a
CPU use `tell study`, because processes would slow each other down. Each process has its own folder.
When the time is over, finished cells are joined in DIR, and the next call runs the others.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.study.results import ANSWERS, RESULTS

if TYPE_CHECKING:
    from telltune.data.files import Split

ANSWERING = 150
"""Number of optimizer steps that take as long as answering 200 items and measuring leakage."""


def main() -> None:
    """Start the processes, end them in time, and join their rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--split", default="test", choices=["test", "dev"])
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    options.out.mkdir(parents=True, exist_ok=True)
    shares = share_out(steps_left(options.study, options.out, options.split), options.processes)
    context = multiprocessing.get_context("spawn")
    folders = [options.out / f"shard-{i}" for i in range(options.processes)]
    workers = [
        context.Process(target=run, args=(options.study, folder, share, options.split))
        for folder, share in zip(folders, shares, strict=True)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(deadline - time.monotonic(), 0))
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()
    gather(folders, options.out)


def steps_left(study: Path, out: Path, split: Split) -> dict[int, int]:
    """Return optimizer steps of each unfinished cell, by its index in the study.

    It also converts the model and encodes the data, so that the processes need not do so.
    """
    from telltune.fitting.build_plan import build_run_plan
    from telltune.fitting.model_info import load_model_info
    from telltune.fitting.trained_method import TrainedMethod
    from telltune.methods.registry import get_method
    from telltune.study.planning import cells_left
    from telltune.study.results import Results
    from telltune.study.spec import load_study
    from telltune.study.worker import CellWorker

    spec, cells = load_study(study)
    worker = CellWorker.of_cells(cells, spec.forgetting, out, split, None)
    unfinished = set(cells_left(worker.keys(cells), worker, Results(out)).values())
    left = {}
    for place, cell in enumerate(cells):
        if cell not in unfinished:
            continue
        method, recipe = get_method(cell.method), cell.recipe
        left[place] = 0
        if isinstance(method, TrainedMethod):
            task, general = worker.task(recipe).task, worker.general(recipe)
            model, recipe = load_model_info(recipe.model), method.configured(recipe)
            run_plan = build_run_plan(method, task, general, model, recipe)
            left[place] = run_plan.counts.optimizer_steps
    return left


def share_out(steps: dict[int, int], processes: int) -> list[list[int]]:
    """Give the longest remaining cell to the process with the least work, until none is left."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    load = [0] * processes
    for place in sorted(steps, key=steps.__getitem__, reverse=True):
        least = load.index(min(load))
        shares[least].append(place)
        load[least] += steps[place] + ANSWERING
    return shares


def run(study: Path, folder: Path, share: list[int], split: Split) -> None:
    """Run a process's share of the cells."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from telltune.study.runner import run_cells
    from telltune.study.spec import load_study

    torch.set_num_threads(1)
    spec, cells = load_study(study)
    run_cells(
        [cells[place] for place in share],
        spec.forgetting,
        folder,
        split=split,
        general=next((cell.recipe for cell in cells if cell.recipe.general), None),
        progress=False,
    )


def gather(folders: list[Path], out: Path) -> None:
    """Join all rows in one file, and all answers in one folder."""
    (out / ANSWERS).mkdir(exist_ok=True)
    with (out / RESULTS).open("ab") as together:
        for folder in folders:
            rows = folder / RESULTS
            if rows.exists():
                # A killed process leaves an incomplete last row.
                whole = rows.read_bytes().rpartition(b"\n")[0]
                together.write(whole + b"\n" if whole else b"")
            for answers in folder.glob(f"{ANSWERS}/*.jsonl"):
                shutil.move(answers, out / ANSWERS / answers.name)
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
