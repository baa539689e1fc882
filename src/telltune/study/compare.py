"""Several methods on one task, at the same task tokens, in one table."""

from __future__ import annotations

import gc
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.data.task import load_general, load_split, load_task
from telltune.errors import RecipeError
from telltune.evaluation.headline import task_answers
from telltune.evaluation.score import (
    answer_score,
    check_metrics,
    evaluate_predictor,
    write_predictions,
)
from telltune.methods.known_model import known_model
from telltune.methods.output_folder import alone, claim, record_recipe
from telltune.methods.preparation import prepare
from telltune.methods.protocol import Settings
from telltune.methods.registry import get_method
from telltune.methods.trained import Trained
from telltune.models import load_base
from telltune.recipe import as_recipe
from telltune.storage import write_json
from telltune.training.progress import bar, phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.methods.protocol import Method
    from telltune.recipe import AnyRecipe, Recipe

__all__ = ["DEFAULT_METHODS", "Row", "compare"]

DEFAULT_METHODS = ("base", "sft", "sft_anchor", "tell")


@dataclass(frozen=True)
class Row:
    """One method's result.

    Attributes:
        method: Its name in recipes.
        score: On the test items, in `metric`'s unit.
        low: Of the confidence interval.
        high: Of the confidence interval.
        metric: The headline metric.
        task_tokens: Distinct task tokens that training used.
        general_tokens: General tokens that training used.
        seconds: Of training.
        items: Test items scored.
        warnings: Why the score may not mean what it seems to; one sentence each.
    """

    method: str
    score: float
    low: float
    high: float
    metric: str
    task_tokens: int
    general_tokens: int
    seconds: float
    items: int
    warnings: list[str] = field(default_factory=list)


def compare(
    recipe: AnyRecipe,
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    out: str | Path,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Row]:
    """Run each method and score it on the task's test items.

    Every method is checked before the first is run. Adapters go to `out/METHOD`, answers with
    their scores to `out/predictions/METHOD.jsonl`, rows to `out/summary.json`. Called again on the
    same folder with the same recipe, it runs only the methods that have no row there yet.

    Raises:
        RecipeError: An unknown method or metric, no test data, a missing anchor.
        DataError: Data that cannot be used.
    """
    chosen = [get_method(name) for name in methods]
    if not chosen:
        raise RecipeError("no method is named; give at least one, such as --method sft,tell.")
    recipe, out = as_recipe(recipe), Path(out)
    with alone(out):
        return _compare(recipe, chosen, out, overwrite=overwrite, progress=progress)


def _compare(
    recipe: Recipe, chosen: Sequence[Method], out: Path, *, overwrite: bool, progress: bool
) -> list[Row]:
    claim(out, recipe, overwrite=overwrite)
    task = load_task(recipe)
    test = load_split(recipe, "test")[: recipe.evaluation.max_items]
    answers = task_answers(recipe, task)
    check_metrics(answers.metrics)
    general = load_general(recipe) if any(method.mixes for method in chosen) else None
    model = known_model(recipe.model)
    for method in chosen:
        if isinstance(method, Trained):
            prepare(method, task, general, model, recipe)
        elif method.anchored and task.anchor is None:
            raise RecipeError(f"method `{method.name}` needs an anchor; write `anchor: ...`.")
    record_recipe(out, recipe, overwrite=overwrite)
    base = None
    summary = out / "summary.json"
    rows = [Row(**row) for row in json.loads(summary.read_text())] if summary.exists() else []
    done = {row.method for row in rows}
    for method in [method for method in chosen if method.name not in done]:
        if base is None or recipe.training.full_parameters:
            # Training every weight leaves no base for the next method.
            with phase("loading the model", shown=progress):
                base = load_base(
                    recipe.model,
                    recipe.training.precision,
                    trainable=recipe.training.full_parameters,
                )
        folder = out / method.name if method.trains else None
        settings = Settings(
            recipe, folder, progress, score=answer_score(answers.metrics[0], task.dev)
        )
        predictor = method.run(task, general, base, settings)
        with bar(shown=progress) as shown:
            item = shown.add_task(f"{method.label}: test", total=len(test))
            evaluation = evaluate_predictor(
                predictor,
                test,
                confidence=recipe.evaluation.confidence,
                seed=recipe.seed,
                answers=answers,
                on_done=lambda n, shown=shown, item=item: shown.advance(item, n),  # type: ignore[misc]
            )
        predictor.release()
        gc.collect()
        name, interval = evaluation.headline
        cost = predictor.cost
        row = Row(
            method.name,
            round(interval.score, 3),
            round(interval.low, 3),
            round(interval.high, 3),
            name,
            cost.task_tokens,
            cost.general_tokens,
            round(cost.seconds, 1),
            evaluation.items,
            list(evaluation.warnings),
        )
        rows.append(row)
        write_predictions(out / "predictions" / f"{method.name}.jsonl", test, evaluation)
        write_json(summary, [asdict(r) for r in rows])
    return rows
