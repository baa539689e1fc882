"""Measure tokens, seconds and accuracy of several inputs per prompt.

    python benchmarks/over_prompt.py     # 3 minutes on two cores; existing rows are kept

The embedded model answers 100 test items of two embedded tasks, after the anchor and one solved
group of training examples. Settings are the number of inputs per prompt, the form of replies (lines
or JSON), and the grouping of inputs (as given, shuffled, or by similarity).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import describe
from telltune.cli.console import print_table
from telltune.data.task import load_split, load_task
from telltune.evaluation.score import evaluate_predictor
from telltune.fitting.protocol import Settings
from telltune.methods.over_prompt import OVER_PROMPT
from telltune.models import load_base
from telltune.recipe import recipe_from_dict

RESULTS = Path(__file__).with_suffix(".json")
TASKS = ("answer_kind", "medical_specialty")
ITEMS = 100
SETTINGS: tuple[tuple[int, str, str], ...] = (
    *((n, "lines", "given") for n in (1, 2, 5, 10, 20)),
    (5, "json", "given"),
    (10, "json", "given"),
    (10, "lines", "shuffled"),
    (10, "lines", "topic"),
)


def main() -> None:
    """Measure what is missing, and print the table."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    for task in TASKS:
        for inputs, answers, order in SETTINGS:
            setting = {"task": task, "inputs": inputs, "answers": answers, "order": order}
            if not any(setting.items() <= row.items() for row in found["rows"]):
                found["rows"].append(setting | measure(**setting))
                found["machine"] = describe()
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    shown = [
        (
            row["task"],
            f"{row['inputs']}, {row['answers']}, {row['order']}",
            f"{row['accuracy']:.0f}",
            str(row["input_tokens"]),
            str(row["output_tokens"]),
            f"{row['seconds']:.1f}",
            str(row["prompts"]),
            f"{row['retried']}, {row['halved']}, {row['unread']}",
        )
        for row in found["rows"]
    ]
    columns = ("task", "inputs", "right, %", "read", "written", "s", "prompts", "again, half, none")
    print_table(f"{ITEMS} items", columns, shown)


def measure(task: str, inputs: int, answers: str, order: str) -> dict[str, Any]:
    """Return the scores and costs of one setting."""
    values = {
        "task": task,
        "over_prompt": {"inputs": inputs, "answers": answers, "order": order},
        "evaluation": {"max_items": ITEMS},
    }
    recipe = recipe_from_dict(values)
    base = load_base(recipe.model)
    items = load_split(recipe, "test")[:ITEMS]
    predictor = OVER_PROMPT.run(load_task(recipe), None, base, Settings(recipe))
    began = time.perf_counter()
    evaluation = evaluate_predictor(predictor, items, ["accuracy"])
    return {
        "accuracy": evaluation.headline[1].score,
        "seconds": round(time.perf_counter() - began, 2),
        **asdict(predictor.usage),
    }


if __name__ == "__main__":
    main()
