"""Score settings on dev items, to choose the demo's task and settings.

    python benchmarks/choices.py METHOD TASK key=value ...

Fits one method on one embedded task, scores it on the task's dev items (never on test), and adds a
row to choices.jsonl, unless the same row exists.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from machine import describe
from telltune.data.task import load_general, load_split, load_task
from telltune.evaluation.score import evaluate_predictor
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import recipe_from_dict

ROWS = Path(__file__).parent / "choices.jsonl"


def main() -> None:
    """Run one row."""
    method, name, *overrides = sys.argv[1:]
    row = {"method": method, "task": name, "overrides": overrides}
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    if any(row.items() <= earlier.items() for earlier in rows):
        print("This row is in choices.jsonl already.")
        return
    recipe = recipe_from_dict(
        {"task": {"embedded": name}, "general": "embedded"}, overrides=overrides
    )
    task, base = load_task(recipe), load_base(recipe.model)
    predictor = get_method(method).run(task, load_general(recipe), base, Settings(recipe))
    result = evaluate_predictor(predictor, load_split(recipe, "dev"), task.metrics)
    metric, interval = result.headline
    cost = predictor.cost
    row |= {
        "split": "dev",
        "metric": metric,
        "score": round(interval.score, 2),
        "task_tokens": cost.task_tokens,
        "general_tokens": cost.general_tokens,
        "train_seconds": round(cost.seconds, 1),
        "machine": describe(),
    }
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{method} {name} {metric} {interval.score:.1f} after {cost.seconds:.0f} s")


if __name__ == "__main__":
    main()
