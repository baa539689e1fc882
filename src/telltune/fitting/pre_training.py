"""Steps before training: make, choose, order and weight data, and learn initial weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.classifiers.choice import TEXT_KINDS, Choice, choose_classifier
from telltune.clock import clock
from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.task import TaskData, check_unlabeled, unlabeled_beside
from telltune.errors import RecipeError
from telltune.fitting.build_plan import build_run_plan, longest_example
from telltune.fitting.general_choice import ChosenData, choose_general, first_drawn
from telltune.fitting.group_predictor import training_groups
from telltune.fitting.meta_init import meta_start
from telltune.fitting.model_info import ModelInfo
from telltune.fitting.selection import Selection, add_confidence_scores, select
from telltune.fitting.teacher import Teacher
from telltune.levers.protocol import Lever, Resources, Yield
from telltune.levers.registry import levers_of
from telltune.recipe import (
    GeneralChoiceSpec,
    MetaSpec,
    OverPromptSpec,
    ProductSpec,
    Recipe,
    SelectionSpec,
)
from telltune.training.confidence import Confidence
from telltune.training.progress import phase
from telltune.valuation.memory import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.fitting.protocol import AdapterMethod, Settings
    from telltune.fitting.run_plan import RunPlan
    from telltune.models import LoadedModel


@dataclass
class PreTraining:
    """The steps before training, and their results so far.

    Attributes:
        method: The method.
        base: Base model without an adapter; unchanged after each step.
        settings: Settings of the run.
        task: Task with the training examples.
        general: General data to mix in, or None.
        known: Facts about the base that are known without its weights.
        recipe: Recipe with the method's own keys, adjusted to these data.
        run_plan: Run plan, if it is still valid for these data; else None.
        start: Initial adapter weights.
        labeled: Labeled examples, if the training examples also contain others; else None.
        labeled_tokens: Number of their tokens.
        selection: Selection among the training examples.
        yields: Results of the levers.
        unlabeled: Unlabeled inputs that the levers or the classifier used.
        unlabeled_tokens: Number of their tokens.
        choice: Classifier to combine with the adapter, if the recipe asks for one.
        confidence: Confidence in the training examples.
        seconds: Time that the steps took, in seconds.
    """

    method: AdapterMethod
    base: LoadedModel
    settings: Settings
    task: TaskData
    general: GeneralData | None
    known: ModelInfo = field(init=False)
    recipe: Recipe = field(init=False)
    run_plan: RunPlan | None = field(init=False)
    start: Mapping[str, Tensor] | None = field(init=False)
    labeled: tuple[Example, ...] | None = None
    labeled_tokens: int = 0
    selection: Selection | None = None
    yields: tuple[Yield, ...] = ()
    unlabeled: tuple[Example, ...] = ()
    unlabeled_tokens: int = 0
    choice: Choice | None = None
    confidence: Confidence | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.known = ModelInfo.of(self.base.model.config, self.base.tokenizer)
        self.recipe = self.method.configured(self.settings.recipe)
        self.run_plan, self.start = self.settings.run_plan, self.settings.start

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

    def plan(self) -> RunPlan:
        """Return the run plan for the data so far."""
        if self.run_plan is None:
            self.run_plan = build_run_plan(
                self.method, self.task, self.general, self.known, self.recipe
            )
        return self.run_plan

    def run(self) -> None:
        """Take the steps that the recipe and the method ask for.

        Raises:
            TellError: A step is not possible with this data or model.
        """
        recipe, levers = self.recipe, levers_of(self.recipe)
        if recipe.meta is not None:
            self._learn_start(recipe.meta)
        for lever in levers:
            if lever.use_as != "once":
                self._apply(lever)
        self._score()
        for lever in levers:
            if lever.use_as == "once":
                self._apply(lever)
        if recipe.product_of_experts is not None:
            self._choose_classifier(recipe.product_of_experts)
        mixes = self.method.uses_general and not self.method.equal_steps
        if mixes and recipe.general_choice is not None and self.general is not None:
            self._choose_general(recipe.general_choice, self.general)
        if self.method.grouped:
            self._group()

    def _learn_start(self, spec: MetaSpec) -> None:
        if self.recipe.training.full_parameters:
            raise RecipeError(
                "`meta` learns initial adapter weights, but `training.full_parameters` trains no "
                "adapter; remove one of the two."
            )
        if self.general is None:
            raise RecipeError(
                "`meta` needs a method that mixes general data, such as `tell`, and `general: ...`."
            )
        began = clock()
        self.start = meta_start(
            self.base, self.general, self.recipe, spec, progress=self.settings.progress
        )
        self.seconds += clock() - began

    def _score(self) -> None:
        """Select among the task's examples, and compute the confidence in each selected example."""
        task, base, recipe = self.task, self.base, self.recipe
        how = {"anchored": self.method.anchored, "progress": self.settings.progress}
        if recipe.confidence is not None:
            values, seconds = add_confidence_scores(task, base, recipe, recipe.confidence, **how)
            self.confidence = Confidence(values, recipe.confidence.scale)
            self.seconds += seconds
        if recipe.selection is not None:
            chosen = select(task, base, recipe, recipe.selection, **how)
            self.task, self.recipe = chosen.apply(task, recipe)
            self.selection, self.run_plan = chosen, None
            self.seconds += chosen.seconds
            if self.confidence is not None:
                kept = self.confidence.values[list(chosen.chosen)]
                self.confidence = Confidence(kept, self.confidence.scale)

    def _apply(self, lever: Lever) -> None:
        """Let a lever make examples, and add them to the data of the run."""
        if lever.use_as in ("general", "third") and self.general is None:
            raise RecipeError(
                f"{lever.name}.use_as: {lever.use_as} needs a method that mixes general data; set "
                "`task` or `only`."
            )
        plan = self.plan()
        trained_on = self.task.train[: len(plan.task)]
        if self.labeled is None:
            self.labeled, self.labeled_tokens = trained_on, plan.counts.task_tokens
        inputs: tuple[Example, ...] = ()
        if lever.needs_unlabeled:
            self._find_unlabeled(self.labeled)
            check_unlabeled(self.unlabeled, f"`{lever.name}`", self.task.given_unlabeled)
            inputs = self._fitting(self.labeled)
        task = replace(self.task, train=self.labeled, unlabeled=inputs)
        progress = self.settings.progress
        teacher = Teacher(self.method, task, self.base, self.recipe, progress=progress)
        got = lever.apply(task, Resources(self.base, teacher, self.recipe.seed, progress))
        if lever.needs_unlabeled and (long := len(self.unlabeled) - len(inputs)):
            refused = {**got.refused, "longer than an example may be": long}
            got = replace(got, asked=got.asked + long, refused=refused)
        self.yields, self.seconds = (*self.yields, got), self.seconds + got.seconds
        if got.examples:
            if self.method.equal_steps and lever.use_as != "once":
                # With `once`, further passes stand for TELL's general data; here they are counted.
                tell = replace(self.method, equal_steps=False)
                plan = build_run_plan(tell, self.task, self.general, self.known, self.recipe)
            self._place(trained_on, got, lever, plan)

    def _find_unlabeled(self, labeled: tuple[Example, ...]) -> None:
        self.unlabeled = unlabeled_beside(self.task, labeled)
        self.unlabeled_tokens = sum(map(len, Encoder(self.base.tokenizer).prompts(self.unlabeled)))

    def _fitting(self, labeled: tuple[Example, ...]) -> tuple[Example, ...]:
        """Return the unlabeled inputs that leave room for the longest labeled answer."""
        tokenizer = self.base.tokenizer
        anchor = self.task.anchor if self.method.anchored else None
        longest = max(map(len, Encoder(tokenizer).completions(labeled)))
        room = longest_example(self.known, self.recipe) - longest
        lengths = map(len, Encoder(anchored_tokenizer(tokenizer, anchor)).prompts(self.unlabeled))
        return tuple(
            one for one, length in zip(self.unlabeled, lengths, strict=True) if length <= room
        )

    def _place(
        self, trained_on: tuple[Example, ...], got: Yield, lever: Lever, plan: RunPlan
    ) -> None:
        """Add made examples to the data; see `UseAs`.

        `trained_on` and `plan` are those of the run without the made examples. The number of
        general examples stays the same unless the made examples are to be among them.
        """
        train, made = trained_on, got.examples
        mixture: dict[str, Any] = {"general_examples": plan.counts.general_examples}
        if lever.use_as == "once":
            passes = plan.mixture.passes * plan.epochs
            train, mixture["passes"] = (*trained_on * passes, *made), 1
            before = self.confidence or Confidence(np.ones(len(trained_on)), "output")
            own = np.array([one.confidence for one in made])
            values = np.concatenate([np.tile(before.values, passes), own])
            self.confidence = Confidence(values, before.scale)
        elif lever.use_as == "task":
            train = (*trained_on, *made)
        elif lever.use_as == "only":
            train = made
        else:
            assert self.general is not None  # `_apply` has checked this.
            beside = plan.counts.general_examples if lever.use_as == "third" else 0
            drawn = first_drawn(self.general, beside, self.recipe.seed)
            name = f"{self.general.name}+{lever.name}"
            self.general = ChosenData(name, self.general.sources, (*drawn, *made))
            mixture["general_examples"] = len(self.general.chosen)
        self.task = replace(self.task, train=train, shots=got.shots or self.task.shots)
        recipe = self.recipe.changed(task={"max_tokens": None}, mixture=mixture)
        # Its answers were checked before; those of made examples need not be labels.
        self.recipe = recipe.model_copy(update={"product_of_experts": None})
        self.run_plan = None

    def _choose_classifier(self, spec: ProductSpec) -> None:
        labeled = self.labeled or self.task.train[: len(self.plan().task)]
        self._find_unlabeled(labeled)
        kinds = [kind for kind in TEXT_KINDS if kind == spec.by]
        began = clock()
        with phase("choosing a classifier", shown=self.settings.progress):
            self.choice = choose_classifier(
                labeled, self.unlabeled, self.recipe.seed, kinds, self.task.named_labels
            )
        self.seconds += clock() - began

    def _group(self) -> None:
        """Put several examples into each prompt; see `training_groups`."""
        plan = self.plan()
        train = self.task.train[: len(plan.task)]
        if self.labeled is None:
            self.labeled, self.labeled_tokens = train, plan.counts.task_tokens
        anchor = self.task.anchor if self.method.anchored else None
        groups = training_groups(
            train,
            self.recipe.over_prompt or OverPromptSpec(),
            self.recipe.seed,
            Encoder(anchored_tokenizer(self.base.tokenizer, anchor)),
            longest_example(self.known, self.recipe),
        )
        self.task = replace(self.task, train=groups, shots=())
        spec = self.recipe.task.model_copy(update={"max_tokens": None})
        self.recipe, self.run_plan = self.recipe.model_copy(update={"task": spec}), None

    def _choose_general(self, spec: GeneralChoiceSpec, general: GeneralData) -> None:
        began = clock()
        chosen = choose_general(
            self.task, general, self.base, self.recipe, spec, progress=self.settings.progress
        )
        self.recipe = self.recipe.changed(mixture={"general_examples": len(chosen.chosen)})
        self.general, self.run_plan = chosen, None
        self.seconds += clock() - began


def describe_pre_training(method: AdapterMethod, recipe: Recipe) -> list[str]:
    """Return one clause per step that a plan's time and counts do not include.

    The recipe has the method's own keys; see `AdapterMethod.configured`.
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
    if method.grouped:
        inputs = (recipe.over_prompt or OverPromptSpec()).inputs
        said.append(f"examples are put into prompts of up to {inputs} inputs")
    if recipe.meta is not None:
        said.append(
            f"initial weights are learned by {recipe.meta.algorithm} in {recipe.meta.steps} steps"
        )
    choice = recipe.general_choice
    if method.uses_general and choice is not None:
        said.append(f"general examples are chosen from {choice.candidates:,} by {choice.by}")
    return said
