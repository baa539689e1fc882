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

from telltune.study.results import ANSWERS, RESULTS


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
    warm(options.study)
    context = multiprocessing.get_context("spawn")
    folders = [options.out / f"shard-{i}" for i in range(options.processes)]
    workers = [
        context.Process(target=run, args=(options.study, folder, i, options))
        for i, folder in enumerate(folders)
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


def warm(study: Path) -> None:
    """Convert the model and encode the data once, and not in every process."""
    from telltune.data.task import load_general, load_task
    from telltune.methods.known_model import known_model
    from telltune.methods.preparation import prepare
    from telltune.methods.registry import get_method
    from telltune.study.spec import load_study

    seen = set()
    for cell in load_study(study)[1]:
        if cell.method == "tell" and cell.task not in seen:
            seen.add(cell.task)
            recipe = cell.recipe
            model = known_model(recipe.model)
            prepare(get_method("tell"), load_task(recipe), load_general(recipe), model, recipe)


def run(study: Path, folder: Path, number: int, options: argparse.Namespace) -> None:
    """One process: its share of the cells that have no row yet."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from telltune.study.results import Results
    from telltune.study.runner import run_cells
    from telltune.study.spec import load_study

    torch.set_num_threads(1)
    spec, cells = load_study(study)
    done = {
        (row.task, row.name, row.size, row.leverage_ratio, row.seed)
        for row in Results(options.out).rows
        if row.status == "done"
    }
    left = [
        cell
        for cell in cells
        if (cell.task, cell.name, cell.size, cell.leverage_ratio, cell.seed) not in done
    ]
    general = next((cell.recipe for cell in cells if cell.recipe.general), None)
    run_cells(
        left[number :: options.processes],
        spec.forgetting,
        folder,
        split=options.split,
        general=general,
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
