"""The verbs as Python functions; the command line only parses, calls these and prints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.data.examples import Example
from telltune.data.report import ReadReport
from telltune.data.task import load_split, load_task
from telltune.errors import DataError, RecipeError
from telltune.evaluation.answer_warnings import answer_warnings
from telltune.evaluation.data_check import check_files, check_recipe_data
from telltune.evaluation.headline import task_answers
from telltune.evaluation.score import (
    answer_score,
    check_metrics,
    evaluate_predictor,
    keep_scores,
    write_predictions,
)
from telltune.methods.adapter_folder import read_tell
from telltune.methods.anchor_choice import propose_anchors, rank_anchors
from telltune.methods.baseline_folder import load_folder
from telltune.methods.baselines import Baseline
from telltune.methods.beforehand import beforehand
from telltune.methods.forecast import forecast
from telltune.methods.learning import warnings_after
from telltune.methods.output_folder import alone, claim, record_recipe
from telltune.methods.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import compute_dtype, load_base
from telltune.ready import get_ready, get_ready_baseline, trained_method
from telltune.recipe import AnyRecipe, DataSpec, ModelSpec, as_recipe
from telltune.shown import shown_examples
from telltune.storage import write_text
from telltune.training.log import LOG, read_log
from telltune.training.processes import processes
from telltune.training.progress import bar, phase
from telltune.training.speed import remember, training_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.data.checks import Finding
    from telltune.data.files import Split
    from telltune.evaluation.headline import TaskAnswers
    from telltune.evaluation.score import Evaluation
    from telltune.methods.anchor_choice import Ranking
    from telltune.methods.protocol import Predictor
    from telltune.methods.verify import Verification
    from telltune.ready import Ready, ReadyBaseline
    from telltune.recipe import Columns, Recipe
    from telltune.study.recommend import Recommendation
    from telltune.study.results import Row
    from telltune.study.summary import Summary

__all__ = [
    "anchor",
    "check",
    "evaluate",
    "fit",
    "plan",
    "plan_study",
    "predict",
    "predict_examples",
    "recommend",
    "report",
    "run_study",
    "show",
    "verify",
]


# After a fit so many examples are answered, and fewer where answers are long.
_ASKED, _ASKED_TOKENS = 16, 1024


@dataclass(frozen=True)
class Fit:
    """What `fit` leaves.

    Attributes:
        folder: The folder of the adapter or baseline.
        record: What its tell.json says.
        warnings: Signs that the run did not learn, a sentence each, with the setting that helps.
    """

    folder: Path
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()


def plan(recipe: AnyRecipe, *, measure: bool = True) -> dict[str, Any]:
    """What a run would do, without training.

    Its time is told from what such runs took on this machine. Before the first of them the model
    is loaded and trained on a few rows, once; every later plan answers without it.

    Args:
        recipe: A file, a dictionary or a `Recipe`.
        measure: False leaves `estimated_seconds` None where nothing is known.

    Returns:
        task_examples, task_tokens, unlabeled_examples, general_examples, general_tokens,
        leverage_ratio, passes, optimizer_steps, trained_tokens, estimated_seconds,
        estimated_memory_gib and more;
        `auto` lists the recipe keys that were `auto` and whose numbers are given here;
        `before_training` names what else the run does first, which none of the numbers counts;
        `warnings` says in sentences what the user should know before the run.

        A baseline trains nothing: of these there are the counts and `warnings` alone, and `labels`.

    Raises:
        TellError: Whatever would stop the run before its first step.
    """
    recipe = as_recipe(recipe)
    method = get_method(recipe.method)
    if isinstance(method, Baseline):
        return _baseline_plan(get_ready_baseline(recipe, method))
    return _plan(recipe, get_ready(recipe), measure=measure)


def show(recipe: AnyRecipe, n: int = 3, *, split: str = "train") -> list[dict[str, Any]]:
    """Return examples as the model sees them, chat template and anchor included.

    Args:
        recipe: A file, a dictionary or a `Recipe`.
        n: Number of examples; fewer come back where there are fewer.
        split: `train` gives the first of the run's mixture in its order, task and general examples
            alike. What a method makes or chooses before it trains (see `plan`) is not done. `dev`
            and `test` give the first task examples of that split.

    Returns:
        For each example `source` and `origin` (where it stands), `text` (what the model sees,
        decoded), `input_ids`, and `loss_mask` (1 for each token that carries loss, else 0; as many
        as `input_ids`).

    Raises:
        TellError: Whatever would stop the run before its first step.
    """
    return [one.to_dict() for one in shown_examples(as_recipe(recipe), n, split=split)]


def fit(
    recipe: AnyRecipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
    on_plan: Callable[[dict[str, Any]], None] | None = None,
) -> Fit:
    """Train an adapter, or fit a baseline.

    A run that was cut short goes on from its last checkpoint when called again on the same folder.
    The processes of torchrun or `accelerate launch` all call this, on a folder that all can reach.

    Args:
        recipe: A file, a dictionary or a `Recipe`.
        out: The folder of the adapter or baseline.
        overwrite: Train again where a finished run, or one with another recipe, already is.
        progress: Show a bar.
        on_plan: Gets what `plan(recipe, measure=False)` says, before the model is loaded.

    Raises:
        TellError: One sentence that says what, where, and what to do.
    """
    began = time.perf_counter()
    recipe, out = as_recipe(recipe), Path(out)
    method = get_method(recipe.method)
    if isinstance(method, Baseline):
        return _fit_baseline(
            recipe, method, out, overwrite=overwrite, progress=progress, on_plan=on_plan
        )
    trained_method(recipe)
    together = processes()
    shown = progress and together.first
    with together.noticing_loss(), alone(out) if together.first else nullcontext():
        if together.first:
            claim(out, recipe, overwrite=overwrite)
        # What the first encodes and converts the others find on disk.
        with together.first_before_others():
            with phase("reading and encoding the data", shown=shown):
                ready = get_ready(recipe)
            if on_plan is not None and together.first:
                on_plan(_plan(recipe, ready, measure=False))
            with phase("loading the model", shown=shown):
                base = load_base(
                    recipe.model,
                    recipe.training.precision,
                    trainable=recipe.training.full_parameters,
                )
            if together.first:
                record_recipe(out, recipe, overwrite=overwrite)
        settings = Settings(
            recipe,
            out,
            shown,
            ready.prepared,
            score=answer_score(ready.answers.metrics[0], ready.task.dev, base.tokenizer),
        )
        with ready.method.run(ready.task, ready.general, base, settings) as predictor:
            warnings = warnings_after(ready.prepared, ready.task.train, read_log(out / LOG))
            if together.count == 1:
                warnings += _ask(predictor, ready)
        record = read_tell(out)
        together.wait()
    if together.count == 1:
        besides = time.perf_counter() - began - record["seconds"]
        remember(training_shape(ready.shape, recipe), "fit", load_seconds=besides)
    return Fit(out, record, tuple(warnings))


def _fit_baseline(
    recipe: Recipe,
    method: Baseline,
    out: Path,
    *,
    overwrite: bool,
    progress: bool,
    on_plan: Callable[[dict[str, Any]], None] | None,
) -> Fit:
    """Fit a baseline. Only `probe` loads the base model; the others need its tokenizer alone."""
    if processes().count > 1:
        raise RecipeError(
            f"method `{method.name}` has no work for several processes; start it without torchrun "
            "or accelerate."
        )
    with alone(out):
        claim(out, recipe, overwrite=overwrite)
        with phase("reading the data", shown=progress):
            ready = get_ready_baseline(recipe, method)
        if on_plan is not None:
            on_plan(_baseline_plan(ready))
        record_recipe(out, recipe, overwrite=overwrite)
        with phase("fitting the baseline", shown=progress):
            method.fit(ready.task, ready.tokenizer, Settings(recipe, out))
        return Fit(out, read_tell(out))


def _baseline_plan(ready: ReadyBaseline) -> dict[str, Any]:
    return {
        "method": ready.method.name,
        "task": ready.task.name,
        **ready.data.cost.counts(),
        "labels": list(ready.data.labels),
        "warnings": list(ready.warnings),
    }


def _ask(predictor: Predictor, ready: Ready) -> list[str]:
    """Answer a few examples, and say what is wrong with all the answers together."""
    count = min(_ASKED, _ASKED_TOKENS // predictor.max_new_tokens)
    examples = (ready.task.dev or ready.task.train)[:count]
    references = [predictor.answer(example.completion) for example in examples]
    predictor = replace(predictor, in_process=True)
    answers = predictor.predict(examples)
    return answer_warnings(predictor, answers, references, ready.answers.labels)


def _plan(recipe: Recipe, ready: Ready, *, measure: bool) -> dict[str, Any]:
    expected = forecast(ready.prepared, ready.shape, measure=measure, ready_seconds=ready.seconds)
    bf16 = compute_dtype(recipe.training.precision).itemsize == 2
    return {
        "method": ready.method.name,
        "task": ready.task.name,
        **ready.prepared.counts.to_dict(),
        "unlabeled_examples": ready.unlabeled,
        "learning_rate": ready.prepared.recipe.training.learning_rate,
        "schedule": ready.prepared.recipe.training.schedule,
        "batch_size": ready.prepared.recipe.training.batch_size,
        "auto": sorted(ready.prepared.settings),
        "computed_tokens": expected.computed_tokens,
        "precision": "bf16" if bf16 else "fp32",
        "estimated_seconds": None if expected.seconds is None else round(expected.seconds, 1),
        "estimated_memory_gib": round(expected.memory_gib, 2),
        "before_training": beforehand(ready.method, recipe),
        "warnings": list(ready.warnings),
    }


def evaluate(
    adapter: str | Path,
    recipe: AnyRecipe | None = None,
    *,
    split: str = "test",
    metrics: Sequence[str] = (),
    max_items: int | None = None,
    predictions: Path | None = None,
    trust_model: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Score an adapter or baseline on held-out items, and keep the scores in its model card.

    Args:
        adapter: A folder from `fit`.
        recipe: Whose task to score on; the adapter's own if not given.
        split: `test` or `dev`.
        metrics: Names, the headline first.
        max_items: Score the first so many only.
        predictions: Write prompts, references, answers and scores to this JSONL file.
        trust_model: Let the base's own code run and pickles be read, if tell.json asks for it.
        progress: Show a bar.
    """
    folder = Path(adapter)
    record = read_tell(folder)
    if split not in ("test", "dev"):
        raise RecipeError(f"--split {split}: give `test` or `dev`.")
    recipe = as_recipe(recipe if recipe is not None else record["recipe"])
    metrics = tuple(metrics) or tuple(recipe.evaluation.metrics or ())
    check_metrics(metrics)
    read = ReadReport()
    all_items = load_split(recipe, "test" if split == "test" else "dev", read)
    answers: TaskAnswers | None = None
    unread: tuple[str, ...] = ()
    task_name = None
    try:
        task = load_task(recipe)
        answers = task_answers(recipe, task, all_items if split == "test" else None)
        task_name = task.name
    except DataError as error:
        # An adapter can be scored where its training data are not.
        told = f"the metrics and warnings follow from the {split} items alone"
        unread = (f"the training data cannot be read, so {told}: {error}",)
    items = all_items[: max_items or recipe.evaluation.max_items]
    with phase("loading the model", shown=progress):
        predictor = load_folder(
            folder,
            precision=recipe.training.precision,
            evaluation=recipe.evaluation,
            trust_model=trust_model,
        )
    with bar(shown=progress) as shown:
        counter = shown.add_task(f"{folder.name}: {split}", total=len(items))
        evaluation = evaluate_predictor(
            predictor,
            items,
            metrics,
            confidence=recipe.evaluation.confidence,
            seed=recipe.seed,
            answers=answers,
            on_done=lambda n: shown.advance(counter, n),
        )
    if predictions is not None:
        write_predictions(predictions, items, evaluation)
    warnings = (*unread, *evaluation.warnings, *read.warnings(f"task.{split}"))
    evaluation = replace(evaluation, warnings=warnings)
    keep_scores(
        folder,
        evaluation,
        items,
        task=task_name or items[0].source,
        split="test" if split == "test" else "dev",
        of=len(all_items),
        confidence=recipe.evaluation.confidence,
    )
    return evaluation


