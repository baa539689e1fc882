"""Learns tasks one after another, by one strategy, and scores those learned after each."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from safetensors.torch import load, save

from telltune.data.anchor import anchored_tokenizer
from telltune.data.task import load_general, load_split, load_task
from telltune.errors import RecipeError, StorageError
from telltune.evaluation.continual import format_validity
from telltune.evaluation.forgetting import held_out_general, measure_aside, task_format
from telltune.evaluation.headline import task_answers
from telltune.evaluation.score import evaluate_predictor
from telltune.inference.labels import closed_set
from telltune.methods.general_choice import ChosenData, first_drawn
from telltune.methods.known_model import KnownModel
from telltune.methods.preparation import prepare
from telltune.methods.protocol import Settings
from telltune.methods.reasoned import can_reason
from telltune.methods.registry import get_method
from telltune.methods.selection import usable
from telltune.methods.trained import Trained
from telltune.models import load_base
from telltune.recipe import recipe_from_dict
from telltune.storage import write_bytes
from telltune.study.spec import merged_keys
from telltune.training.adapter import trained_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.data.task import TaskData
    from telltune.evaluation.headline import TaskAnswers
    from telltune.evaluation.score import Evaluation
    from telltune.methods.protocol import Method, Predictor
    from telltune.models import BaseModel
    from telltune.recipe import Recipe
    from telltune.study.spec import TaskEntry

__all__ = ["STRATEGIES", "Learner", "Step", "Strategy"]

Strategy = Literal["sequential", "replay", "tell", "rcl", "adapters", "in_context"]
STRATEGIES: dict[Strategy, str] = {
    "sequential": "sft_anchor",
    "replay": "tell",
    "tell": "tell",
    "rcl": "rcl",
    "adapters": "tell",
    "in_context": "few_shot",
}
"""By strategy, the method that learns each task:

- `sequential`: SFT with the anchor, one adapter for all tasks.
- `replay`: the same adapter, with a tenth of each earlier task and general data mixed in.
- `tell`: TELL at every step, one adapter for all.
- `rcl`: SFT with the anchor on a rationale and the answer behind it, one adapter for all. A task
  without rationales whose answers are no labels is learned by its answers alone.
- `adapters`: TELL with an adapter of its own for each task, which nothing can make it forget.
- `in_context`: examples of the task in the base's prompt.

