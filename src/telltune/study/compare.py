"""Compare several methods on one task with the same task tokens."""

from __future__ import annotations

import gc
import json
import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.data.task import load_general, load_split, load_task
from telltune.errors import DataError, RecipeError
from telltune.evaluation.forgetting import held_out_general, measure_forgetting, task_format
from telltune.evaluation.headline import task_answers
from telltune.evaluation.metrics import get_metric
from telltune.evaluation.score import (
    PERPLEXITY,
    answer_score,
    check_metrics,
    evaluate_predictor,
    keep_scores,
    write_predictions,
)
from telltune.fitting.build_plan import build_run_plan, max_general_index
from telltune.fitting.model_info import load_model_info
from telltune.fitting.output_folder import check_resumable, lock_folder, record_recipe
from telltune.fitting.protocol import Settings
from telltune.fitting.trained_method import TrainedMethod
from telltune.methods.baselines import Baseline, suitable_baselines
from telltune.methods.few_shot import FewShot
from telltune.methods.registry import get_method
from telltune.models import load_base
from telltune.recipe import as_recipe
from telltune.storage import write_json
from telltune.study.spec import ForgettingSpec
from telltune.study.statistics.significance import compare_runs
from telltune.training.progress import bar, phase
from telltune.training.trackers import TrackedRun, check_trackers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.evaluation.registry import Scored
    from telltune.fitting.protocol import Method
    from telltune.recipe import AnyRecipe, Recipe

__all__ = ["ComparisonRow", "compare", "default_methods"]

_FORGETTING = ForgettingSpec(examples=32, prompts=16)


