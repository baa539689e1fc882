"""Steps before training: make, choose, order and weight data, and learn initial weights."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from telltune.classifiers.choice import TEXT_KINDS, choose_classifier
from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.task import unlabeled_beside
from telltune.errors import RecipeError
from telltune.fitting.build_plan import build_run_plan, longest_example
from telltune.fitting.confidence_scores import add_confidence_scores
from telltune.fitting.general_choice import ChosenData, choose_general, first_drawn
from telltune.fitting.meta_init import meta_start
from telltune.fitting.selection import Selection, select
from telltune.fitting.teacher import Teacher
from telltune.levers.protocol import Resources
from telltune.levers.registry import levers_of
from telltune.recipe import SelectionSpec
from telltune.training.confidence import Confidence
from telltune.training.progress import phase
from telltune.valuation.memory import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from telltune.classifiers.choice import Choice
    from telltune.data.examples import Example
    from telltune.data.task import GeneralData, TaskData
    from telltune.fitting.adapter_method import AdapterMethod
    from telltune.fitting.model_info import ModelInfo
    from telltune.fitting.protocol import Settings
    from telltune.fitting.run_plan import RunCounts, RunPlan
    from telltune.levers.protocol import Lever, Yield
    from telltune.models import LoadedModel
    from telltune.recipe import ProductSpec, Recipe

__all__ = ["PreTraining", "describe_pre_training", "run_pre_training"]


@dataclass
class PreTraining:
    """Results of the steps before training.

    Attributes:
        task: Task with the training examples.
        general: General data to mix in.
        recipe: Recipe of the run, adjusted to these data.
        prepared: Run plan, if it is still valid for these data; else None.
        labeled: Labeled examples, if the training examples also contain others; else None.
        labeled_tokens: Number of their tokens.
        selection: Selection among the training examples.
        yields: Results of the levers.
        unlabeled: Unlabeled inputs that the levers or the classifier used.
        unlabeled_tokens: Number of their tokens.
        choice: Classifier to combine with the adapter, if the recipe asks for one.
        confidence: Confidence in the training examples.
        start: Initial adapter weights.
        seconds: Time that the steps took, in seconds.
    """

    task: TaskData
    general: GeneralData | None
    recipe: Recipe
    run_plan: RunPlan | None = None
    labeled: tuple[Example, ...] | None = None
    labeled_tokens: int = 0
    selection: Selection | None = None
    yields: tuple[Yield, ...] = ()
    unlabeled: tuple[Example, ...] = ()
    unlabeled_tokens: int = 0
    choice: Choice | None = None
    confidence: Confidence | None = None
    start: Mapping[str, Tensor] | None = None
    seconds: float = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """Counts of unlabeled inputs, and of labeled examples if training also uses others."""
        found = {}
        if self.labeled is not None:
            found = {"task_examples": len(self.labeled), "task_tokens": self.labeled_tokens}
        unlabeled = {
            "unlabeled_examples": len(self.unlabeled),
            "unlabeled_tokens": self.unlabeled_tokens,
        }
        return found | unlabeled if found or self.unlabeled else {}


class _Run(NamedTuple):
    """Arguments of `run_pre_training` that stay the same in all steps."""

    method: AdapterMethod
    base: LoadedModel
    settings: Settings
    known: ModelInfo

    def counts(self, found: PreTraining) -> RunCounts:
        """Return the counts of the run with the data so far."""
        found.run_plan = found.run_plan or build_run_plan(
            self.method, found.task, found.general, self.known, found.recipe
        )
        return found.run_plan.counts

    def general_examples(self, found: PreTraining) -> int:
        """Return the number of general examples that TELL mixes with the data so far."""
        if not self.method.equal_steps:
            return self.counts(found).general_examples
        mixing = replace(self.method, equal_steps=False)
        planned = build_run_plan(mixing, found.task, found.general, self.known, found.recipe)
        return planned.counts.general_examples


def run_pre_training(
    method: AdapterMethod,
    task: TaskData,
    general: GeneralData | None,
    base: LoadedModel,
    settings: Settings,
    known: ModelInfo,
) -> PreTraining:
    """Run the steps before training that the recipe and the method ask for.

    Args:
        method: The method.
        task: The task.
        general: The general data, or None.
        base: Base model without an adapter; unchanged on return.
        settings: Settings of the run.
        known: Facts about the base that are known without its weights.

    Raises:
        TellError: A step is not possible with this data or model.
    """
    recipe = method.configured(settings.recipe)
    found = PreTraining(task, general, recipe, settings.run_plan, start=settings.start)
    run = _Run(method, base, settings, known)
    if recipe.meta is not None:
        _learn_start(found, general, base, settings)
    levers = levers_of(recipe)
    for lever in levers:
        if lever.use_as != "once":
            _apply(found, lever, run)
    _score(found, base, settings, anchored=method.anchored)
    for lever in levers:
        if lever.use_as == "once":
            _apply(found, lever, run)
    if recipe.product_of_experts is not None:
        _choose_classifier(found, recipe.product_of_experts, run)
    if method.uses_general and not method.equal_steps:
        _choose_general(found, base, settings)
    return found


def _learn_start(
    found: PreTraining, general: GeneralData | None, base: LoadedModel, settings: Settings
) -> None:
    spec = found.recipe.meta
    assert spec is not None  # The caller has checked this.
    if found.recipe.training.full_parameters:
        raise RecipeError(
            "`meta` learns initial adapter weights, but `training.full_parameters` trains no "
            "adapter; remove one of the two."
        )
    if general is None:
        raise RecipeError("`meta` needs general data; set `general: ...`.")
    began = time.perf_counter()
    found.start = meta_start(base, general, found.recipe, spec, progress=settings.progress)
    found.seconds += time.perf_counter() - began


def _score(found: PreTraining, base: LoadedModel, settings: Settings, *, anchored: bool) -> None:
    """Select among the task's examples, and compute the confidence in each selected example."""
    task, recipe = found.task, found.recipe
    how = {"anchored": anchored, "progress": settings.progress}
    if recipe.confidence is not None:
        values, seconds = add_confidence_scores(task, base, recipe, recipe.confidence, **how)
        found.confidence = Confidence(values, recipe.confidence.scale)
        found.seconds += seconds
    if recipe.selection is not None:
        chosen = select(task, base, recipe, recipe.selection, **how)
        found.task, found.recipe = chosen.apply(task, recipe)
        found.selection, found.run_plan = chosen, None
        found.seconds += chosen.seconds
        if found.confidence is not None:
            kept = found.confidence.values[list(chosen.chosen)]
            found.confidence = Confidence(kept, found.confidence.scale)


