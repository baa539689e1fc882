"""Python functions of the verbs. The command line parses arguments, calls these and prints."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.checked_run import check_baseline, check_run, trained_method
from telltune.data.contents import contents_of
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
    write_predictions,
)
from telltune.fitting.adapter_folder import read_tell
from telltune.fitting.anchor_choice import propose_anchors, rank_anchors
from telltune.fitting.baseline_folder import load_folder
from telltune.fitting.forecast import forecast
from telltune.fitting.learning_warnings import warnings_after
from telltune.fitting.model_card import record_scores
from telltune.fitting.output_folder import check_resumable, lock_folder, record_recipe
from telltune.fitting.pre_training import describe_pre_training
from telltune.fitting.protocol import Settings
from telltune.inference.api_client import api_client
from telltune.methods.baselines import Baseline
from telltune.methods.registry import get_method
from telltune.models import compute_dtype, load_base, load_base_of
from telltune.preview import shown_examples
from telltune.recipe import AnyRecipe, DataSpec, ModelSpec, as_recipe
from telltune.storage import write_text
from telltune.training.log import LOG, read_log
from telltune.training.processes import processes
from telltune.training.progress import bar, phase
from telltune.training.speed import remember, training_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import TrainerCallback

    from telltune.checked_run import CheckedBaseline, CheckedRun
    from telltune.data.checks import Finding
    from telltune.data.files import Split
    from telltune.evaluation.headline import TaskAnswers
    from telltune.evaluation.score import Evaluation
    from telltune.fitting.anchor_choice import Ranking
    from telltune.fitting.protocol import Predictor
    from telltune.recipe import Columns, Recipe
    from telltune.study.results import ResultRow
    from telltune.study.statistics.summary import Summary

__all__ = [
    "anchor",
    "check",
    "evaluate",
    "fit",
    "plan",
    "plan_study",
    "predict",
    "predict_examples",
    "report",
    "run_study",
    "show",
]


# Number of examples answered after a fit to check the answers, and the limit on their new tokens.
_ASKED, _ASKED_TOKENS = 16, 1024


@dataclass(frozen=True)
class Fit:
    """Result of `fit`.

    Attributes:
        folder: Folder of the adapter or baseline.
        record: Contents of its tell.json.
        warnings: Signs that the run did not learn, one sentence each, with the setting that helps.
    """

    folder: Path
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()


def plan(recipe: AnyRecipe, *, measure: bool = True) -> dict[str, Any]:
    """Return the counts, time and memory of a run without training it.

    The time estimate uses the durations of similar runs on this machine. If there are none, the
    model is loaded once and trained on a few rows; later plans need no model.

    Args:
        recipe: Recipe file, dictionary or `Recipe`.
        measure: Whether to measure the speed if it is unknown. If False, `estimated_seconds` is
            None in that case.

    Returns:
        task_examples, task_tokens, unlabeled_examples, general_examples, general_tokens,
        leverage_ratio, passes, optimizer_steps, trained_tokens, estimated_seconds,
        estimated_memory_gib and more;
        `auto` lists the recipe keys that were `auto` and whose numbers are given here;
        `before_training` lists the steps before training, which none of the numbers includes;
        `warnings` lists warnings about the run, one sentence each.

        For a baseline, which trains nothing, only the counts, `labels` and `warnings`.

    Raises:
        TellError: The run would stop before its first step.
    """
    recipe = as_recipe(recipe)
    method = get_method(recipe.method)
    if isinstance(method, Baseline):
        return _baseline_plan(check_baseline(recipe, method))
    return _plan(recipe, check_run(recipe), measure=measure)


def show(recipe: AnyRecipe, n: int = 3, *, split: str = "train") -> list[dict[str, Any]]:
    """Return examples as the model sees them, chat template and anchor included.

    Args:
        recipe: Recipe file, dictionary or `Recipe`.
        n: Maximum number of examples.
        split: `train` returns the first task and general examples of the run's mixture, in order.
            Steps before training (see `plan`) are skipped. `dev` and `test` return the first task
            examples of that split.

    Returns:
        For each example `source`, `origin` (file and line), `text` (decoded model input),
        `input_ids`, and `loss_mask` (1 for each token that carries loss, else 0; same length as
        `input_ids`).

    Raises:
        TellError: The run would stop before its first step.
    """
    return [one.to_dict() for one in shown_examples(as_recipe(recipe), n, split=split)]


def fit(
    recipe: AnyRecipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
    on_plan: Callable[[dict[str, Any]], None] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Fit:
    """Train an adapter, or fit a baseline.

    Called again on the same folder, an interrupted run resumes from its last checkpoint. Under
    torchrun or `accelerate launch`, every process calls this function on the same shared folder.

    Args:
        recipe: Recipe file, dictionary or `Recipe`.
        out: Output folder of the adapter or baseline.
        overwrite: Whether to replace a finished run, or a run of another recipe, in `out`.
        progress: Whether to show a progress bar.
        on_plan: Function called with the result of `plan(recipe, measure=False)` before the model
            is loaded.
        callbacks: Callbacks of transformers for the training loop. A callback may end training.

    Raises:
        TellError: The recipe, data, model or folder cannot be used.
    """
    began = time.perf_counter()
    recipe, out = as_recipe(recipe), Path(out)
    method = get_method(recipe.method)
    if isinstance(method, Baseline):
        if callbacks:
            raise RecipeError(
                f"method `{method.name}` has no training loop to call back; leave out `callbacks`."
            )
        return _fit_baseline(
            recipe, method, out, overwrite=overwrite, progress=progress, on_plan=on_plan
        )
    trained_method(recipe)
    together = processes()
    shown = progress and together.first
    with together.noticing_loss(), lock_folder(out) if together.first else nullcontext():
        if together.first:
            check_resumable(out, recipe, overwrite=overwrite)
        # The first process encodes and converts; the others read the results from disk.
        with together.first_before_others():
            with phase("reading and encoding the data", shown=shown):
                ready = check_run(recipe)
            if on_plan is not None and together.first:
                on_plan(_plan(recipe, ready, measure=False))
            with phase("loading the model", shown=shown):
                base = load_base_of(recipe)
            if together.first:
                record_recipe(out, recipe, overwrite=overwrite)
        settings = Settings(
            recipe,
            out,
            shown,
            ready.run_plan,
            score=answer_score(ready.answers.metrics[0], ready.task.dev, base.tokenizer),
            callbacks=callbacks,
        )
        with ready.method.run(ready.task, ready.general, base, settings) as predictor:
            warnings = warnings_after(ready.run_plan, ready.task.train, read_log(out / LOG))
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
    """Fit a baseline. Only `probe` loads the base model; the others need only its tokenizer."""
    if processes().count > 1:
        raise RecipeError(
            f"method `{method.name}` runs in one process only; start it without torchrun or "
            "accelerate."
        )
    with lock_folder(out):
        check_resumable(out, recipe, overwrite=overwrite)
        with phase("reading the data", shown=progress):
            ready = check_baseline(recipe, method)
        if on_plan is not None:
            on_plan(_baseline_plan(ready))
        record_recipe(out, recipe, overwrite=overwrite)
        with phase("fitting the baseline", shown=progress):
            method.fit(ready.task, ready.tokenizer, Settings(recipe, out))
        return Fit(out, read_tell(out))


def _baseline_plan(ready: CheckedBaseline) -> dict[str, Any]:
    return {
        "method": ready.method.name,
        "task": ready.task.name,
        **ready.data.cost.counts(),
        "labels": list(ready.data.labels),
        "warnings": list(ready.warnings),
    }


def _ask(predictor: Predictor, ready: CheckedRun) -> list[str]:
    """Answer a few examples, and return warnings about the answers as a whole."""
    count = min(_ASKED, _ASKED_TOKENS // predictor.max_new_tokens)
    examples = (ready.task.dev or ready.task.train)[:count]
    references = [predictor.answer(example.completion) for example in examples]
    predictor = replace(predictor, in_process=True)
    answers = predictor.predict(examples)
    return answer_warnings(predictor, answers, references, ready.answers.labels)


def _plan(recipe: Recipe, ready: CheckedRun, *, measure: bool) -> dict[str, Any]:
    expected = forecast(ready.run_plan, ready.shape, measure=measure, ready_seconds=ready.seconds)
    bf16 = compute_dtype(recipe.training.precision).itemsize == 2
    return {
        "method": ready.method.name,
        "task": ready.task.name,
        **ready.run_plan.counts.to_dict(),
        "unlabeled_examples": ready.unlabeled,
        "learning_rate": ready.run_plan.recipe.training.learning_rate,
        "schedule": ready.run_plan.recipe.training.schedule,
        "batch_size": ready.run_plan.recipe.training.batch_size,
        "auto": sorted(ready.run_plan.settings),
        "computed_tokens": expected.computed_tokens,
        "precision": "bf16" if bf16 else "fp32",
        "estimated_seconds": None if expected.seconds is None else round(expected.seconds, 1),
        "estimated_memory_gib": round(expected.memory_gib, 2),
        "before_training": describe_pre_training(ready.method, ready.run_plan.recipe),
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
        adapter: Output folder of `fit`.
        recipe: Recipe with the task to score on; by default the adapter's own.
        split: `test` or `dev`.
        metrics: Names of metrics, the headline metric first.
        max_items: Maximum number of items to score, from the start of the split.
        predictions: JSONL file for prompts, references, answers and scores.
        trust_model: Whether to run the base model's own code and read pickle files if tell.json
            asks for it.
        progress: Whether to show progress bars.
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
        # An adapter can be scored on a machine that lacks its training data.
        told = f"the metrics and warnings use only the {split} items"
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
    found = evaluation.to_dict()
    record_scores(
        folder,
        {
            "task": task_name or items[0].source,
            "split": split,
            "sha256": contents_of(items).digest,
            "items": found["items"],
            "of": len(all_items),
            "confidence": recipe.evaluation.confidence,
            "scores": found["scores"],
            "warnings": found["warnings"],
        },
    )
    return evaluation


def predict(
    adapter: str | Path,
    prompts: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    trust_model: bool = False,
) -> list[str]:
    """Answer prompts greedily with an output folder of `fit`; `trust_model` as in `evaluate`."""
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
    """Answer examples as `predict` does; each may have turns before its prompt."""
    with phase("loading the model", shown=progress):
        predictor = load_folder(Path(adapter), trust_model=trust_model)
    if max_new_tokens is not None:
        if predictor.model is None:
            raise RecipeError(
                f"{adapter} is a baseline, which answers with whole training answers; leave out "
                "max_new_tokens."
            )
        predictor.max_new_tokens = max_new_tokens
    if predictor.anchor is not None:
        examples = [predictor.anchor.detach(example) for example in examples]
    with bar(shown=progress) as shown:
        counter = shown.add_task("predict", total=len(examples))
        return predictor.predict(examples, on_done=lambda n: shown.advance(counter, n))


def check(
    data: Recipe | str | Path | Mapping[Split, Sequence[str]],
    *,
    columns: Columns | None = None,
    model: str | None = None,
    max_length: int | None = None,
) -> tuple[dict[str, int], list[Finding]]:
    """Find rows that would be refused and rows that are suspicious.

    Args:
        data: Recipe or recipe file, to check all data that it names; or paths by split. `train`
            and a recipe's general data are compared with every other split.
        columns: Columns of the files. A recipe names its own.
        model: Model whose tokenizer counts tokens and finds control tokens. By default the
            recipe's model; for paths, none.
        max_length: Longest example in tokens. By default the recipe's; for paths, none.

    Returns:
        The number of examples by split and of general data, and the findings.

    Raises:
        TellError: The recipe, a file or the model does not exist.
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
    """Propose anchors and rank them by loss before training.

    The ranking includes the recipe's own anchor and no anchor. If the recipe has a teacher, it
    proposes the anchors; the base model ranks them.

    Raises:
        DataError: The examples shown to the model leave no task example to rank on.
        ModelError: The teacher cannot be asked.
    """
    recipe = as_recipe(recipe)
    task = load_task(recipe)
    base = load_base(recipe.model, recipe.training.precision)
    if recipe.teacher is None:
        return rank_anchors(base, task, propose_anchors(base, task, candidates, recipe.seed))
    teacher = api_client(recipe.teacher)
    proposals = propose_anchors(base, task, candidates, recipe.seed, teacher)
    ranking = rank_anchors(base, task, proposals, proposer="teacher")
    return replace(ranking, notes=(teacher.usage.told(recipe.teacher),))