def predict(
    adapter: str | Path,
    prompts: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    trust_model: bool = False,
) -> list[str]:
    """Answer prompts with a folder from `fit`, greedily; `trust_model` as in `evaluate`."""
    return predict_examples(
        adapter,
        [Example(prompt, "") for prompt in prompts],
        max_new_tokens=max_new_tokens,
        trust_model=trust_model,
    )


def predict_examples(
    adapter: str | Path,
    examples: Sequence[Example],
    *,
    max_new_tokens: int | None = None,
    trust_model: bool = False,
    progress: bool = False,
) -> list[str]:
    """As `predict`, for prompts with turns before them."""
    with phase("loading the model", shown=progress):
        predictor = load_folder(Path(adapter), trust_model=trust_model)
    if max_new_tokens is not None:
        if predictor.model is None:
            raise RecipeError(
                f"{adapter} is a baseline, whose answers come whole from the training data; leave "
                "out max_new_tokens."
            )
        predictor.max_new_tokens = max_new_tokens
    if predictor.anchor is not None:
        examples = [predictor.anchor.detach(example) for example in examples]
    with bar(shown=progress) as shown:
        counter = shown.add_task("predict", total=len(examples))
        return predictor.predict(examples, on_done=lambda n: shown.advance(counter, n))


def verify(adapter: str | Path) -> Verification:
    """Look at all that tell.json claims in a folder from `fit`; see `methods.verify`.

    Args:
        adapter: The folder of an adapter or baseline.
    """
    from telltune.methods.verify import verify as verified

    return verified(Path(adapter))


