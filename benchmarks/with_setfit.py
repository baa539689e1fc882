"""Fit SetFit with the encoder of our baselines, on the same draws and test items.

Fits with SetFit's own package and defaults (Tunstall et al. 2022, arXiv 2209.11055), in a
separate environment: `make .venv-setfit/.ready`. Writes one row per draw to
benchmarks/setfit_rows.jsonl, and skips draws that have a row.

    python benchmarks/with_setfit.py
    python benchmarks/with_setfit.py --table
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from telltune.classifiers.features import prompt_text
from telltune.data.task import load_split, load_task
from telltune.evaluation.metrics import get_metric
from telltune.recipe import as_recipe
from telltune.valuation.embeddings import embedded_folder

ROWS = Path(__file__).with_name("setfit_rows.jsonl")
TASKS = ("medical_specialty", "answer_kind", "explicit_language")
FIT = Path(__file__).parent / "setfit_parts" / "answer.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=".venv-setfit/bin/python", help="Python with setfit.")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 60, 200])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--table", action="store_true", help="Print the table and stop.")
    given = parser.parse_args()
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    if given.table:
        print(table(rows))
        return
    done = {(row["seed"], row["examples"], row["task"]) for row in rows}
    for seed, size, name in product(range(given.draws), given.sizes, given.tasks):
        if (seed, size, name) in done:
            continue
        row = measure(name, size, seed, given.python)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def measure(name: str, size: int, seed: int, python: str) -> dict[str, Any]:
    """Fit one draw with SetFit and score its answers to the test items."""
    recipe = as_recipe({"task": {"embedded": name, "max_examples": size}, "seed": seed})
    task, test = load_task(recipe), load_split(recipe, "test")
    cell = {
        "texts": [prompt_text(example) for example in task.train],
        "labels": [example.completion for example in task.train],
        "asked": [prompt_text(example) for example in test],
        "seed": seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "cell.json", Path(folder) / "answers.json"
        asked.write_text(json.dumps(cell))
        command = [python, FIT, embedded_folder(), asked, answered]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = json.loads(answered.read_text())
    metric = get_metric(task.metrics[0])
    score = metric(found["answers"], [example.completion for example in test]).score
    return {
        "task": name,
        "examples": size,
        "seed": seed,
        "metric": metric.name,
        "score": round(score, 2),
        "seconds": round(found["seconds"], 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the mean of the draws, their deviation and mean seconds as Markdown."""
    lines = [
        "| task | metric | labels | SetFit | draws | seconds |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for task, size in sorted({(row["task"], row["examples"]) for row in rows}):
        here = [row for row in rows if (row["task"], row["examples"]) == (task, size)]
        scores = [row["score"] for row in here]
        spread = f" ({stdev(scores):.1f})" if len(scores) > 1 else ""
        seconds = fmean(row["seconds"] for row in here)
        lines.append(
            f"| {task} | {here[0]['metric']} | {size} | {fmean(scores):.1f}{spread} | "
            f"{len(scores)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
