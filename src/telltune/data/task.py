"""Task data and general data of a recipe."""

from __future__ import annotations

import difflib
import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import regex

from telltune.data.anchor import Anchor
from telltune.data.checks import question
from telltune.data.embedded import embedded_task
from telltune.data.embedded.stable import stable_number
from telltune.data.examples import Example, Message, Problem
from telltune.data.files import files_of
from telltune.data.general import EMBEDDED, GeneralData, scan_general
from telltune.data.loaders import read_examples, stream_examples
from telltune.data.permutation import Permutation
from telltune.data.prompts import scan_unlabeled
from telltune.data.report import ReadReport
from telltune.errors import DataError, RecipeError, shown
from telltune.recipe import DataSpec, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from telltune.data.files import Split


@dataclass(frozen=True)
class TaskData:
    """Data for training and selection by a method. Test examples are never included.

    Attributes:
        train: Training examples in the order of the seed, so that a prefix is a smaller draw.
        dev: Dev examples for selection; may be empty.
        metrics: Names of metrics, the primary one first. If empty, they depend on the data.
        shots: Turns before every prompt, in training and inference.
        warnings: Sentences about data that were not read or left out.
        answer_after: Text before the answer in completions that start with reasoning, or "".
        unlabeled: Unlabeled inputs with empty completions, without duplicates and without inputs
            of dev or test data. Labeled inputs may be included, see `unlabeled_beside`.
        given_unlabeled: Number of unlabeled inputs in the recipe, with those that are left out.
        labels: All labels that an answer can be, with a few words about each; empty if the recipe
            does not list them.
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
    given_unlabeled: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def named_labels(self) -> tuple[Example, ...]:
        """Each label that has words, twice as an example: the words, answered by the label.

        On three tasks, one name was worth about as much to a classifier as two examples.
        """
        named = tuple(
            Example(_readable(text), label) for label, text in self.labels.items() if text
        )
        return 2 * named


def _readable(text: str) -> str:
    """Return the words of a name such as `HassTurnOn`, `turn_on` or `turn-on`.

    A sign stays, as in `-1`, `A-` and `3.5`. Of several words, only underscores are replaced.
    """
    if " " in text:
        return text.replace("_", " ").strip() or text
    apart = _BETWEEN_WORDS.sub(lambda found: found["sign"] or " ", text)
    return " ".join(apart.split()) or text


_BETWEEN_WORDS = regex.compile(
    r"(?P<sign>(?<![^\W_])-(?=\d)|(?<=[^\W_])-+(?![\w./-])|(?<![^\W\d])\.(?=\d))"
    r"|[_./-]|(?<=\p{Ll}\p{M}*)(?=\p{Lu})"
)


def unlabeled_beside(task: TaskData, labeled: Iterable[Example]) -> tuple[Example, ...]:
    """Return the task's unlabeled inputs that are not among the labeled ones."""
    known = {question(example) for example in labeled}
    return tuple(example for example in task.unlabeled if question(example) not in known)


def check_unlabeled(inputs: Sequence[Example], what: str, given: int = 0) -> None:
    """Check that there are unlabeled inputs for what needs them, such as "method `encoder_em`".

    `given` is their number in the recipe, before those that other data contain were left out.

    Raises:
        RecipeError: There are no unlabeled inputs.
    """
    if not inputs and given:
        raise RecipeError(
            f"{what} needs unlabeled inputs, but all {given:,} of `task.unlabeled` are left out, "
            "because labeled, dev or test data contain them; add others."
        )
    if not inputs:
        raise RecipeError(
            f"{what} needs unlabeled inputs; add them to the recipe "
            "(`task.unlabeled: inputs.jsonl`), or set `task.unlabeled: rest` for the training "
            "examples that are not drawn."
        )


class Splits:
    """Splits of tasks, each read once for all recipes that differ in seed or number of examples."""

    def __init__(self) -> None:
        self._read: dict[str, tuple[list[Example], ReadReport]] = {}

    def load(self, recipe: Recipe, split: Split) -> tuple[list[Example], ReadReport]:
        """Return a split as `load_split` does, with the report on its rows."""
        drawn = {"max_examples", "max_tokens", "unlabeled"}
        anchor = recipe.anchor and recipe.anchor.model_dump_json()
        key = f"{split}|{recipe.task.model_dump_json(exclude=drawn)}|{anchor}"
        if key not in self._read:
            report = ReadReport()
            self._read[key] = load_split(recipe, split, report), report
        return self._read[key]