@dataclass(frozen=True)
class ComparisonRow:
    """One method's result.

    Attributes:
        method: Name of the method in recipes.
        score: Score on the test items, in the unit of `metric`.
        low: Lower bound of the confidence interval of the score.
        high: Upper bound of the confidence interval of the score.
        metric: Name of the headline metric.
        task_tokens: Number of distinct task tokens used in training.
        unlabeled_examples: Number of unlabeled inputs used in training.
        general_tokens: Number of general tokens used in training.
        seconds: Training time in seconds.
        items: Number of test items scored.
        warnings: Reasons why the score may be misleading; one sentence each.
        general_loss: Mean loss of held-out general examples without the anchor, in nats per token;
            None if no method mixes general data.
        leakage: Share of general prompts that get an answer in the task's format; None if it was
            not measured or cannot be determined.
        difference: Score minus that of `sft` on the same items; None for `sft` itself, if `sft` did
            not run, and for perplexity.
        difference_low: Lower bound of the confidence interval of `difference`.
        difference_high: Upper bound of the confidence interval of `difference`.
        p_value: Two-sided p-value of `difference`; see `compare_runs`.
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
    general_loss: float | None = None
    leakage: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    unlabeled_examples: int = 0


def default_methods(recipe: Recipe) -> list[str]:
    """Return the methods that a comparison runs by default.

    These are the base, the baselines that suit the task's answers and run on this machine, SFT
    without and with the anchor, and TELL. If the answers are labels, TELL combined with a
    classifier is added. If there are unlabeled inputs, TELL with pseudo-labels is added.

    Raises:
        DataError: The task data cannot be loaded; see `load_task`.
    """
    task = load_task(recipe)
    quick = suitable_baselines(task, recipe.evaluation.metrics or ())
    levers = ["tell_pseudo_label"] if task.unlabeled else []
    if "tfidf_linear" in quick:  # the answers are labels
        levers.insert(0, "tell_product")
    return ["base", *quick, "sft", "sft_anchor", "tell", *levers]


def compare(
    recipe: AnyRecipe,
    methods: Sequence[str] | None = None,
    *,
    out: str | Path,
    overwrite: bool = False,
    progress: bool = True,
) -> list[ComparisonRow]:
    """Run each method and score it on the task's test items.

    All methods are checked before the first one runs. Adapters and baselines are saved to
    `out/METHOD`, scored answers to `out/predictions/METHOD.jsonl`, and rows to `out/summary.json`.
    A repeated call with the same folder and recipe runs only the methods that have no row yet.

    Args:
        recipe: Recipe file, dictionary or `Recipe`.
        methods: Names of methods. Defaults to `default_methods`.
        out: Folder of the comparison.
        overwrite: Start over if the folder holds a comparison with another recipe.
        progress: Whether to show progress bars.

    Raises:
        RecipeError: A method or metric is unknown, or test data or the anchor is missing.
        DataError: The data cannot be used.
    """
    recipe, out = as_recipe(recipe), Path(out)
    names = default_methods(recipe) if methods is None else methods
    chosen = [get_method(name) for name in names]
    if not chosen:
        raise RecipeError("no method is named; name at least one, e.g. --method sft,tell.")
    with lock_folder(out):
        return _compare(recipe, chosen, out, overwrite=overwrite, progress=progress)


def _compare(
    recipe: Recipe, chosen: Sequence[Method], out: Path, *, overwrite: bool, progress: bool
) -> list[ComparisonRow]:
    check_resumable(out, recipe, overwrite=overwrite)
    check_trackers(recipe.training.report_to)
    task = load_task(recipe)
    items = load_split(recipe, "test")
    test = items[: recipe.evaluation.max_items]
    answers = task_answers(recipe, task, items)
    check_metrics(answers.metrics)
    general = load_general(recipe) if any(method.uses_general for method in chosen) else None
    model = load_model_info(recipe.model)
    used = 0
    for method in chosen:
        if isinstance(method, TrainedMethod):
            run_plan = build_run_plan(method, task, general, model, recipe)
            used = max(used, max_general_index(method, recipe, run_plan))
        elif isinstance(method, Baseline):
            method.data(task, model.tokenizer.load(), recipe)
        elif isinstance(method, FewShot):
            method.labels_of(task.train)
        elif method.anchored and task.anchor is None:
            raise RecipeError(f"method `{method.name}` needs an anchor; add `anchor: ...`.")
    record_recipe(out, recipe, overwrite=overwrite)
    held_out = _held_out(general, used, recipe.seed)
    looks = task_format([example.completion for example in task.train])
    base = None
    summary = out / "summary.json"
    rows = (
        [ComparisonRow(**row) for row in json.loads(summary.read_text())]
        if summary.exists()
        else []
    )
    done = {row.method for row in rows}
    for method in [method for method in chosen if method.name not in done]:
        if base is None or recipe.training.full_parameters:
            # Full-parameter training changes the base, so the next method needs a new one.
            with phase("loading the model", shown=progress):
                base = load_base(
                    recipe.model,
                    recipe.training.precision,
                    trainable=recipe.training.full_parameters,
                )
        saved = method.trains or isinstance(method, Baseline)
        folder = out / method.name if saved else None
        settings = Settings(
            # tell.json in each folder stores the recipe with the method of that folder.
            recipe.model_copy(update={"method": method.name}),
            folder,
            progress,
            score=answer_score(answers.metrics[0], task.dev, base.tokenizer),
            tracked=TrackedRun.of_cell(out, method.name),
        )
        with method.run(task, general, base, settings) as predictor:
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
            if folder is not None:
                keep_scores(
                    folder,
                    evaluation,
                    test,
                    task=task.name,
                    split="test",
                    of=len(items),
                    confidence=recipe.evaluation.confidence,
                )
            forgetting = None
            if held_out and predictor.model is not None:
                forgetting = measure_forgetting(
                    predictor, base.tokenizer, held_out, _FORGETTING.prompts, looks
                )
        gc.collect()
        name, interval = evaluation.headline
        cost = predictor.cost
        row = ComparisonRow(
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
            None if forgetting is None else round(forgetting.general_nll, 3),
            None
            if forgetting is None or forgetting.leakage is None
            else round(forgetting.leakage, 3),
            unlabeled_examples=cost.unlabeled_examples,
        )
        rows.append(row)
        write_predictions(out / "predictions" / f"{method.name}.jsonl", test, evaluation)
        write_json(summary, [asdict(r) for r in rows])
    rows = _against_sft(rows, out, recipe.evaluation.confidence)
    write_json(summary, [asdict(r) for r in rows])
    return rows


def _held_out(general: GeneralData | None, used: int, seed: int) -> list[Example]:
    """Return general examples that no method trains on; empty if none can be held out."""
    if general is None:
        return []
    try:
        return held_out_general(general, _FORGETTING.examples, used, seed)
    except DataError as error:
        logging.getLogger(__name__).warning("Forgetting is not measured: %s", error)
        return []


def _against_sft(rows: list[ComparisonRow], out: Path, confidence: float) -> list[ComparisonRow]:
    """Return the rows with paired differences to `sft`, computed from the saved answers."""

    def run(row: ComparisonRow) -> Scored:
        path = out / "predictions" / f"{row.method}.jsonl"
        items = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        columns = ([item[key] for item in items] for key in ("prediction", "reference", "prompt"))
        return get_metric(row.metric)(*columns)

    plain = next((row for row in rows if row.method == "sft"), None)
    if plain is None or plain.metric == PERPLEXITY:
        return rows
    binary, sft = get_metric(plain.metric).binary, [run(plain)]
    told = []
    for row in rows:
        if row is plain:
            told.append(row)
            continue
        found = compare_runs([run(row)], sft, binary=binary, confidence=confidence)
        told.append(
            replace(
                row,
                difference=round(found.difference, 3),
                difference_low=round(found.low, 3),
                difference_high=round(found.high, 3),
                p_value=round(found.p_value, 4),
            )
        )
    return told
