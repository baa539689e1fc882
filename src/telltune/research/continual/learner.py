"""Learn tasks in sequence with one strategy, and score all learned tasks after each one."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from safetensors.torch import load, save

from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.task import TaskData, load_general, load_split, load_task
from telltune.errors import RecipeError, StorageError
from telltune.evaluation.forgetting import held_out_general, measure_forgetting, task_format
from telltune.evaluation.headline import TaskAnswers, task_answers
from telltune.evaluation.score import Evaluation, evaluate_predictor
from telltune.fitting.build_plan import answer_budget, build_run_plan
from telltune.fitting.general_choice import ChosenData, first_drawn
from telltune.fitting.model_info import ModelInfo
from telltune.fitting.protocol import Method, Settings
from telltune.fitting.selection import examples_in_budget
from telltune.fitting.trained_method import TrainedMethod
from telltune.inference.labels import labels_of
from telltune.methods.rcl import can_reason
from telltune.methods.registry import get_method
from telltune.models import LoadedModel, load_base_of
from telltune.recipe import Recipe, recipe_from_dict
from telltune.research.continual.abilities import Ability, unseen_items
from telltune.research.continual.scores import format_validity
from telltune.research.continual.spec import STRATEGIES, ContinualSpec, Strategy
from telltune.storage import write_bytes
from telltune.study.spec import TaskEntry, merged_keys
from telltune.training.adapter import trained_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.fitting.predictor import Predictor

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
        abilities: Scores of the base and after the last task, by ability and task; else empty.
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
    """State of one strategy with one seed; `scores`, `valid` and `warnings` are those of `Step`.

    Attributes:
        start: Initial weights of the next task; None for a new initialization.
        forms: `Step.answer_tokens` and `Step.answer_after`, by task.
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
        spec: Specification of the order.
        path: Its file, which messages name and relative paths start from.
        out: Folder in which adapters are kept between steps.
    """

    def __init__(self, spec: ContinualSpec, path: Path, out: Path) -> None:
        self._spec, self._path, self._out = spec, path, out
        self._base: LoadedModel | None = None
        self._abilities: list[tuple[Ability, _Known, list[str]]] = []
        self._before: dict[str, float] = {}  # the base's score by the name of an ability's task

    def check(self) -> None:
        """Check all tasks before the first one is learned.

        Raises:
            RecipeError: A task lacks test data, or the general data that a strategy needs; some
                tasks train all weights and others an adapter; `lora.init` changes the base; or all
                items of an ability occur in the training data.
        """
        mixing = {"sequential_replay", "replay", "tell", "adapters"} & set(self._spec.strategies)
        order = [self._known(entry, self._spec.seeds[0]) for entry in self._spec.tasks]
        if len({known.recipe.training.full_parameters for known in order}) > 1:
            raise RecipeError(
                f"{self._path}: training.full_parameters differs between tasks, but each task "
                "starts from the weights of the previous one; set it once, in the recipe."
            )
        for known in order:
            if known.recipe.lora.changes_base and not known.recipe.training.full_parameters:
                raise RecipeError(
                    f"{self._path}: `lora.init: {known.recipe.lora.init}` sets the initial "
                    "weights, but each task starts from those of the previous one; remove it."
                )
            if mixing and known.recipe.general is None:
                raise RecipeError(
                    f"{self._path}: strategy `{min(mixing)}` needs general data; set "
                    "`general: embedded` in the recipe, or name files."
                )
        if self._spec.abilities:
            self._load_abilities(order)

    def _load_abilities(self, order: Sequence[_Known]) -> None:
        """Read the items of the abilities, without those that occur in the training data."""
        trained = [example for known in order for example in known.task.train]
        trained += load_general(order[0].recipe) or ()
        for ability, entries in self._spec.abilities.items():
            for entry in entries:
                known = self._known(entry, order[0].recipe.seed)
                kept = unseen_items(known.items, trained)
                if not kept:
                    raise RecipeError(
                        f"{self._path}: abilities.{ability}: all {len(known.items)} items of "
                        f"`{entry.name}` occur in the training data; name other items."
                    )
                out = len(known.items) - len(kept)
                told = f"{out} of {len(known.items)} items occur in the training data; left out."
                self._abilities.append((ability, replace(known, items=kept), [told] if out else []))

    def recipe(self, entry: TaskEntry, seed: int) -> Recipe:
        """Return the recipe of a task for a seed."""
        values = merged_keys(self._spec.recipe, entry.keys) | {"seed": seed}
        name = f"{self._path} ({entry.name})"
        return recipe_from_dict(values, name=name, folder=self._path.parent)

    def learn(self, strategy: Strategy, seed: int, done: Sequence[Step]) -> Iterator[Step]:
        """Learn the remaining tasks and yield a step for each; `done` are those of an earlier call.

        Raises:
            StorageError: The initial weights of the next task are missing or damaged.
        """
        order = [self._known(entry, seed) for entry in self._spec.tasks]
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
        number, known, own = len(order) - 1, order[-1], strategy in _OWN
        base = self._loaded(order[0].recipe)
        recipe, general = known.recipe, load_general(known.recipe)
        if strategy == "replay" and general is not None:
            recipe, general = self._with_replay(order, general, base)
        settings = Settings(recipe, progress=False, save=False, start=progress.start)
        method = _method(strategy, known.task, examples_in_budget(known.task, base, recipe))
        held = self._held_out(known)
        last = number + 1 == len(self._spec.tasks)
        # This must run before the base is changed or gets an adapter.
        base_nll, _ = _aside(get_method("base").run(known.task, None, base, settings), base, held)
        for _, other, _ in self._abilities if last else ():
            if other.name not in self._before:
                asked = get_method("base").run(other.task, None, base, settings)
                self._before[other.name] = _score(asked, other, base).headline[1].score
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

        The predictor of the task is released. The new one has the time of both trainings.
        """
        known, before = order[-1], predictor.cost.seconds
        settings = replace(settings, start=trained_weights(predictor.model))
        predictor.release()
        if known.recipe.training.full_parameters:
            self._base = None  # the base was trained itself
        base = self._loaded(order[0].recipe)
        general = load_general(known.recipe)
        assert general is not None  # by `check`
        trained_on = examples_in_budget(known.task, base, known.recipe)
        count = max(1, round(_ALIGNED * len(trained_on)))
        memory = (*first_drawn(general, count, known.recipe.seed), *_replayed(order[:-1], base))
        task = replace(known.task, train=memory, dev=(), anchor=None, unlabeled=())
        recipe = known.recipe.changed(task={"max_tokens": None})
        found = get_method("sft").run(task, None, base, replace(settings, recipe=recipe))
        return replace(found, cost=replace(found.cost, seconds=before + found.cost.seconds))

    def _score_abilities(
        self, predictor: Predictor, base: LoadedModel
    ) -> dict[str, dict[str, list[float]]]:
        """Return the scores of the base and of a predictor, by ability and task."""
        found: dict[str, dict[str, list[float]]] = {}
        for ability, known, _ in self._abilities:
            lengths = Encoder(base.tokenizer).encode(known.items).response_lengths
            most = answer_budget(lengths, known.recipe)
            asked = replace(predictor, max_new_tokens=most, answer_after="", shots=())
            after = _score(asked, known, base).headline[1].score
            found.setdefault(ability, {})[known.name] = [self._before[known.name], after]
        return found

    def _known(self, entry: TaskEntry, seed: int) -> _Known:
        """Return a task with the examples drawn for this seed."""
        recipe = self.recipe(entry, seed)
        task, test = load_task(recipe), load_split(recipe, "test")
        items, answers = test[: recipe.evaluation.max_items], task_answers(recipe, task, test)
        return _Known(entry.name, recipe, task, items, answers)

    def _loaded(self, recipe: Recipe) -> LoadedModel:
        if self._base is None:
            self._base = load_base_of(recipe)
        return self._base

    def _with_replay(
        self, order: Sequence[_Known], general: GeneralData, base: LoadedModel
    ) -> tuple[Recipe, GeneralData]:
        """Add replayed examples, which contain their own task's anchor as text, to general data."""
        known = order[-1]
        method = _method("replay", known.task, ())
        assert isinstance(method, TrainedMethod)  # TELL
        model = ModelInfo.of(base.model.config, base.tokenizer)
        counts = build_run_plan(method, known.task, general, model, known.recipe).counts
        drawn = first_drawn(general, counts.general_examples, known.recipe.seed)
        chosen = (*drawn, *_replayed(order[:-1], base))
        recipe = known.recipe.changed(mixture={"general_examples": len(chosen)})
        return recipe, ChosenData(f"{general.name}+replay", general.sources, chosen)

    def _held_out(self, known: _Known) -> list[Example]:
        """Return general examples that no strategy uses: the last in the order of the draw."""
        general, count = load_general(known.recipe), self._spec.general_items
        if general is None:
            return []
        used = general.contents.examples - count
        return held_out_general(general, count, used, known.recipe.seed)

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


def _aside(
    predictor: Predictor, base: LoadedModel, examples: list[Example], learned: Sequence[_Known] = ()
) -> tuple[float, float | None]:
    """Return the loss of general examples and the leakage in the formats of learned tasks."""
    if not examples:
        return float("nan"), None
    told = (task_format([e.completion for e in known.task.train]) for known in learned)
    forms = list(filter(None, told))
    looks = (lambda answer: any(form(answer) for form in forms)) if forms else None
    found = measure_forgetting(predictor, base.tokenizer, examples, _PROMPTS, looks)
    return found.general_nll, found.leakage


def _score(predictor: Predictor, known: _Known, base: LoadedModel) -> Evaluation:
    """Score the items of a task, using its own anchor."""
    asked = replace(
        predictor,
        tokenizer=anchored_tokenizer(base.tokenizer, known.task.anchor),
        anchor=known.task.anchor,
        evaluation=known.recipe.evaluation,
        labels=labels_of(known.task, known.task.train),
    )
    return evaluate_predictor(asked, known.items, answers=known.answers)