def load_task(
    recipe: Recipe, *, may_lack_examples: bool = False, splits: Splits | None = None
) -> TaskData:
    """Read a task's training data (up to `task.max_examples`), dev data and unlabeled inputs.

    `splits` are those that are already read.

    Raises:
        DataError: See `read_examples`.
        RecipeError: There are no training data, and they may not be lacking.
    """
    splits = splits or Splits()
    read, read_dev = ReadReport(), ReadReport()
    ordered: list[Example] = []
    if recipe.task.embedded or recipe.task.train:
        train, read = splits.load(recipe, "train")
        order = Permutation(len(train), recipe.seed, _DRAW)[np.arange(len(train))]
        ordered = [train[i] for i in order]
    elif not may_lack_examples:
        raise RecipeError(
            "the recipe has no labeled examples (`task.train`), from which only a classifier of "
            "`task.labels` can be fitted: `tell fit --set method=combined_em`."
        )
    metrics = tuple(recipe.evaluation.metrics or ())
    if recipe.task.embedded:
        metrics = metrics or embedded_task(recipe.task.embedded).metrics
    spec = recipe.task
    has_dev = any(given is not None for given in (spec.embedded, spec.dev, spec.dev_share))
    dev: list[Example] = []
    if has_dev:
        dev, read_dev = splits.load(recipe, "dev")
    unlabeled, given, left_out = _load_unlabeled(recipe, ordered, dev, splits)
    return TaskData(
        name=recipe.task.embedded or (ordered[0].source if ordered else "labels"),
        train=tuple(ordered[: recipe.task.max_examples]),
        dev=tuple(dev),
        anchor=anchor_of(recipe),
        metrics=metrics,
        # With `dev_share`, the warnings of the training data include those of the dev data.
        warnings=(
            *read.warnings("task.train"),
            *(read_dev.warnings("task.dev") if spec.dev else ()),
            *left_out,
        ),
        unlabeled=unlabeled,
        given_unlabeled=given,
        labels=spec.labels or {},
    )


def _load_unlabeled(
    recipe: Recipe, train: Sequence[Example], dev: Sequence[Example], splits: Splits
) -> tuple[tuple[Example, ...], int, tuple[str, ...]]:
    """Return the unlabeled inputs, how many were given, and sentences about those left out.

    Raises:
        DataError: See `read_examples`.
    """
    spec, report = recipe.task, ReadReport()
    if spec.unlabeled is None:
        return (), 0, ()
    reader = partial(scan_unlabeled, report=report, trained_on=spec.train or ())
    named = [one for one in spec.unlabeled if one.path != REST]
    found = list(stream_examples(named, reader)) if named else []
    if len(named) < len(spec.unlabeled):
        found += [replace(e, completion="", reasoning="", rationale="") for e in train]
    anchor = anchor_of(recipe)
    if anchor is not None:
        found = [anchor.detach(example) for example in found]
    tested = splits.load(recipe, "test")[0] if spec.embedded or spec.test else []
    held = {question(example) for example in (*dev, *tested)}
    by_question = {question(example): example for example in found}
    kept = tuple(example for asked, example in by_question.items() if asked not in held)
    warnings = list(report.warnings("task.unlabeled"))
    if repeated := len(found) - len(by_question):
        warnings.append(f"task.unlabeled: {repeated:,} left out as duplicates of another input.")
    if shared := len(by_question) - len(kept):
        warnings.append(
            f"task.unlabeled: {shared:,} of {len(by_question):,} left out because dev or test "
            "data contain them."
        )
    return kept, len(found), tuple(warnings)


def load_split(recipe: Recipe, split: Split, report: ReadReport | None = None) -> list[Example]:
    """Return one split of the task. An anchor that the data already contain is removed.

    Raises:
        RecipeError: The recipe does not have this split.
        DataError: See `read_examples`; or a response is empty without the anchor, or is none of
            the task's labels.
    """
    if recipe.task.embedded:
        examples = list(getattr(embedded_task(recipe.task.embedded), split))
    else:
        share = recipe.task.dev_share
        of: Split = "train" if split == "dev" and share else split
        specs: list[DataSpec] | None = getattr(recipe.task, of)
        if not specs:
            raise RecipeError(f"the recipe has no `task.{split}`; add it to use this command.")
        examples = read_examples(specs, report, split=of)
        if share and of == "train":
            held = _held_out(examples, share, recipe.task.dev_fold or 0)
            examples = [e for e in examples if (e.prompt in held) == (split == "dev")]
    anchor = anchor_of(recipe)
    if anchor is not None:
        examples = [anchor.detach(example) for example in examples]
        for example in examples:
            if not example.completion.strip():
                raise DataError(f"{example.origin}: the response contains only the anchor's line.")
    for problem in unlisted(recipe, examples):
        raise DataError(str(problem))
    if recipe.task.labels is not None:
        # White space around an answer would make it a label of its own.
        examples = [replace(e, completion=e.completion.strip()) for e in examples]
    return examples


