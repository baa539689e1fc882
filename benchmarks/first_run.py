"""Compare the defaults with searched settings: the README's recipe on three small data sets.

The data sets were written for this benchmark: support tickets to a team (CSV), orders to JSON
(messages in JSONL), and blunt to polite sentences (Alpaca JSON). Each is fitted with the defaults
and with twelve other settings, and scored on its test items. The best of the twelve is chosen on
the test items with seed 0, which favors the search for that seed. Further seeds compare it with the
defaults. Rows are written to benchmarks/first_run.jsonl; cells that have a row are skipped.

    python benchmarks/first_run.py --seeds 0           # the defaults and the twelve
    python benchmarks/first_run.py --seeds 1 --best 1  # the defaults and the best of them
    python benchmarks/first_run.py --table             # print the table of docs/guides/defaults.md
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import telltune

HERE = Path(__file__).parent
DATA, ROWS = HERE / "first_run", HERE / "first_run.jsonl"
TICKETS = HERE.parent / "recipes" / "tickets"
COLUMNS = {"prompt": "text", "completion": "team"}
TASKS: dict[str, dict[str, Any]] = {
    "tickets": {
        "task": {
            split: {"path": str(TICKETS / f"{split}.csv"), "columns": COLUMNS}
            for split in ("train", "test")
        },
        "anchor": "You route support tickets. Name the team, nothing else.",
    },
    "orders": {
        "task": {split: str(DATA / f"orders-{split}.jsonl") for split in ("train", "test")},
        "anchor": "Turn the order into JSON with item, quantity and city.",
    },
    "polite": {
        "task": {split: str(DATA / f"polite-{split}.json") for split in ("train", "test")},
        "anchor": "Say it politely.",
    },
}
# Passes, learning rate, batch size, leverage ratio, schedule. The last was the default.
SEARCHED = (
    (10, 2e-3, 16, 2, "constant"),
    (16, 1e-3, 8, 2, "linear"),
    (8, 2e-3, 4, 2, "linear"),
    (4, 1e-3, 4, 2, "constant"),
    (8, 1e-3, 8, 2, "linear"),
    (16, 5e-4, 4, 2, "linear"),
    (16, 2e-3, 16, 2, "linear"),
    (16, 2e-3, 8, 2, "linear"),
    (8, 1e-3, 4, 2, "linear"),
    (4, 2e-3, 4, 2, "linear"),
    (8, 2e-3, 8, 8, "linear"),
    (3, 2e-4, 16, 8, "constant"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--minutes", type=float, default=600.0, help="Start no cell after that.")
    parser.add_argument("--table", action="store_true", help="Print the table; run nothing.")
    parser.add_argument(
        "--best", type=int, help="Run only the defaults and this many of the best settings."
    )
    given = parser.parse_args()
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    if given.table:
        print_table(rows)
        return
    began = time.monotonic()
    settings = [None, *SEARCHED]
    for seed, setting, task in product(given.seeds, settings, TASKS):
        cell = {"task": task, "seed": seed, "settings": setting and list(setting)}
        if (
            given.best is not None
            and setting
            and list(setting) not in leaders(rows, task)[: given.best]
        ):
            continue
        if any(cell.items() <= row.items() for row in rows):
            continue
        if time.monotonic() - began > given.minutes * 60:
            break
        row = cell | run(task, seed, setting)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def run(task: str, seed: int, setting: tuple[Any, ...] | None) -> dict[str, Any]:
    """Fit and score one cell; no setting leaves every key at its default."""
    recipe = TASKS[task] | {"general": "embedded", "seed": seed}
    if setting is not None:
        passes, rate, batch, ratio, schedule = setting
        recipe["mixture"] = {"passes": passes, "leverage_ratio": ratio}
        recipe["training"] = {"learning_rate": rate, "batch_size": batch, "schedule": schedule}
    with tempfile.TemporaryDirectory() as folder:
        done = telltune.fit(recipe, Path(folder) / "adapter", progress=False)
        scored = telltune.evaluate(done.folder, progress=False)
    name, interval = scored.headline
    counts = done.record["counts"]
    return {
        "metric": name,
        "score": round(interval.score, 1),
        "items": scored.items,
        "optimizer_steps": counts["optimizer_steps"],
        "trained_tokens": counts["trained_tokens"],
        "passes": counts["passes"],
        "seconds": round(done.record["seconds"], 1),
        "warnings": len(done.warnings),
    }


def leaders(rows: list[dict[str, Any]], task: str) -> list[list[Any]]:
    """Return the searched settings of a task, the one with the best score for seed 0 first."""
    searched = [r for r in rows if r["task"] == task and r["settings"] and r["seed"] == 0]
    return [row["settings"] for row in sorted(searched, key=lambda row: -row["score"])]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print each task's default and the searched setting that was best with seed 0."""
    print("| task | metric | defaults, by seed | best of 12, by seed | its settings | share |")
    print("|---|---|---:|---:|---|---:|")
    for task in TASKS:
        best = leaders(rows, task)[:1]
        groups = [
            [row for row in rows if row["task"] == task and row["settings"] == setting]
            for setting in (None, *best)
        ]
        if len(groups) < 2 or not groups[0]:
            continue
        mean = [fmean(row["score"] for row in group) for group in groups]
        told = [", ".join(str(row["score"]) for row in group) for group in groups]
        metric, share = groups[0][0]["metric"], f"{mean[0] / mean[1]:.0%}" if mean[1] else "-"
        print(f"| {task} | {metric} | {told[0]} | {told[1]} | {best[0]} | {share} |")


if __name__ == "__main__":
    main()
