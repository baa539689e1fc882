"""Steps before training: make, choose, order and weight data, and learn initial weights."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from telltune.classifiers.choice import TEXT_KINDS, choose_classifier
from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.task import unlabeled_beside
from telltune.errors import RecipeError
from telltune.fitting.build_plan import build_run_plan, longest_example
from telltune.fitting.confidence_scores import add_confidence_scores
from telltune.fitting.general_choice import choose_general
from telltune.fitting.meta_init import meta_start
from telltune.fitting.selection import Selection, select
from telltune.fitting.synthetic_data import with_synthetic
from telltune.fitting.teacher import Teacher
from telltune.levers.pseudo_label import PseudoLabel
from telltune.recipe import SelectionSpec
from telltune.training.confidence import Confidence
from telltune.training.progress import phase
from telltune.valuation.memory import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    from telltune.recipe import Recipe

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
    if recipe.meta is not None:
        _learn_start(found, general, base, settings)
    if recipe.synthesis is not None:
        counts = (found.run_plan or build_run_plan(method, task, general, known, recipe)).counts
        _make(found, base, counts.general_examples, settings)
    _score(found, base, settings, anchored=method.anchored)
    if recipe.pseudo_label is not None or recipe.product_of_experts is not None:
        _look_beside(found, method, general, base, settings, known)
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


def _make(found: PreTraining, base: LoadedModel, general_examples: int, settings: Settings) -> None:
    spec = found.recipe.synthesis
    assert spec is not None  # The caller has checked this.
    made = with_synthetic(
        found.task,
        found.general,
        base,
        found.recipe,
        spec,
        general_examples,
        progress=settings.progress,
    )
    found.task, found.general, found.recipe = made.task, made.general, made.recipe
    found.labeled, found.labeled_tokens, found.run_plan = made.real, made.tokens, None
    found.seconds += made.seconds


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


def _look_beside(
    found: PreTraining,
    method: AdapterMethod,
    general: GeneralData | None,
    base: LoadedModel,
    settings: Settings,
    known: ModelInfo,
) -> None:
    """Learn from unlabeled inputs: a classifier for the answers, and more training examples."""
    recipe = found.recipe
    found.run_plan = found.run_plan or build_run_plan(method, found.task, general, known, recipe)
    counts = found.run_plan.counts
    trained_on = found.task.train[: counts.task_examples]
    found.unlabeled = unlabeled_beside(found.task, trained_on)
    found.unlabeled_tokens = sum(map(len, Encoder(base.tokenizer).prompts(found.unlabeled)))
    labeled = trained_on if found.labeled is None else found.labeled
    if recipe.product_of_experts is not None:
        kinds = [kind for kind in TEXT_KINDS if kind == recipe.product_of_experts.by]
        began = time.perf_counter()
        with phase("choosing a classifier", shown=settings.progress):
            found.choice = choose_classifier(labeled, found.unlabeled, recipe.seed, kinds)
        found.seconds += time.perf_counter() - began
    if recipe.pseudo_label is not None:
        if found.labeled is None:
            found.labeled, found.labeled_tokens = trained_on, counts.task_tokens
        lever = PseudoLabel(recipe.pseudo_label, recipe.seed, settings.progress)
        got = _pseudo_labels(found, lever, method, base, settings, known)
        found.yields, found.seconds = (*found.yields, got), found.seconds + got.seconds
        if got.examples:
            _lay_out(found, trained_on, got, counts)


def _pseudo_labels(
    found: PreTraining,
    lever: Lever,
    method: AdapterMethod,
    base: LoadedModel,
    settings: Settings,
    known: ModelInfo,
) -> Yield:
    """Label the unlabeled inputs that leave room for an answer."""
    labeled, inputs = found.labeled, found.unlabeled
    assert labeled is not None  # The caller has set it.
    task = replace(found.task, train=labeled)
    encoder = Encoder(base.tokenizer)
    anchored = Encoder(anchored_tokenizer(base.tokenizer, task.anchor if method.anchored else None))
    longest = max(map(len, encoder.completions(labeled)))
    room = longest_example(known, found.recipe) - longest
    lengths = map(len, anchored.prompts(inputs))
    fitting = [one for one, length in zip(inputs, lengths, strict=True) if length <= room]
    teacher = Teacher(method, task, base, found.recipe, progress=settings.progress)
    got = lever.apply(labeled, fitting, teacher)
    if long := len(inputs) - len(fitting):
        refused = {**got.refused, "longer than an example may be": long}
        got = replace(got, asked=len(inputs), refused=refused)
    return got


def _lay_out(found: PreTraining, labeled: Sequence[Example], got: Yield, counts: RunCounts) -> None:
    """Add made examples to the training data once each; labeled examples appear in every pass.

    Args:
        found: Result so far, to update.
        labeled: Training examples so far.
        got: Result of a lever.
        counts: Counts of the run without the made examples. The number of general examples stays
            the same.
    """
    values = np.ones(len(labeled)) if found.confidence is None else found.confidence.values
    made_values = [example.confidence for example in got.examples]
    values = np.concatenate([np.tile(values, counts.passes), made_values])
    found.confidence = Confidence(values, found.confidence.scale if found.confidence else "output")
    found.task = replace(found.task, train=(*(tuple(labeled) * counts.passes), *got.examples))
    found.run_plan = None
    recipe = found.recipe
    task = recipe.task.model_copy(update={"max_tokens": None})
    mixture = recipe.mixture.model_copy(
        update={"passes": 1, "general_examples": counts.general_examples}
    )
    found.recipe = recipe.model_copy(update={"task": task, "mixture": mixture})


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
    said = []
    made, chosen, trusted = recipe.synthesis, recipe.selection, recipe.confidence
    if made is not None and made.make == "examples":
        said.append(f"the model makes up to {made.examples} task examples")
    elif made is not None:
        said.append("the model makes auxiliary tasks from each task example")
    pseudo = recipe.pseudo_label
    if pseudo is not None and pseudo.by == "model":
        said.append(
            f"{pseudo.adapters} adapters are trained on the task to label up to "
            f"{pseudo.examples:,} unlabeled inputs"
        )
    elif pseudo is not None:
        said.append(f"up to {pseudo.examples:,} unlabeled inputs are labeled and added to the task")
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
