"""Compare the dev scores of the `auto` settings with those of one changed setting.

Each cell is a fit with SFT on some examples of an embedded task, with the rule's settings or with
one of them changed. Writes one row per cell to benchmarks/defaults_rows.jsonl, and skips cells that
have a row, so that a run can be stopped and continued. docs/guides/defaults.md has the table.

    python benchmarks/defaults.py --minutes 120
    python benchmarks/defaults.py --model gemma-3-270m.gguf --label gemma-3-270m
    python benchmarks/defaults.py --table
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from telltune.data.task import load_split, load_task
from telltune.evaluation.score import evaluate_predictor
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import load_base, model_shape
from telltune.models.threads import shared_cores
from telltune.recipe import as_recipe
from telltune.training.defaults import resolve

if TYPE_CHECKING:
    from telltune.models import LoadedModel
    from telltune.recipe import Recipe

ROWS = Path(__file__).with_name("defaults_rows.jsonl")
TASKS = ("medical_specialty", "mention_json")
SIZES = (20, 60, 200, 600)
DEV_ITEMS = 60
# Changes, the most informative first: the key of the setting and its factor.
CHANGES: dict[str, tuple[str, float] | None] = {
    "rule": None,
    "passes x 2": ("mixture.passes", 2),
    "rate x 2": ("training.learning_rate", 2),
    "rate / 2": ("training.learning_rate", 0.5),
    "passes / 2": ("mixture.passes", 0.5),
    "batch x 2": ("training.batch_size", 2),
    "batch / 2": ("training.batch_size", 0.5),
    "constant rate": ("training.schedule", 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded", help="`embedded`, a folder or a GGUF file.")
    parser.add_argument("--label", help="The model's name in the rows.")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), choices=CHANGES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, default=600.0, help="Start no cell after that.")
    parser.add_argument("--table", action="store_true", help="Print the table and stop.")
    given = parser.parse_args()
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    if given.table:
        print(table(rows))
        return
    label = given.label or Path(given.model).stem
    keys = ("model", "seed", "change", "examples", "task")
    done = {tuple(row[key] for key in keys) for row in rows}
    base = load_base(as_recipe({"model": given.model, "task": TASKS[0]}).model)
    began = time.monotonic()
    for cell in product([label], given.seeds, given.changes, given.sizes, given.tasks):
        if cell in done or time.monotonic() - began > given.minutes * 60:
            continue
        _, seed, change, examples, task = cell
        row = {"model": label, "task": task, "examples": examples, "seed": seed, "change": change}
        with shared_cores():
            row |= measure(row, given.model, base)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def measure(cell: dict[str, Any], model: str, base: LoadedModel) -> dict[str, Any]:
    """Fit one cell and score it on dev items."""
    recipe = as_recipe(
        {
            "method": "sft",
            "model": model,
            "task": {"embedded": cell["task"], "max_examples": cell["examples"]},
            "lora": {"dropout": 0},
            "seed": cell["seed"],
        }
    )
    recipe = resolve(recipe, cell["examples"], model_shape(base.model.config))
    recipe = changed(recipe, cell["change"])
    task = load_task(recipe)
    began = time.monotonic()
    predictor = get_method("sft").run(task, None, base, Settings(recipe, progress=False))
    seconds = time.monotonic() - began
    scored = evaluate_predictor(predictor, load_split(recipe, "dev")[:DEV_ITEMS], task.metrics)
    cost = predictor.cost
    predictor.release()
    name, interval = scored.headline
    return {
        "passes": recipe.mixture.passes,
        "learning_rate": recipe.training.learning_rate,
        "schedule": recipe.training.schedule,
        "batch_size": recipe.training.batch_size,
        "metric": name,
        "score": round(interval.score, 2),
        "optimizer_steps": cost.optimizer_steps,
        "trained_tokens": cost.trained_tokens,
        "training_seconds": round(seconds, 1),
        "answering_seconds": round(scored.seconds, 1),
    }


def changed(recipe: Recipe, change: str) -> Recipe:
    """Return the recipe with one setting changed."""
    step = CHANGES[change]
    if step is None:
        return recipe
    part, _, name = step[0].partition(".")
    value = getattr(getattr(recipe, part), name)
    value = "constant" if name == "schedule" else type(value)(value * step[1])
    settings = getattr(recipe, part).model_copy(update={name: value})
    return recipe.model_copy(update={part: settings})


def table(rows: list[dict[str, Any]]) -> str:
    """Return mean dev scores as Markdown, with the gain of each change over the rule."""
    lines = []
    for model in dict.fromkeys(row["model"] for row in rows):
        some = [row for row in rows if row["model"] == model]
        places = sorted({(row["task"], row["examples"]) for row in some})
        head = " | ".join(f"{task}, {examples}" for task, examples in places)
        lines += ["", f"| {model} | {head} | mean against the rule |"]
        lines += ["|---|" + "---:|" * (len(places) + 1)]
        for change in CHANGES:
            cells, gains = [], []
            for task, examples in places:
                here = {
                    (row["change"], row["seed"]): row["score"]
                    for row in some
                    if (row["task"], row["examples"]) == (task, examples)
                }
                scores = {seed: score for (what, seed), score in here.items() if what == change}
                cells.append(f"{fmean(scores.values()):.1f}" if scores else "-")
                paired = [score - here["rule", seed] for seed, score in scores.items()]
                gains += [fmean(paired)] if paired else []
            mean = f"{fmean(gains):+.1f}" if gains and change != "rule" else "-"
            lines.append(f"| {change} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