def run_study(
    study: str | Path,
    out: str | Path,
    *,
    progress: bool = True,
    ray: str | None = None,
    cpus: float = 1.0,
    gpus: float | None = None,
) -> tuple[Summary, list[ResultRow]]:
    """Run methods x sizes x seeds on tasks: every cell without a finished row in `out`.

    Args:
        study: Study file in YAML; see `StudySpec`.
        out: Output folder for results.jsonl, answers, summary.json, report.html, and study.yaml
            with the whole study.
        progress: Whether to show progress bars.
        ray: Ray cluster that runs the cells: `auto` or HOST:PORT. None runs them on this machine.
        cpus: CPUs per cell on the cluster.
        gpus: GPUs per cell on the cluster; by default one if the cluster has GPUs.

    Returns:
        The summary of all rows in the folder, and the rows of this study.

    Raises:
        TellError: The study cannot be run, or none of its cells can.
    """
    from telltune.study.cluster import connect
    from telltune.study.report.page import write_report
    from telltune.study.runner import run_cells
    from telltune.study.spec import STUDY_FILE, load_study

    out = Path(out)
    spec, cells = load_study(study)
    elsewhere = None if ray is None else connect(ray, cpus=cpus, gpus=gpus).run
    write_text(out / STUDY_FILE, spec.to_yaml())
    rows = run_cells(cells, spec.forgetting, out, progress=progress, elsewhere=elsewhere)
    return write_report(out), rows