def unlisted(recipe: Recipe, examples: Iterable[Example]) -> Iterator[Problem]:
    """Yield a problem for each example whose answer is none of the labels that the recipe lists."""
    labels, anchor = recipe.task.labels, anchor_of(recipe)
    if labels is None:
        return
    for example in examples:
        answer = (anchor.detach(example) if anchor else example).answer
        if answer in labels:
            continue
        near = difflib.get_close_matches(answer, labels, n=1)
        what = f"write `{near[0]}`" if near else "correct the row"
        reason = f"the answer `{shown(answer)}` is not in `task.labels`; {what}, or list it"
        file, _, line = example.origin.rpartition(":")
        yield Problem(file, int(line), reason)


def _held_out(examples: list[Example], share: float, fold: int) -> set[str]:
    """Return the prompts to hold out of training, with all of their examples.

    The prompts of different folds are distinct, and 1 / share folds hold out all of them. The
    choice depends only on the text of the prompts. No seed therefore trains on examples that
    another seed used for selection.

    Raises:
        DataError: No training examples would remain.
    """
    prompts = sorted({example.prompt for example in examples}, key=stable_number)
    # Rounded, because 3 * 0.2 * 60 is a little more than 36.
    first, end = (math.ceil(round(k * share * len(prompts), 6)) for k in (fold, fold + 1))
    if end - first == len(prompts):
        raise DataError(
            f"task.dev_share = {share} of {len(prompts)} prompts leaves no training data; set a "
            "smaller share or add examples."
        )
    return set(prompts[first:end])


def load_general(recipe: Recipe) -> GeneralData | None:
    """Return the general data, which are read on demand, or None if the recipe has none."""
    if recipe.general is None:
        return None
    sources = tuple(_sized(spec, recipe) for spec in recipe.general.sources)
    return GeneralData("+".join(spec.path for spec in sources), sources)


def _sized(spec: DataSpec, recipe: Recipe) -> DataSpec:
    """Return a stream with the number of examples that the mixture needs.

    Tokens are not known yet, so bytes stand for them. The number has room for a general text with
    twice as many bytes per token as the task's, and for held-out examples.
    """
    if spec.take != "auto":
        return spec
    mixture = recipe.mixture
    least = max(
        _LEAST_OF_STREAM,
        2 * (mixture.general_examples or 0),
        recipe.general_choice.candidates if recipe.general_choice else 0,
        recipe.meta.examples if recipe.meta else 0,
    )
    size = 0.0
    if mixture.general_examples is None:
        size = sum(map(_bytes, load_task(recipe).train))
        if recipe.task.max_tokens is not None:
            size = min(size, _MOST_BYTES * recipe.task.max_tokens)
    count = _count(spec.model_dump_json(), least, 2 * mixture.leverage_ratio * size)
    return spec.model_copy(update={"take": count})


_LEAST_OF_STREAM = 1000
_MOST_BYTES = 8
"""Usual maximum of bytes per token."""


@lru_cache
def _count(stream: str, least: int, size: float) -> int:
    """Return how many examples of a stream have `size` bytes, and at least `least`."""
    count, found = 0, 0
    for item in scan_general(DataSpec.model_validate_json(stream)):
        count += 1
        if isinstance(item, Problem):  # Reading the examples reports it.
            break
        found += _bytes(item)
        if count >= least and found >= size:
            break
    return max(count, 1)


def _bytes(example: Example) -> int:
    texts = (*(message.content for message in example.history), example.prompt, example.completion)
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def named_data(recipe: Recipe) -> list[tuple[DataSpec, Split]]:
    """Return every data set of a recipe except the embedded data, with its split."""
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


def data_files(recipe: Recipe) -> list[Path]:
    """Return the files of all data sets of a recipe that are found on this machine."""
    found: list[Path] = []
    for spec, split in named_data(recipe):
        with suppress(DataError):
            found += files_of(spec, split) or []
    return found


def count_within_budget(lengths: NDArray[np.int64], max_tokens: int | None) -> int:
    """Return the number of examples, counted from the first, that fit in `max_tokens`.

    Raises:
        DataError: The first example does not fit.
    """
    if max_tokens is None or not len(lengths):
        return len(lengths)
    fitting = int(np.searchsorted(np.cumsum(lengths), max_tokens, side="right"))
    if fitting == 0:
        raise DataError(
            f"task.max_tokens = {max_tokens} is too low: the first example has {lengths[0]} tokens."
        )
    return fitting


REST = "rest"
"""Value of `task.unlabeled` for the training examples that are not drawn."""

# Separates the draw of a subset from the mixture's random streams.
_DRAW = (1000,)


def anchor_of(recipe: Recipe) -> Anchor | None:
    """Return the anchor of a recipe or of its embedded task, or None."""
    if recipe.anchor is not None:
        return Anchor.from_spec(recipe.anchor)
    if recipe.task.embedded:
        task = embedded_task(recipe.task.embedded)
        return Anchor(task.anchor_prompt, task.anchor_response)
    return None
