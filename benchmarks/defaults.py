"""Which passes, learning rate, schedule and batch suit N examples: dev scores on embedded tasks.

Writes one row a cell to benchmarks/defaults_rows.jsonl and skips cells that are there already, so
that a run can be stopped and continued. docs/defaults.md has the table and the rule.

    python benchmarks/defaults.py --threads 1 --minutes 60
    python benchmarks/defaults.py --model gemma-3-270m.gguf --label gemma-3-270m
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch

from telltune.data.task import load_general, load_split, load_task
from telltune.evaluation.score import evaluate_predictor
from telltune.methods.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import as_recipe

ROWS = Path(__file__).with_name("defaults_rows.jsonl")
TASKS = ("medical_specialty", "mention_json", "restore_text")
DEV_ITEMS = 60
# Passes, learning rate, schedule, batch size. Cells of one place in this list differ in nothing
# else, and those with equal passes take equal tokens.
SETTINGS = (
    (8, 1e-3, "linear", 8),
    (8, 1e-3, "constant", 16),
    (8, 2e-3, "linear", 8),
    (8, 5e-4, "linear", 4),
    (8, 1e-3, "linear", 4),
    (16, 1e-3, "linear", 8),
    (4, 2e-3, "linear", 4),
    (4, 1e-3, "linear", 4),
    (2, 1e-3, "linear", 4),
    (2, 2e-3, "linear", 8),
    (16, 5e-4, "linear", 8),
)
# Passes tried at a number of examples; more of them would make the grid too long for two cores.
MOST_PASSES = {20: 16, 60: 16, 200: 8, 600: 4}
LEAST_PASSES = {20: 8, 60: 4, 200: 2, 600: 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded", help="`embedded`, a folder or a GGUF file.")
    parser.add_argument("--label", help="The model's name in the rows.")
    parser.add_argument("--method", default="tell", help="`tell` or `sft`.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 60])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", type=int, default=len(SETTINGS), help="The first so many.")
    parser.add_argument("--ratio", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--minutes", type=float, default=600.0, help="Begin no cell after these.")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    label = given.label or Path(given.model).stem
    done = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    base = None
    began = time.monotonic()
    cells = product(given.seeds, given.sizes, SETTINGS[: given.settings], given.tasks)
    for seed, size, (passes, rate, schedule, batch), task in cells:
        if not LEAST_PASSES[size] <= passes <= MOST_PASSES[size]:
            continue
        cell = {
            "model": label,
            "method": given.method,
            "task": task,
            "examples": size,
            "seed": seed,
            "leverage_ratio": given.ratio if given.method == "tell" else 0.0,
            "passes": passes,
            "learning_rate": rate,
            "schedule": schedule,
            "batch_size": batch,
        }
        if any(cell.items() <= row.items() for row in done):
            continue
        if time.monotonic() - began > given.minutes * 60:
            break
        base = base or load_base(as_recipe({"model": given.model, "task": TASKS[0]}).model)
        row = cell | measure(cell, given.model, base)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def measure(cell: dict[str, Any], model: str, base: Any) -> dict[str, Any]:
    """Fit one cell and score it on dev items."""
    recipe = as_recipe(
        {
            "method": cell["method"],
            "model": model,
            "task": {"embedded": cell["task"], "max_examples": cell["examples"]},
            "general": "embedded",
            "mixture": {"leverage_ratio": cell["leverage_ratio"], "passes": cell["passes"]},
            "lora": {"dropout": 0},
            "training": {
                "learning_rate": cell["learning_rate"],
                "schedule": cell["schedule"],
                "batch_size": cell["batch_size"],
            },
            "seed": cell["seed"],
        }
    )
    task, method = load_task(recipe), get_method(cell["method"])
    general = load_general(recipe) if method.mixes else None
    began = time.monotonic()
    predictor = method.run(task, general, base, Settings(recipe, progress=False))
    seconds = time.monotonic() - began
    scored = evaluate_predictor(predictor, load_split(recipe, "dev")[:DEV_ITEMS], task.metrics)
    cost = predictor.cost
    predictor.release()
    name, interval = scored.headline
    return {
        "metric": name,
        "score": round(interval.score, 2),
        "optimizer_steps": cost.optimizer_steps,
        "trained_tokens": cost.trained_tokens,
        "training_seconds": round(seconds, 1),
        "answering_seconds": round(scored.seconds, 1),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