def _apply(found: PreTraining, lever: Lever, run: _Run) -> None:
    """Let a lever make examples, and add them to the data of the run."""
    if lever.use_as in ("general", "third") and found.general is None:
        raise RecipeError(
            f"{lever.name}.use_as: {lever.use_as} needs a method that mixes general data; set "
            "`task` or `only`."
        )
    counts = run.counts(found)
    trained_on = found.task.train[: counts.task_examples]
    if found.labeled is None:
        found.labeled, found.labeled_tokens = trained_on, counts.task_tokens
    inputs: tuple[Example, ...] = ()
    if lever.needs_unlabeled:
        _find_unlabeled(found, found.labeled, run.base)
        inputs = _fitting(found, found.labeled, run)
    task = replace(found.task, train=found.labeled, unlabeled=inputs)
    progress = run.settings.progress
    teacher = Teacher(run.method, task, run.base, found.recipe, progress=progress)
    got = lever.apply(task, Resources(run.base, teacher, found.recipe.seed, progress))
    if lever.needs_unlabeled and (long := len(found.unlabeled) - len(inputs)):
        refused = {**got.refused, "longer than an example may be": long}
        got = replace(got, asked=got.asked + long, refused=refused)
    found.yields, found.seconds = (*found.yields, got), found.seconds + got.seconds
    if got.examples:
        # With `once`, repeated examples stand for the passes, of which `equal_steps` makes more.
        general = counts.general_examples if lever.use_as == "once" else run.general_examples(found)
        _place(found, trained_on, got, lever, passes=counts.passes, general_examples=general)


def _find_unlabeled(found: PreTraining, labeled: tuple[Example, ...], base: LoadedModel) -> None:
    found.unlabeled = unlabeled_beside(found.task, labeled)
    found.unlabeled_tokens = sum(map(len, Encoder(base.tokenizer).prompts(found.unlabeled)))


def _fitting(found: PreTraining, labeled: tuple[Example, ...], run: _Run) -> tuple[Example, ...]:
    """Return the unlabeled inputs that leave room for the longest labeled answer."""
    tokenizer = run.base.tokenizer
    anchor = found.task.anchor if run.method.anchored else None
    longest = max(map(len, Encoder(tokenizer).completions(labeled)))
    room = longest_example(run.known, found.recipe) - longest
    lengths = map(len, Encoder(anchored_tokenizer(tokenizer, anchor)).prompts(found.unlabeled))
    return tuple(
        one for one, length in zip(found.unlabeled, lengths, strict=True) if length <= room
    )


