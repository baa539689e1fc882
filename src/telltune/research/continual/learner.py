"""Learn tasks in sequence with one strategy, and score all learned tasks after each one."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from safetensors.torch import load, save

from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.task import load_general, load_split, load_task
from telltune.errors import RecipeError, StorageError
from telltune.evaluation.forgetting import held_out_general, measure_forgetting, task_format
from telltune.evaluation.headline import task_answers
from telltune.evaluation.score import evaluate_predictor
from telltune.fitting.build_plan import answer_budget, build_run_plan
from telltune.fitting.general_choice import ChosenData, first_drawn
from telltune.fitting.model_info import ModelInfo
from telltune.fitting.protocol import Settings
from telltune.fitting.selection import examples_in_budget
from telltune.fitting.trained_method import TrainedMethod
from telltune.inference.labels import closed_set
from telltune.methods.rcl import can_reason
from telltune.methods.registry import get_method
from telltune.models import load_base_of
from telltune.recipe import recipe_from_dict
from telltune.research.continual.abilities import unseen_items
from telltune.research.continual.scores import format_validity
from telltune.storage import write_bytes
from telltune.study.spec import merged_keys
from telltune.training.adapter import trained_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.data.task import TaskData
    from telltune.evaluation.headline import TaskAnswers
    from telltune.evaluation.score import Evaluation
    from telltune.fitting.predictor import Predictor
    from telltune.fitting.protocol import Method
    from telltune.models import LoadedModel
    from telltune.recipe import Recipe
    from telltune.research.continual.abilities import Ability
    from telltune.study.spec import TaskEntry

Strategy = Literal[
    "sequential", "sequential_replay", "replay", "tell", "rcl", "adapters", "in_context"
]
STRATEGIES: dict[Strategy, str] = {
    "sequential": "sft_anchor",
    "sequential_replay": "sft_anchor",
    "replay": "tell",
    "tell": "tell",
    "rcl": "rcl",
    "adapters": "tell",
    "in_context": "few_shot",
}
"""Method that learns each task, by strategy:

- `sequential`: SFT with the anchor, one adapter for all tasks.
- `sequential_replay`: the same, and after each task SFT on a tenth of each earlier task and on
  general examples, a fifth of the task's number. This is TRACE's replay.
- `replay`: TELL with one adapter, with a tenth of each earlier task and general data mixed in.
- `tell`: TELL at every step, one adapter for all tasks.
- `rcl`: SFT with the anchor on a rationale followed by the answer, one adapter for all tasks. A
  task with neither rationales nor labels as answers is learned from its answers alone.
- `adapters`: TELL with a separate adapter per task, so that no task is forgotten.
- `in_context`: examples of the task in the base's prompt.

A task without an anchor is learned by the same methods without it.