With `training.full_parameters: true` all weights are trained in place of an adapter: one model goes
from task to task (`sequential` is TRACE's SeqFT), and `adapters` starts from the base for each.
"""
_OWN = ("adapters", "in_context")
"""Strategies under which nothing passes from task to task."""
_REPLAYED = 0.1
"""Of each earlier task's examples, as published."""
_PROMPTS = 16
"""General prompts that are answered after each task."""


@dataclass(frozen=True)
class Step:
    """What a strategy did with one task.

    Attributes:
        strategy: Its name.
        seed: Of all that was drawn.
        number: Of the task in the order, from 0.
        task: Its name.
        scores: By task so far, percent.
        valid: Share of answers in the task's form, by task so far.
        general_nll: Of held-out general examples, in nats a token, once the task is learned.
        base_nll: The same of the base.
        leakage: Share of general prompts that get an answer in the form of a task learned so far;
            None where none has a form that could be told, or there are no general data.
        seconds: Of training.
        answer_tokens: That an answer to this task may have, then and later.
        answer_after: What opens its answers, then and later; "" where nothing does.
        warnings: Why a score may not mean what it seems to, by task so far; one sentence each.
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
    # Rows of earlier versions have none.
    warnings: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class _Progress:
    """What one strategy has come to with one seed.

    Attributes:
        start: Weights that the next task begins with; None for a fresh start.
        scores: By task so far, percent.
        valid: Share of answers in the task's form, by task so far.
        forms: By task, `Step.answer_tokens` and `Step.answer_after`.
        warnings: By task so far; see `Step.warnings`.
    """

    start: dict[str, Tensor] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    valid: dict[str, float] = field(default_factory=dict)
    forms: dict[str, tuple[int, str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Known:
    """A task of the order, as one seed has it."""

    name: str
    recipe: Recipe
    task: TaskData
    items: list[Example]
    answers: TaskAnswers


class Learner:
    """Holds what all strategies share.

    Args:
        recipe: Keys that all tasks share.
        tasks: In their order.
        general_items: Held-out general examples to ask about.
        out: Where adapters are kept between steps.
        name: Of the order, for messages.
        folder: Where relative paths start.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        tasks: Sequence[TaskEntry],
        general_items: int,
        out: Path,
        *,
        name: str,
        folder: Path,
    ) -> None:
        self._recipe, self._tasks, self._general_items = recipe, tasks, general_items
        self._out, self._name, self._folder = out, name, folder
        self._base: BaseModel | None = None

    def check(self, strategies: Sequence[Strategy], seeds: Sequence[int]) -> None:
        """Look at all tasks before the first is learned.

        Raises:
            RecipeError: A task has no test data, or lacks an anchor or general data that a strategy
                needs; or all weights are trained for some tasks and adapters for others.
        """
        mixes = {"replay", "tell", "adapters"} & set(strategies)
        order = self._order(seeds[0])
        if len({known.recipe.training.full_parameters for known in order}) > 1:
            raise RecipeError(
                f"{self._name}: training.full_parameters differs between tasks, and the weights of "
                "one task are where the next begins; write it once, in the recipe."
            )
        for known in order:
            if known.task.anchor is None:
                raise RecipeError(
                    f"{self._name}: task `{known.name}` has no anchor, by which one model tells "
                    "its tasks apart; write `anchor: ...` beside it."
                )
            if mixes and known.recipe.general is None:
                raise RecipeError(
                    f"{self._name}: strategy `{min(mixes)}` mixes in general data; write "
                    "`general: embedded` in the recipe, or name files."
                )

    def learn(self, strategy: Strategy, seed: int, done: Sequence[Step]) -> Iterator[Step]:
        """Learn the tasks that are left.

        Args:
            strategy: By which.
            seed: Of all that is drawn.
            done: What an earlier call did.

        Raises:
            StorageError: The weights that the next task begins with are gone.
        """
        order = self._order(seed)
        if len(done) == len(order):
            return
        progress = _Progress(forms={s.task: (s.answer_tokens, s.answer_after) for s in done})
        if done and strategy in _OWN:
            # A task that has its own adapter or prompt does as it did when it was learned.
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
        """Learn the last task of `order`, and score all that were learned."""
        number, known = len(order) - 1, order[-1]
        base = self._loaded(order[0].recipe)
        own = strategy in _OWN
        general = self._general(strategy, order[:-1], known, base)
        recipe = self._with_general(known.recipe, general)
        settings = Settings(recipe, progress=False, save=False, start=progress.start)
        method = _method(strategy, usable(known.task, base, recipe))
        held = self._held_out(known)
        # Before the base is changed, or an adapter put on it.
        base_nll = _nll(get_method("base").run(known.task, None, base, settings), held)
        predictor = method.run(known.task, general if method.mixes else None, base, settings)
        progress.forms[known.name] = (predictor.max_new_tokens, predictor.answer_after)
        for other in [known] if own else order:
            tokens, after = progress.forms[other.name]
            asked = replace(predictor, max_new_tokens=tokens, answer_after=after)
            found = _score(asked, other, base)
            progress.scores[other.name] = found.headline[1].score
            progress.valid[other.name] = format_validity(
                found.predictions, [example.completion for example in other.task.train]
            )
            progress.warnings[other.name] = list(found.warnings)
        general_nll, leakage = _aside(predictor, base, held, order)
        if not own:
            progress.start = trained_weights(predictor.model)
            self._keep(strategy, seed, number, progress.start)
        predictor.release()
        if method.trains and recipe.training.full_parameters:
            self._base = None  # it was trained itself, and the next task needs it as it was
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
            dict(progress.warnings),
        )

    def _order(self, seed: int) -> list[_Known]:
        """All tasks, with this seed's draw of their examples."""
        found = []
        for entry in self._tasks:
            values = merged_keys(self._recipe, entry.keys) | {"seed": seed}
            name = f"{self._name} ({entry.name})"
            recipe = recipe_from_dict(values, name=name, folder=self._folder)
            task = load_task(recipe)
            test = load_split(recipe, "test")
            answers = task_answers(recipe, task, test)
            items = test[: recipe.evaluation.max_items]
            found.append(_Known(entry.name, recipe, task, items, answers))
        return found

    def _loaded(self, recipe: Recipe) -> BaseModel:
        if self._base is None:
            settings = recipe.training
            self._base = load_base(
                recipe.model, settings.precision, trainable=settings.full_parameters
            )
        return self._base

    def _general(
        self, strategy: Strategy, earlier: Sequence[_Known], known: _Known, base: BaseModel
    ) -> GeneralData | None:
        """What is mixed in; replayed examples carry their own task's anchor in their text."""
        general = load_general(known.recipe)
        if strategy != "replay" or general is None:
            return general
        method = get_method(STRATEGIES[strategy])
        assert isinstance(method, Trained)  # TELL
        model = KnownModel.of(base.model.config, base.tokenizer)
        count = prepare(method, known.task, general, model, known.recipe).counts.general_examples
        replayed: list[Example] = []
        for other in earlier:
            examples = usable(other.task, base, other.recipe)
            anchor = other.task.anchor
            assert anchor is not None  # by `check`
            kept = examples[: max(1, round(_REPLAYED * len(examples)))]
            replayed += [anchor.attach(example) for example in kept]
        drawn = first_drawn(general, count, known.recipe.seed)
        return ChosenData(f"{general.name}+replay", general.sources, (*drawn, *replayed))

    def _with_general(self, recipe: Recipe, general: GeneralData | None) -> Recipe:
        if not isinstance(general, ChosenData):
            return recipe
        spec = recipe.mixture.model_copy(update={"general_examples": len(general.chosen)})
        return recipe.model_copy(update={"mixture": spec})

    def _held_out(self, known: _Known) -> list[Example]:
        """General examples that no strategy reaches: the last in the order of the draw."""
        general = load_general(known.recipe)
        if general is None:
            return []
        used = general.contents.examples - self._general_items
        return held_out_general(general, self._general_items, used, known.recipe.seed)

    def _keep(self, strategy: Strategy, seed: int, number: int, weights: dict[str, Tensor]) -> None:
        """Write the weights after a task. The file before stays: no row is written yet."""
        write_bytes(self._file(strategy, seed, number), save(weights))
        self._file(strategy, seed, number - 2).unlink(missing_ok=True)

    def _kept(self, strategy: Strategy, seed: int, number: int) -> dict[str, Tensor]:
        path = self._file(strategy, seed, number)
        try:
            return load(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StorageError(
                f"{path} is gone or damaged ({error}), and without it {strategy} cannot go on; "
                f"remove {self._out} to begin anew."
            ) from None

    def _file(self, strategy: Strategy, seed: int, number: int) -> Path:
        return self._out / "adapters" / f"{strategy}-{seed}-{number + 1}.safetensors"


def _method(strategy: Strategy, examples: Sequence[Example]) -> Method:
    if strategy == "rcl" and not can_reason(examples):
        return get_method("sft_anchor")
    return get_method(STRATEGIES[strategy])


def _nll(predictor: Predictor, examples: Sequence[Example]) -> float:
    """Of a response token, in nats; nan where there are no examples."""
    if not examples:
        return float("nan")
    nll, tokens = predictor.nll(examples)
    return float(nll.sum() / tokens.sum())


def _aside(
    predictor: Predictor, base: BaseModel, examples: Sequence[Example], learned: Sequence[_Known]
) -> tuple[float, float | None]:
    """The loss of general examples, and how many of some get an answer in a learned task's form."""
    if not examples:
        return float("nan"), None
    forms = [task_format([e.completion for e in known.task.train]) for known in learned]
    told = [form for form in forms if form is not None]
    looks = (lambda answer: any(form(answer) for form in told)) if told else None
    found = measure_aside(predictor, base.tokenizer, examples, _PROMPTS, looks)
    return found.general_nll, found.leakage


def _score(predictor: Predictor, known: _Known, base: BaseModel) -> Evaluation:
    """Score a task's items, asked with its own anchor."""
    asked = replace(
        predictor,
        tokenizer=anchored_tokenizer(base.tokenizer, known.task.anchor),
        anchor=known.task.anchor,
        evaluation=known.recipe.evaluation,
        labels=closed_set(example.completion for example in known.task.train),
    )
    return evaluate_predictor(asked, known.items, answers=known.answers)
