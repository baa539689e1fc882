"""Preparation of a run without model weights: checked data and settings, with warnings.

`telltune.recipe` rejects recipes that no machine could run. `check_recipe` checks the rest, before
anything is loaded: names of methods, metrics and trackers, the files of every split (test data
included), the general data and the model. `check_run` then loads and encodes the data.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from telltune.data.embedded import embedded_task
from telltune.data.files import Split, files_of, left_out
from telltune.data.loaders import scan
from telltune.data.task import TaskData, load_general, load_task, named_data, unlabeled_beside
from telltune.errors import RecipeError, TellError
from telltune.evaluation.answer_warnings import data_warnings, warnings_before_training
from telltune.evaluation.headline import TaskAnswers, task_answers
from telltune.evaluation.score import check_metrics
from telltune.fitting.build_plan import build_run_plan, check_needs
from telltune.fitting.learning_warnings import warnings_before
from telltune.fitting.model_info import ModelInfo, load_model_info
from telltune.fitting.predictor import check_labels
from telltune.fitting.trained_method import TrainedMethod
from telltune.inference.api_client import api_key
from telltune.inference.labels import labels_of
from telltune.methods.registry import get_method
from telltune.models import ModelShape, check_named, layers_left_out, load_tokenizer
from telltune.training.libraries import check_libraries
from telltune.training.trackers import check_trackers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedTokenizerBase

    from telltune.data.general import GeneralData
    from telltune.fitting.run_plan import RunPlan
    from telltune.methods.baselines import Baseline, BaselineData
    from telltune.recipe import DataSpec, Recipe

_NOTHING_TO_REPORT = "`training.report_to` is not used: a baseline has no training loop."


@dataclass(frozen=True)
class CheckedRun:
    """Everything that a run needs except the model's weights.

    Attributes:
        task: Training and dev data of the task.
        general: General data; None if the method mixes none.
        unlabeled: Number of unlabeled inputs in addition to the training examples.
        seconds: Time of loading and encoding in seconds.
        warnings: Warnings for the user before training, one sentence each.
    """

    method: TrainedMethod
    task: TaskData
    general: GeneralData | None
    shape: ModelShape
    run_plan: RunPlan
    unlabeled: int
    seconds: float
    answers: TaskAnswers
    warnings: tuple[str, ...]


def check_run(recipe: Recipe) -> CheckedRun:
    """Load, check and encode the training data of a run.

    Raises:
        TellError: The run would stop before its first step.
    """
    began = time.perf_counter()
    check_recipe(recipe)
    method = trained_method(recipe)
    task = load_task(recipe)
    check_metrics(task.metrics)
    general = load_general(recipe) if method.uses_general else None
    model = load_model_info(recipe.model)
    run_plan = build_run_plan(method, task, general, model, method.configured(recipe))
    trained_on = task.train[: len(run_plan.task)]
    learned = [example.completion for example in trained_on]
    check_labels(recipe.evaluation, labels_of(task, trained_on), learned)
    seconds = time.perf_counter() - began
    answers = task_answers(recipe, task)
    warnings = (
        *(f"{folder}: {told}." for folder, told in left_out(named_data(recipe)).items()),
        *task.warnings,
        *answers.notes,
        *(general.warnings if general else ()),
        *_layer_warnings(model, recipe),
        *run_plan.warnings,
        *warnings_before(run_plan),
        *warnings_before_training(recipe, answers, run_plan, model.tokenizer),
    )
    unlabeled = len(unlabeled_beside(task, trained_on))
    return CheckedRun(
        method, task, general, model.shape, run_plan, unlabeled, seconds, answers, warnings
    )


@dataclass(frozen=True)
class CheckedBaseline:
    """Everything that the fit of a baseline needs."""

    method: Baseline
    task: TaskData
    tokenizer: PreTrainedTokenizerBase
    data: BaselineData
    warnings: tuple[str, ...]


def check_baseline(recipe: Recipe, method: Baseline) -> CheckedBaseline:
    """Load and check the training data of a baseline.

    Raises:
        TellError: The fit cannot start.
    """
    check_recipe(recipe)
    task = load_task(recipe, may_lack_examples=True)
    check_metrics(task.metrics)
    tokenizer = load_tokenizer(recipe.model)
    data = method.data(task, tokenizer, recipe)
    answers = task_answers(recipe, task)
    warnings = (
        *(f"{folder}: {told}." for folder, told in left_out(named_data(recipe)).items()),
        *task.warnings,
        *answers.notes,
        *data_warnings(answers, len(data.labeled), () if method.head == "nearest" else data.labels),
        *([_NOTHING_TO_REPORT] if recipe.training.report_to else []),
    )
    return CheckedBaseline(method, task, tokenizer, data, warnings)


def trained_method(recipe: Recipe) -> TrainedMethod:
    """Return the recipe's method, which must be a trained one.

    Raises:
        RecipeError: The method trains nothing.
    """
    method = get_method(recipe.method)
    if not isinstance(method, TrainedMethod):
        raise RecipeError(
            f"method `{method.name}` trains nothing, so there is nothing to plan or fit; "
            "`tell compare` can score it."
        )
    return method


def check_recipe(recipe: Recipe) -> None:
    """Raise an error unless everything that a recipe names exists.

    The hub is not contacted, and data files are opened but not read to the end.

    Raises:
        TellError: The only mistake, or a RecipeError that lists all mistakes.
    """
    found: dict[str, TellError] = {}
    for check in _checks(recipe):
        try:
            check()
        except TellError as error:
            found.setdefault(str(error), error)
    mistakes = list(found.values())
    if len(mistakes) == 1:
        raise mistakes[0]
    if mistakes:
        listed = "; ".join(f"({i}) {str(m).rstrip('.')}" for i, m in enumerate(mistakes, 1))
        raise RecipeError(f"{len(mistakes)} mistakes in the recipe: {listed}.")


def _checks(recipe: Recipe) -> Iterator[Callable[[], object]]:
    """Yield checks, each of which raises an error if something is wrong."""
    task = recipe.task
    yield partial(_check_method, recipe)
    yield from (partial(check_metrics, [name]) for name in recipe.evaluation.metrics or ())
    if task.embedded is not None:
        yield partial(embedded_task, task.embedded)
    for spec, split in named_data(recipe):
        yield partial(_check_data, spec, split)
    yield partial(check_named, recipe.model)
    yield partial(_check_trainable, recipe)
    yield partial(check_trackers, recipe.training.report_to)
    yield partial(check_libraries, recipe.training)
    if recipe.teacher is not None:
        yield partial(api_key, recipe.teacher)


def _check_method(recipe: Recipe) -> None:
    check_needs(
        get_method(recipe.method),
        anchored=recipe.anchor is not None or recipe.task.embedded is not None,
        general=recipe.general is not None,
    )


def _check_trainable(recipe: Recipe) -> None:
    if recipe.training.full_parameters and recipe.model.quantization is not None:
        raise RecipeError(
            f"weights quantized by `model.quantization: {recipe.model.quantization}` cannot be "
            "trained; remove that key or `training.full_parameters`."
        )
    unrounded = recipe.lora.changes_base or recipe.lora.init == "orthogonal"
    if unrounded and recipe.model.quantization is not None:
        raise RecipeError(
            f"`lora.init: {recipe.lora.init}` does not support a base that `model.quantization: "
            f"{recipe.model.quantization}` has rounded; remove one of the two."
        )


def _check_data(spec: DataSpec, split: Split) -> None:
    """Check that the file can be opened; errors in its rows are reported on reading."""
    if files_of(spec, split) is not None:
        next(scan(spec, split=split), None)


def _layer_warnings(model: ModelInfo, recipe: Recipe) -> tuple[str, ...]:
    """Return a warning that names the layers without an adapter, if there are any."""
    if model.layers is None or recipe.training.full_parameters:
        return ()
    told = layers_left_out(model.layers, recipe.lora.target_modules)
    return () if told is None else (told,)