With `training.full_parameters: true` all weights are trained instead of an adapter. One model then
learns all tasks in sequence (`sequential` is TRACE's SeqFT), while `adapters` starts from the base
for each task.
"""
_OWN = ("adapters", "in_context")
"""Strategies that carry nothing over from task to task."""
_REPLAYED = 0.1
"""Share of each earlier task's examples that is replayed, as published."""
_ALIGNED = 0.2
"""General examples that are replayed, as a share of the task's: LIMA's 1,000 to 5,000."""
_PROMPTS = 16
"""Number of general prompts answered after each task."""


@dataclass(frozen=True)
class Step:
    """Result of a strategy after one task.

    Attributes:
        strategy: Name of the strategy.
        seed: Random seed.
        number: Index of the task in the order, from 0.
        task: Name of the task.
        scores: Score of each task learned so far, in percent.
        valid: Share of answers in the task's format, by task learned so far.
        general_nll: Loss of held-out general examples after the task, in nats per token.
        base_nll: Loss of the base on the same examples, in nats per token.
        leakage: Share of general prompts that get an answer in the format of a task learned so far;
            None if no task has a recognizable format or there is no general data.
        seconds: Training time in seconds.
        answer_tokens: Maximum number of tokens of an answer to this task, now and later.
        answer_after: Prefix of the answers to this task, now and later; "" if there is none.
        warnings: Reasons why a score may be misleading, by task so far; one sentence each.
        abilities: Score of the base and score after the last task, by ability and task; empty after
            other tasks.
    """

    strategy: str
    seed: int
    number: int
    task: str
    scores: dict[str, float]
    valid: dict[str, float]
    general_nll: float
    base_nll: float
    leakage: float | None
    seconds: float
    answer_tokens: int
    answer_after: str
    # Rows written by earlier versions lack these fields.
    warnings: dict[str, list[str]] = field(default_factory=dict)
    abilities: dict[str, dict[str, list[float]]] = field(default_factory=dict)


@dataclass
class _Progress:
    """State of one strategy with one seed.

    Attributes:
        start: Initial weights of the next task; None for a new initialization.
        scores: Score of each task learned so far, in percent.
        valid: Share of answers in the task's format, by task learned so far.
        forms: `Step.answer_tokens` and `Step.answer_after`, by task.
        warnings: Warnings by task learned so far; see `Step.warnings`.
    """

    start: dict[str, Tensor] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    valid: dict[str, float] = field(default_factory=dict)
    forms: dict[str, tuple[int, str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Known:
    """A task of the order with the examples drawn for one seed."""

    name: str
    recipe: Recipe
    task: TaskData
    items: list[Example]
    answers: TaskAnswers


class Learner:
    """Learner of a task order, which holds the state that all strategies share.

    Args:
        recipe: Recipe keys shared by all tasks.
        tasks: Tasks in order.
        general_items: Number of held-out general examples to measure.
        abilities: Tasks whose scores are compared with the base's, by ability; see `abilities`.
        out: Folder in which adapters are kept between steps.
        name: Name of the order, for messages.
        folder: Folder that relative paths start from.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        tasks: Sequence[TaskEntry],
        general_items: int,
        abilities: Mapping[Ability, Sequence[TaskEntry]],
        out: Path,
        *,
        name: str,
        folder: Path,
    ) -> None:
        self._recipe, self._tasks, self._general_items = recipe, tasks, general_items
        self._out, self._name, self._folder = out, name, folder
        self._base: LoadedModel | None = None
        self._ability_tasks = abilities
        self._abilities: list[tuple[Ability, _Known, list[str]]] = []
        # Scores of the base by the name of an ability's task.
        self._before: dict[str, float] = {}

    def check(self, strategies: Sequence[Strategy], seeds: Sequence[int]) -> None:
        """Check all tasks before the first one is learned.

        Raises:
            RecipeError: A task lacks test data, or the general data that a strategy needs; some
                tasks train all weights and others an adapter; `lora.init` changes the base; or all
                items of an ability occur in the training data.
        """
        uses_general = {"sequential_replay", "replay", "tell", "adapters"} & set(strategies)
        order = self._order(seeds[0])
        if len({known.recipe.training.full_parameters for known in order}) > 1:
            raise RecipeError(
                f"{self._name}: training.full_parameters differs between tasks, but each task "
                "starts from the weights of the previous one; set it once, in the recipe."
            )
        for known in order:
            if known.recipe.lora.changes_base and not known.recipe.training.full_parameters:
                raise RecipeError(
                    f"{self._name}: `lora.init: {known.recipe.lora.init}` sets the initial "
                    "weights, but each task starts from those of the previous one; remove it."
                )
            if uses_general and known.recipe.general is None:
                raise RecipeError(
                    f"{self._name}: strategy `{min(uses_general)}` needs general data; set "
                    "`general: embedded` in the recipe, or name files."
                )
        self._load_abilities(order)

    def _load_abilities(self, order: Sequence[_Known]) -> None:
        """Read the items of the abilities, without those that occur in the training data."""
        if not self._ability_tasks:
            return
        general = load_general(order[0].recipe)
        trained = [example for known in order for example in known.task.train]
        trained += general or ()
        for ability, entries in self._ability_tasks.items():
            for entry in entries:
                known = self._known(entry, order[0].recipe.seed)
                kept = unseen_items(known.items, trained)
                if not kept:
                    raise RecipeError(
                        f"{self._name}: abilities.{ability}: all {len(known.items)} items of "
                        f"`{entry.name}` occur in the training data; name other items."
                    )
                out = len(known.items) - len(kept)
                told = f"{out} of {len(known.items)} items occur in the training data; left out."
                found = replace(known, items=kept)
                self._abilities.append((ability, found, [told] if out else []))

    def learn(self, strategy: Strategy, seed: int, done: Sequence[Step]) -> Iterator[Step]:
        """Learn the remaining tasks and yield a step for each.

        Args:
            strategy: Strategy to learn with.
            seed: Random seed.
            done: Steps of an earlier call.

        Raises:
            StorageError: The initial weights of the next task are missing or damaged.
        """
        order = self._order(seed)
        if len(done) == len(order):
            return
        progress = _Progress(forms={s.task: (s.answer_tokens, s.answer_after) for s in done})
        if done and strategy in _OWN:
            # The score of a task with its own adapter or prompt does not change later.
            progress.scores, progress.valid = dict(done[-1].scores), dict(done[-1].valid)
            progress.warnings = dict(done[-1].warnings)
        elif done:
            progress.start = self._kept(strategy, seed, len(done) - 1)
        for number in range(len(done), len(order)):
            yield self._step(strategy, seed, order[: number + 1], progress)
            gc.collect()

    def _step(
        self, strategy: Strategy, seed: int, order: Sequence[_Known], progress: _Progress
    ) -> Step:
        """Learn the last task of `order`, and score all tasks learned so far."""
        number, known = len(order) - 1, order[-1]
        base = self._loaded(order[0].recipe)
        own = strategy in _OWN
        general = self._general(strategy, order[:-1], known, base)
        recipe = self._with_general(known.recipe, general)
        settings = Settings(recipe, progress=False, save=False, start=progress.start)
        method = _method(strategy, known.task, examples_in_budget(known.task, base, recipe))
        held = self._held_out(known)
        last = number + 1 == len(self._tasks)
        # This must run before the base is changed or gets an adapter.
        base_nll = _nll(get_method("base").run(known.task, None, base, settings), held)
        if last:
            self._score_base(base, settings)
        predictor = method.run(known.task, general if method.uses_general else None, base, settings)
        progress.forms[known.name] = (predictor.max_new_tokens, predictor.answer_after)
        if strategy == "sequential_replay":
            predictor = self._replay(order, predictor, settings)
            base = self._loaded(order[0].recipe)
        for other in [known] if own else order:
            tokens, after = progress.forms[other.name]
            asked = replace(predictor, max_new_tokens=tokens, answer_after=after)
            found = _score(asked, other, base)
            progress.scores[other.name] = found.headline[1].score
            progress.valid[other.name] = format_validity(
                found.predictions, [example.completion for example in other.task.train]
            )
            progress.warnings[other.name] = list(found.warnings)
        if strategy == "rcl" and not predictor.answer_after:
            progress.warnings[known.name].append(
                "the task has neither rationales nor labels as answers, so it was learned from its "
                "answers alone."
            )
        general_nll, leakage = _aside(predictor, base, held, order)
        abilities = self._score_abilities(predictor, base) if last else {}
        noted = {known.name: told for _, known, told in self._abilities if last and told}
        if not own:
            progress.start = trained_weights(predictor.model)
            self._keep(strategy, seed, number, progress.start)
        predictor.release()
        if method.trains and recipe.training.full_parameters:
            self._base = None  # the base was trained itself, and the next task needs a new one
        return Step(
            strategy,
            seed,
            number,
            known.name,
            dict(progress.scores),
            dict(progress.valid),
            general_nll,
            base_nll,
            leakage,
            predictor.cost.seconds,
            *progress.forms[known.name],
            dict(progress.warnings) | noted,
            abilities,
        )

    def _replay(self, order: Sequence[_Known], predictor: Predictor, settings: Settings) -> Any:
        """Train on a tenth of each earlier task and on general examples, as TRACE does.

        Args:
            order: The task that was just learned, and those before it.
            predictor: Predictor after the task, which is released.
            settings: Settings of the task.

        Returns:
            Predictor after the replay, with the time of both trainings.
        """
        known, seconds = order[-1], predictor.cost.seconds
        settings = replace(settings, start=trained_weights(predictor.model))
        predictor.release()
        if known.recipe.training.full_parameters:
            self._base = None  # the base was trained itself
        base = self._loaded(order[0].recipe)
        general = load_general(known.recipe)
        assert general is not None  # by `check`
        count = max(1, round(_ALIGNED * len(known.task.train)))
        memory = [*first_drawn(general, count, known.recipe.seed), *_replayed(order[:-1], base)]
        task = replace(known.task, train=tuple(memory), dev=(), anchor=None, unlabeled=())
        spec = known.recipe.task.model_copy(update={"max_tokens": None})
        recipe = known.recipe.model_copy(update={"task": spec})
        found = get_method("sft").run(task, None, base, replace(settings, recipe=recipe))
        return replace(found, cost=replace(found.cost, seconds=seconds + found.cost.seconds))

    def _score_base(self, base: LoadedModel, settings: Settings) -> None:
        for _, known, _ in self._abilities:
            if known.name not in self._before:
                asked = get_method("base").run(known.task, None, base, settings)
                self._before[known.name] = _score(asked, known, base).headline[1].score

    def _score_abilities(
        self, predictor: Predictor, base: LoadedModel
    ) -> dict[str, dict[str, list[float]]]:
        """Return the scores of the base and of a predictor, by ability and task."""
        found: dict[str, dict[str, list[float]]] = {}
        for ability, known, _ in self._abilities:
            lengths = Encoder(base.tokenizer).encode(known.items).response_lengths
            asked = replace(
                predictor,
                max_new_tokens=answer_budget(lengths, known.recipe),
                answer_after="",
                shots=(),
            )
            after = _score(asked, known, base).headline[1].score
            found.setdefault(ability, {})[known.name] = [self._before[known.name], after]
        return found

    def _order(self, seed: int) -> list[_Known]:
        """Return all tasks with the examples drawn for this seed."""
        return [self._known(entry, seed) for entry in self._tasks]

    def _known(self, entry: TaskEntry, seed: int) -> _Known:
        values = merged_keys(self._recipe, entry.keys) | {"seed": seed}
        name = f"{self._name} ({entry.name})"
        recipe = recipe_from_dict(values, name=name, folder=self._folder)
        task = load_task(recipe)
        test = load_split(recipe, "test")
        answers = task_answers(recipe, task, test)
        return _Known(entry.name, recipe, task, test[: recipe.evaluation.max_items], answers)

    def _loaded(self, recipe: Recipe) -> LoadedModel:
        if self._base is None:
            self._base = load_base_of(recipe)
        return self._base

    def _general(
        self, strategy: Strategy, earlier: Sequence[_Known], known: _Known, base: LoadedModel
    ) -> GeneralData | None:
        """Return the data to mix in; replayed examples contain their own task's anchor as text."""
        general = load_general(known.recipe)
        if strategy != "replay" or general is None:
            return general
        method = _method(strategy, known.task, ())
        assert isinstance(method, TrainedMethod)  # TELL
        model = ModelInfo.of(base.model.config, base.tokenizer)
        count = build_run_plan(
            method, known.task, general, model, known.recipe
        ).counts.general_examples
        drawn = first_drawn(general, count, known.recipe.seed)
        replayed = _replayed(earlier, base)
        return ChosenData(f"{general.name}+replay", general.sources, (*drawn, *replayed))

    def _with_general(self, recipe: Recipe, general: GeneralData | None) -> Recipe:
        if not isinstance(general, ChosenData):
            return recipe
        spec = recipe.mixture.model_copy(update={"general_examples": len(general.chosen)})
        return recipe.model_copy(update={"mixture": spec})

    def _held_out(self, known: _Known) -> list[Example]:
        """Return general examples that no strategy uses: the last in the order of the draw."""
        general = load_general(known.recipe)
        if general is None:
            return []
        used = general.contents.examples - self._general_items
        return held_out_general(general, self._general_items, used, known.recipe.seed)

    def _keep(self, strategy: Strategy, seed: int, number: int, weights: dict[str, Tensor]) -> None:
        """Write the weights after a task, and keep the previous file until the row is written."""
        write_bytes(self._file(strategy, seed, number), save(weights))
        self._file(strategy, seed, number - 2).unlink(missing_ok=True)

    def _kept(self, strategy: Strategy, seed: int, number: int) -> dict[str, Tensor]:
        path = self._file(strategy, seed, number)
        try:
            return load(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{path} is missing or damaged ({error}), so {strategy} cannot resume; "
                f"remove {self._out} to start over."
            ) from None

    def _file(self, strategy: Strategy, seed: int, number: int) -> Path:
        return self._out / "adapters" / f"{strategy}-{seed}-{number + 1}.safetensors"


def _method(strategy: Strategy, task: TaskData, examples: Sequence[Example]) -> Method:
    """Return the method that learns a task, without the anchor if the task has none."""
    method = get_method(STRATEGIES[strategy])
    if strategy == "rcl" and not can_reason(examples):
        method = get_method("sft_anchor")
    if task.anchor is None and isinstance(method, TrainedMethod):
        return replace(method, anchored=False)
    return method


def _replayed(earlier: Sequence[_Known], base: LoadedModel) -> list[Example]:
    """Return a tenth of each earlier task; the examples contain their task's anchor as text."""
    found: list[Example] = []
    for other in earlier:
        examples = examples_in_budget(other.task, base, other.recipe)
        kept = examples[: max(1, round(_REPLAYED * len(examples)))]
        anchor = other.task.anchor
        found += kept if anchor is None else [anchor.attach(example) for example in kept]
    return found


def _nll(predictor: Predictor, examples: Sequence[Example]) -> float:
    """Return the mean loss of a response token in nats; NaN without examples."""
    if not examples:
        return float("nan")
    nll, tokens = predictor.nll(examples)
    return float(nll.sum() / tokens.sum())


def _aside(
    predictor: Predictor, base: LoadedModel, examples: Sequence[Example], learned: Sequence[_Known]
) -> tuple[float, float | None]:
    """Return the loss of general examples and the leakage in the formats of learned tasks."""
    if not examples:
        return float("nan"), None
    forms = [task_format([e.completion for e in known.task.train]) for known in learned]
    told = [form for form in forms if form is not None]
    looks = (lambda answer: any(form(answer) for form in told)) if told else None
    found = measure_forgetting(predictor, base.tokenizer, examples, _PROMPTS, looks)
    return found.general_nll, found.leakage


def _score(predictor: Predictor, known: _Known, base: LoadedModel) -> Evaluation:
    """Score the items of a task, using its own anchor."""
    asked = replace(
        predictor,
        tokenizer=anchored_tokenizer(base.tokenizer, known.task.anchor),
        anchor=known.task.anchor,
        evaluation=known.recipe.evaluation,
        labels=closed_set(example.completion for example in known.task.train),
    )
    return evaluate_predictor(asked, known.items, answers=known.answers)
