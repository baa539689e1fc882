"""The task and general data that a recipe names."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from telltune.data.anchor import Anchor
from telltune.data.checks import question
from telltune.data.embedded import embedded_task
from telltune.data.embedded.stable import stable_number
from telltune.data.files import Split
from telltune.data.general import EMBEDDED, GeneralData
from telltune.data.permutation import Permutation
from telltune.data.prompts import scan_unlabeled
from telltune.data.reading import read_examples, stream_examples
from telltune.data.report import ReadReport
from telltune.errors import DataError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example, Message
    from telltune.recipe import DataSpec, Recipe

__all__ = [
    "REST",
    "GeneralData",
    "Split",
    "TaskData",
    "check_unlabeled",
    "load_general",
    "load_split",
    "load_task",
    "named_data",
    "unlabeled_beside",
    "within",
]


@dataclass(frozen=True)
class TaskData:
    """What a method may learn from and choose on. Test items are not in it, by construction.

    Attributes:
        name: For tables.
        train: In the seed's order, so that a prefix is a smaller draw.
        dev: For choices; may be empty.
        anchor: The recipe's, or the embedded task's own.
        metrics: Names, the headline first; empty lets the data decide.
        shots: Turns that stand before every prompt, in training and afterwards.
        warnings: What of the data was not read or left out, in sentences.
        answer_after: What opens the answer in completions that reason first; "" where none do.
        unlabeled: Inputs without labels, their completions empty. None is asked in dev or test
            data, and none twice; labeled inputs may be among them, see `unlabeled_beside`.
    """

    name: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    anchor: Anchor | None
    metrics: tuple[str, ...]
    shots: tuple[Message, ...] = ()
    warnings: tuple[str, ...] = ()
    answer_after: str = ""
    unlabeled: tuple[Example, ...] = ()


def unlabeled_beside(task: TaskData, labeled: Iterable[Example]) -> tuple[Example, ...]:
    """Return the task's unlabeled inputs that are not among the labeled ones.

    Args:
        task: From `load_task`.
        labeled: The training examples whose labels a method uses.
    """
    known = {question(example) for example in labeled}
    return tuple(example for example in task.unlabeled if question(example) not in known)


def check_unlabeled(inputs: Sequence[Example], what: str) -> None:
    """Refuse what needs unlabeled inputs where there are none.

    Args:
        inputs: From `unlabeled_beside`.
        what: Needs them, such as "method `encoder_em`".

    Raises:
        RecipeError: There are none.
    """
    if not inputs:
        raise RecipeError(
            f"{what} needs unlabeled inputs beside the labeled ones; name them in the recipe "
            "(`task.unlabeled: inputs.jsonl`), or write `rest` there for the training examples "
            "that are not drawn."
        )


def load_task(recipe: Recipe) -> TaskData:
    """Read the task's training, dev and unlabeled data; training data to `task.max_examples`.

    Raises:
        DataError: As `read_examples`.
    """
    read, read_dev = ReadReport(), ReadReport()
    train = load_split(recipe, "train", read)
    order = Permutation(len(train), recipe.seed, _DRAW)[np.arange(len(train))]
    ordered = [train[i] for i in order]
    metrics = tuple(recipe.evaluation.metrics or ())
    if recipe.task.embedded:
        metrics = metrics or embedded_task(recipe.task.embedded).metrics
    spec = recipe.task
    has_dev = any(given is not None for given in (spec.embedded, spec.dev, spec.dev_share))
    dev = tuple(load_split(recipe, "dev", read_dev)) if has_dev else ()
    unlabeled, left_out = _load_unlabeled(recipe, ordered, dev)
    return TaskData(
        name=recipe.task.embedded or train[0].source,
        train=tuple(ordered[: recipe.task.max_examples]),
        dev=dev,
        anchor=_anchor(recipe),
        metrics=metrics,
        # A share of the training data is told of with them.
        warnings=(
            *read.warnings("task.train"),
            *(read_dev.warnings("task.dev") if spec.dev else ()),
            *left_out,
        ),
        unlabeled=unlabeled,
    )


def _load_unlabeled(
    recipe: Recipe, train: Sequence[Example], dev: Sequence[Example]
) -> tuple[tuple[Example, ...], tuple[str, ...]]:
    """Return the unlabeled inputs, and sentences on what of them is not read or left out.

    Args:
        recipe: Names them.
        train: All training examples; they are the inputs where the recipe says `rest`.
        dev: The dev examples.

    Raises:
        DataError: As `read_examples`.
    """
    spec, report = recipe.task, ReadReport()
    if spec.unlabeled is None:
        return (), ()
    reader = partial(scan_unlabeled, report=report, trained_on=spec.train or ())
    named = [one for one in spec.unlabeled if one.path != REST]
    found = list(stream_examples(named, reader)) if named else []
    if len(named) < len(spec.unlabeled):
        found += [replace(e, completion="", reasoning="", rationale="") for e in train]
    anchor = _anchor(recipe)
    if anchor is not None:
        found = [anchor.detach(example) for example in found]
    tested = load_split(recipe, "test") if spec.embedded or spec.test else []
    held = {question(example) for example in (*dev, *tested)}
    by_question = {question(example): example for example in found}
    kept = tuple(example for asked, example in by_question.items() if asked not in held)
    warnings = list(report.warnings("task.unlabeled"))
    if repeated := len(found) - len(by_question):
        warnings.append(f"task.unlabeled: {repeated:,} left out, which repeat another input.")
    if shared := len(by_question) - len(kept):
        warnings.append(
            f"task.unlabeled: {shared:,} of {len(by_question):,} left out, which dev or test data "
            "ask too."
        )
    return kept, tuple(warnings)


def load_split(recipe: Recipe, split: Split, report: ReadReport | None = None) -> list[Example]:
    """One split of the task, with the anchor taken off where the data already carries it.

    Args:
        recipe: Names it.
        split: Which.
        report: Takes down what of the rows is not read or left out.

    Raises:
        RecipeError: The recipe names no such split.
        DataError: As `read_examples`.
    """
    if recipe.task.embedded:
        examples = list(getattr(embedded_task(recipe.task.embedded), split))
    else:
        share = recipe.task.dev_share
        of: Split = "train" if split == "dev" and share else split
        specs: list[DataSpec] | None = getattr(recipe.task, of)
        if not specs:
            raise RecipeError(f"the recipe names no `task.{split}`; add it to use this verb.")
        examples = read_examples(specs, report, split=of)
        if share and of == "train":
            held = _held_out(examples, share)
            examples = [e for e in examples if (e.prompt in held) == (split == "dev")]
    anchor = _anchor(recipe)
    if anchor is not None:
        examples = [anchor.detach(example) for example in examples]
        for example in examples:
            if not example.completion.strip():
                raise DataError(f"{example.origin}: no response is left without the anchor's line.")
    return examples


def _held_out(examples: list[Example], share: float) -> set[str]:
    """Prompts to keep out of training, and with one every example that asks the same.

    Which they are follows from their text alone: no seed trains on what another one chose by.

    Raises:
        DataError: Nothing would be left to train on.
    """
    prompts = sorted({example.prompt for example in examples}, key=stable_number)
    held = math.ceil(share * len(prompts))
    if held == len(prompts):
        raise DataError(
            f"task.dev_share = {share} of {len(prompts)} prompts leaves none to train on; give "
            "a smaller share or more examples."
        )
    return set(prompts[:held])


def load_general(recipe: Recipe) -> GeneralData | None:
    """The general data, which are read when they are needed; None where the recipe names none."""
    if recipe.general is None:
        return None
    sources = recipe.general.sources
    return GeneralData("+".join(spec.path for spec in sources), tuple(sources))


def named_data(recipe: Recipe) -> list[tuple[DataSpec, Split]]:
    """Every data set that a recipe names but the embedded one, with what it is for."""
    task, general = recipe.task, recipe.general
    splits: dict[Split, list[DataSpec] | None] = {
        "train": task.train,
        "dev": task.dev,
        "test": task.test,
    }
    named = [(spec, split) for split, specs in splits.items() for spec in specs or ()]
    beside = (*(task.unlabeled or ()), *(general.sources if general else ()))
    named += [(spec, "train") for spec in beside]
    return [(spec, split) for spec, split in named if spec.path not in (EMBEDDED, REST)]


def within(lengths: NDArray[np.int64], max_tokens: int | None) -> int:
    """How many examples, from the first, fit in `max_tokens`.

    Raises:
        DataError: Not even one does.
    """
    if max_tokens is None:
        return len(lengths)
    fitting = int(np.searchsorted(np.cumsum(lengths), max_tokens, side="right"))
    if fitting == 0:
        raise DataError(
            f"task.max_tokens = {max_tokens} holds no example: the first has {lengths[0]} tokens."
        )
    return fitting


REST = "rest"
"""Stands in `task.unlabeled` for the training examples that are not drawn."""

# Keeps the draw of a subset apart from the mixture's random streams.
_DRAW = (1000,)


def _anchor(recipe: Recipe) -> Anchor | None:
    if recipe.anchor is not None:
        return Anchor.from_spec(recipe.anchor)
    if recipe.task.embedded:
        task = embedded_task(recipe.task.embedded)
        return Anchor(task.anchor_prompt, task.anchor_response)
    return None