def check(
    data: Recipe | str | Path | Mapping[Split, Sequence[str]],
    *,
    columns: Columns | None = None,
    model: str | None = None,
    max_length: int | None = None,
) -> tuple[dict[str, int], list[Finding]]:
    """Look through data for what would be refused, and for what should be looked at.

    Args:
        data: A recipe or its file, for all that it names, or paths by split. `train`, and a
            recipe's general data, are held against every other split.
        columns: Which columns of the files hold what; a recipe says it for itself.
        model: Whose tokenizer to count tokens and know control tokens with. By default the
            recipe's, and none for paths.
        max_length: Longest example in tokens. By default the recipe's, and none for paths.

    Returns:
        Number of examples by split, and of general data, and the findings.

    Raises:
        TellError: There is no such recipe, file or model.
    """
    if isinstance(data, Mapping):
        specs: dict[Split, list[DataSpec]] = {
            split: [DataSpec(path=path, columns=columns) for path in paths]
            for split, paths in data.items()
        }
        of_model = None if model is None else ModelSpec(name=model)
        return check_files(specs, model=of_model, max_length=max_length)
    recipe = as_recipe(data)
    return check_recipe_data(
        recipe,
        model=recipe.model if model is None else ModelSpec(name=model),
        max_length=max_length or recipe.training.max_length,
    )