def _place(
    found: PreTraining,
    trained_on: tuple[Example, ...],
    got: Yield,
    lever: Lever,
    *,
    passes: int,
    general_examples: int,
) -> None:
    """Add made examples to the data; see `UseAs`.

    Args:
        found: Result so far, to update.
        trained_on: Training examples so far.
        got: Result of the lever.
        lever: The lever, which names the use of its examples.
        passes: Number of passes of the run without the made examples.
        general_examples: Number of its general examples, which stays the same unless the made
            examples are to be among them.
    """
    train, made = trained_on, got.examples
    mixture: dict[str, Any] = {"general_examples": general_examples}
    if lever.use_as == "once":
        train, mixture["passes"] = (*trained_on * passes, *made), 1
        before = found.confidence or Confidence(np.ones(len(trained_on)), "output")
        own = np.array([one.confidence for one in made])
        values = np.concatenate([np.tile(before.values, passes), own])
        found.confidence = Confidence(values, before.scale)
    elif lever.use_as == "task":
        train = (*trained_on, *made)
    elif lever.use_as == "only":
        train = made
    else:
        assert found.general is not None  # `_apply` has checked this.
        beside = general_examples if lever.use_as == "third" else 0
        drawn = first_drawn(found.general, beside, found.recipe.seed)
        name = f"{found.general.name}+{lever.name}"
        found.general = ChosenData(name, found.general.sources, (*drawn, *made))
        mixture["general_examples"] = len(found.general.chosen)
    found.task = replace(found.task, train=train, shots=got.shots or found.task.shots)
    recipe = found.recipe
    changed = {
        "task": recipe.task.model_copy(update={"max_tokens": None}),
        "mixture": recipe.mixture.model_copy(update=mixture),
        # Its answers were checked before; those of made examples need not be labels.
        "product_of_experts": None,
    }
    found.recipe, found.run_plan = recipe.model_copy(update=changed), None


def _choose_classifier(found: PreTraining, spec: ProductSpec, run: _Run) -> None:
    labeled = found.labeled or found.task.train[: run.counts(found).task_examples]
    _find_unlabeled(found, labeled, run.base)
    kinds = [kind for kind in TEXT_KINDS if kind == spec.by]
    began = time.perf_counter()
    with phase("choosing a classifier", shown=run.settings.progress):
        found.choice = choose_classifier(labeled, found.unlabeled, found.recipe.seed, kinds)
    found.seconds += time.perf_counter() - began


def _choose_general(found: PreTraining, base: LoadedModel, settings: Settings) -> None:
    spec = found.recipe.general_choice
    if spec is None or found.general is None:
        return
    began = time.perf_counter()
    chosen = choose_general(
        found.task, found.general, base, found.recipe, spec, progress=settings.progress
    )
    mixture = found.recipe.mixture.model_copy(update={"general_examples": len(chosen.chosen)})
    found.recipe = found.recipe.model_copy(update={"mixture": mixture})
    found.general, found.run_plan = chosen, None
    found.seconds += time.perf_counter() - began


def describe_pre_training(method: AdapterMethod, recipe: Recipe) -> list[str]:
    """Return one clause per step that a plan's time and counts do not include.

    Args:
        method: The method.
        recipe: Recipe of the run with the method's own keys; see `AdapterMethod.configured`.
    """
    said = [lever.describe() for lever in levers_of(recipe)]
    chosen, trusted = recipe.selection, recipe.confidence
    if recipe.product_of_experts is not None:
        said.append("a small classifier is chosen by cross-validation and combined with the model")
    by_pvi = {part.by for part in (chosen, trusted) if part is not None}
    if "pvi" in by_pvi and chosen is not None and chosen.in_context:
        said.append(f"examples are scored by PVI with {chosen.in_context} exemplars in the prompt")
    elif "pvi" in by_pvi:
        folds = (chosen or SelectionSpec()).folds
        said.append(f"examples are scored by PVI: {2 * folds} trainings on the other folds")
    if chosen is not None and chosen.by == "memory":
        ways = len(chosen.templates or TEMPLATES) + chosen.proposed_templates
        asked = ways * chosen.samples
        said.append(f"the base answers each question {asked} times")
    if recipe.meta is not None:
        said.append(
            f"initial weights are learned by {recipe.meta.algorithm} in {recipe.meta.steps} steps"
        )
    choice = recipe.general_choice
    if method.uses_general and choice is not None:
        said.append(f"general examples are chosen from {choice.candidates:,} by {choice.by}")
    return said
