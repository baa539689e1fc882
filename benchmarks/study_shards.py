"""Run a study's cells in several processes at once, within a time, on a machine that has the room.

    python benchmarks/study_shards.py benchmarks/study.yaml --out DIR --processes 12 --seconds 400

For one GPU that a small model leaves idle most of the time: twelve processes train beside one
another there. On a CPU use `tell study`; processes would slow each other down. Each process has a
folder of its own; what is finished when the time is over is put together in DIR, and the rest is
run the next time.
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
    from telltune.data.task import Split

ANSWERING = 150
"""Steps that answering 200 items and asking aside take as long as."""


def main() -> None:
    """Start the processes, end them in time, and put their rows together."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--split", default="test", choices=["test", "dev"])
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds
    options.out.mkdir(parents=True, exist_ok=True)
    shares = share_out(steps_left(options.study, options.out), options.processes)
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


def steps_left(study: Path, out: Path) -> dict[int, int]:
    """Optimizer steps of each cell that has no finished row, by its place in the study.

    Converts the model and encodes the data once, and not in every process.
    """
    from telltune.data.task import load_general, load_task
    from telltune.fitting.build_plan import build_run_plan
    from telltune.fitting.model_info import load_model_info
    from telltune.fitting.trained_method import TrainedMethod
    from telltune.methods.registry import get_method
    from telltune.study.results import Results, is_finished
    from telltune.study.spec import load_study

    spec, cells = load_study(study)
    rows = {
        (row.task, row.name, row.size, row.leverage_ratio, row.seed): row
        for row in Results(out).rows
    }
    needs_forgetting = spec.forgetting.examples > 0
    left = {}
    for place, cell in enumerate(cells):
        row = rows.get((cell.task, cell.name, cell.size, cell.leverage_ratio, cell.seed))
        if row is not None and is_finished(row, needs_forgetting=needs_forgetting):
            continue
        method, recipe = get_method(cell.method), cell.recipe
        left[place] = 0
        if isinstance(method, TrainedMethod):
            task, general = load_task(recipe), load_general(recipe)
            run_plan = build_run_plan(method, task, general, load_model_info(recipe.model), recipe)
            left[place] = run_plan.counts.optimizer_steps
    return left


def share_out(steps: dict[int, int], processes: int) -> list[list[int]]:
    """The longest cell goes to whoever has least to do so far, then the next."""
    shares: list[list[int]] = [[] for _ in range(processes)]
    load = [0] * processes
    for place in sorted(steps, key=steps.__getitem__, reverse=True):
        least = load.index(min(load))
        shares[least].append(place)
        load[least] += steps[place] + ANSWERING
    return shares


def run(study: Path, folder: Path, share: list[int], split: Split) -> None:
    """One process: its share of the cells."""
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
    """All rows in one file, all answers in one folder."""
    (out / ANSWERS).mkdir(exist_ok=True)
    with (out / RESULTS).open("ab") as together:
        for folder in folders:
            rows = folder / RESULTS
            if rows.exists():
                # A process that was ended in the midst of a row leaves a part of it.
                whole = rows.read_bytes().rpartition(b"\n")[0]
                together.write(whole + b"\n" if whole else b"")
            for answers in folder.glob(f"{ANSWERS}/*.jsonl"):
                shutil.move(answers, out / ANSWERS / answers.name)
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