def anchor(recipe: AnyRecipe, *, candidates: int = 8) -> Ranking:
    """Propose anchors and rank them, with the recipe's own and none, by loss before training.

    Raises:
        DataError: No task example is left to rank on besides those that the model is shown.
    """
    recipe = as_recipe(recipe)
    task = load_task(recipe)
    base = load_base(recipe.model, recipe.training.precision)
    return rank_anchors(base, task, propose_anchors(base, task, candidates, recipe.seed))


def run_study(
    study: str | Path,
    out: str | Path,
    *,
    progress: bool = True,
    ray: str | None = None,
    cpus: float = 1.0,
    gpus: float | None = None,
) -> tuple[Summary, list[Row]]:
    """Run methods x sizes x seeds on tasks: every cell that has no finished row in `out` yet.

    Args:
        study: A YAML file; see `StudySpec`.
        out: Where results.jsonl, answers, summary.json and report.html go, and study.yaml with
            all that the study says.
        progress: Show a bar.
        ray: Run the cells on this Ray cluster: `auto` or HOST:PORT; here if None.
        cpus: For each cell there.
        gpus: For each cell there; one if not given, where the cluster has any.

    Returns:
        What all rows in the folder say, and the rows of this study.

    Raises:
        TellError: A study that cannot be run, or not one cell of it could.
    """
    from telltune.study.cluster import connect
    from telltune.study.report import write_report
    from telltune.study.runner import run_cells
    from telltune.study.spec import STUDY_FILE, load_study

    out = Path(out)
    spec, cells = load_study(study)
    cluster = None if ray is None else connect(ray, cpus=cpus, gpus=gpus)
    write_text(out / STUDY_FILE, spec.to_yaml())
    rows = run_cells(cells, spec.forgetting, out, progress=progress, cluster=cluster)
    return write_report(out), rows