def report(out: str | Path) -> Path:
    """Write a study's report again from its finished cells.

    Args:
        out: Folder of the study, which may still be running.

    Returns:
        Path of the report, one HTML file that needs no network. summary.json is written to the
        same folder.

    Raises:
        StorageError: There are no finished cells.
    """
    from telltune.study.report.page import REPORT, write_report

    write_report(Path(out))
    return Path(out) / REPORT


def plan_study(
    study: str | Path, out: str | Path | None = None, *, measure: bool = True
) -> dict[str, Any]:
    """Return the size and time of a study without running it.

    Args:
        study: Study file in YAML.
        out: Folder of the study. Its finished cells are skipped, and their answering times are
            used for the estimate.
        measure: Whether to measure unknown speeds. If False, times are None if this machine has
            not trained such a model yet.

    Returns:
        cells, finished, trained_tokens, training_seconds, answering_seconds (None if no cell has
        been run yet) and problems, with the title and reason of each cell that cannot run.
    """
    from telltune.study.planning import plan_cells
    from telltune.study.spec import load_study, measures_forgetting

    spec, cells = load_study(study)
    planned = plan_cells(
        cells,
        None if out is None else Path(out),
        measure=measure,
        needs_forgetting=measures_forgetting(cells, spec.forgetting),
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
    """Return the sum, or None if a value is unknown."""
    known = [value for value in values if value is not None]
    return round(sum(known), 1) if len(known) == len(values) else None