def report(out: str | Path) -> Path:
    """Write a study's report anew, of the cells that are finished.

    Args:
        out: The study's folder, running or not.

    Returns:
        The page, one HTML file that needs no network; summary.json stands beside it.

    Raises:
        StorageError: There are no finished cells.
    """
    from telltune.study.report import REPORT, write_report

    write_report(Path(out))
    return Path(out) / REPORT


def recommend(
    recipe: AnyRecipe, out: str | Path, *, minutes: float = 60.0, progress: bool = True
) -> Recommendation:
    """Search on dev items for the method and settings that suit a task; see `study.recommend`.

    Args:
        recipe: The task, the model, and the settings to begin with.
        out: Where what was tried goes, and `recipe.yaml`, the recipe to use.
        minutes: To spend.
        progress: Show a bar.
    """
    from telltune.study.recommend import recommend as recommended

    return recommended(recipe, Path(out), minutes=minutes, progress=progress)


def plan_study(
    study: str | Path, out: str | Path | None = None, *, measure: bool = True
) -> dict[str, Any]:
    """What a study will take, without running any of it.

    Args:
        study: A YAML file.
        out: Its folder, whose finished cells are left out and tell how long answering takes.
        measure: False leaves times None where this machine has not trained such a model yet.

    Returns:
        cells, finished, trained_tokens, training_seconds, answering_seconds (None where no cell
        has been run yet) and problems: of cells that cannot run, title and reason.
    """
    from telltune.study.planning import plan_cells
    from telltune.study.spec import asks_aside, load_study

    spec, cells = load_study(study)
    planned = plan_cells(
        cells,
        None if out is None else Path(out),
        measure=measure,
        aside=asks_aside(cells, spec.forgetting),
    )
    training = [one.training_seconds for one in planned]
    answering = [one.answering_seconds for one in planned]
    return {
        "cells": len(cells),
        "finished": len(cells) - len(planned),
        "trained_tokens": sum(one.trained_tokens for one in planned),
        "training_seconds": _sum(training),
        "answering_seconds": _sum(answering),
        "problems": [
            {"cell": one.cell.title, "reason": one.problem} for one in planned if one.problem
        ],
    }


def _sum(values: list[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [value for value in values if value is not None]
    return round(sum(known), 1) if len(known) == len(values) else None
