"""Choose a task's metrics from its answers.

docs/reference/metrics.md states the rule for users.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import regex

from telltune.data.report import ReadReport
from telltune.data.task import Splits, TaskData
from telltune.errors import TellError
from telltune.evaluation.structured import is_json
from telltune.inference.labels import UNSPACED, closed_set

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.recipe import Recipe

MOST_LABELS = 250
_FOR_LABELS = ("accuracy", "macro_f1", "balanced_accuracy")
SHORT_WORDS, SHORT_CHARACTERS = 3, 40

# Two characters of these scripts count as one word, also in Katakana.
_UNSPACED = regex.compile(rf"[{UNSPACED}\p{{Katakana}}ー]", regex.V1)


def choose_metrics(answers: Sequence[str]) -> tuple[str, ...]:
    """Choose the metrics that fit the answers of all splits; the first is the headline.

    1. JSON: more than half of the answers are a JSON object or array.
    2. Labels: the answers are a closed set (see `closed_set`) of at most 250 labels.
    3. Short answers (names, numbers, facts): nine in ten have at most three words and 40
       characters. A nearly right answer is wrong here, so exact match is the headline.
    4. Free text: all other answers. chrF is the headline because it gives partial credit in every
       script, whereas exact match is 0 for any other wording.

    Word metrics are omitted if most answers are in a script without spaces.
    """
    if _mostly_json(answers):
        return ("json_field_accuracy", "json_valid", "exact_match")
    if label_set(answers):
        return _FOR_LABELS
    spaced = 2 * sum(bool(_UNSPACED.search(text)) for text in answers) <= len(answers)
    if 10 * sum(map(_is_short, answers)) >= 9 * len(answers):
        return ("exact_match", "token_f1", "chrf") if spaced else ("exact_match", "chrf")
    return ("chrf", "token_f1", "rouge_l", "exact_match") if spaced else ("chrf", "exact_match")


def label_set(answers: Sequence[str]) -> tuple[str, ...]:
    """Return the labels of a classification task as written; () for other tasks."""
    return () if _mostly_json(answers) else closed_set(answers, MOST_LABELS)


def _mostly_json(answers: Sequence[str]) -> bool:
    return 2 * sum(map(is_json, answers)) > len(answers)


def _is_short(text: str) -> bool:
    """Return whether a text has at most three words and 40 characters.

    Two characters of a script without spaces are one word.
    """
    words = len(_UNSPACED.sub(" ", text).split()) + len(_UNSPACED.findall(text)) / 2
    return words <= SHORT_WORDS and len(text.strip()) <= SHORT_CHARACTERS


@dataclass(frozen=True)
class TaskAnswers:
    """Metrics and labels derived from the answers of all splits of a task.

    Attributes:
        metrics: Names of the metrics, the headline first. They come from the recipe or the embedded
            task, or else from `choose_metrics`.
        labels: Labels of a classification task as written; () for other tasks.
        train: Answers of the training examples in the order of the draw, without thinking.
        everywhere: Answers of train, dev and test.
        test: Test examples; () if the recipe names none or they cannot be read.
        notes: Sentences about ignored or skipped test data; () if the test examples were passed in.
        problem: Reason why the test examples cannot be read; "" if they can.
        dev: Answers of the dev examples, without thinking.
    """

    metrics: tuple[str, ...]
    labels: tuple[str, ...]
    train: tuple[str, ...]
    everywhere: tuple[str, ...]
    test: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str = ""
    dev: tuple[str, ...] = ()


def task_answers(
    recipe: Recipe,
    task: TaskData,
    test: Sequence[Example] | None = None,
    splits: Splits | None = None,
) -> TaskAnswers:
    """Derive metrics and labels from the answers of train, dev and test together.

    All training examples count, regardless of `task.max_examples`, so that every size and seed of a
    task is scored by the same metrics. Methods do not see these data. `splits` are those that are
    already read.

    Raises:
        DataError: The training data cannot be read. Unreadable test data are skipped, and `problem`
            contains the reason.
    """
    cut = recipe.task.max_examples is not None
    splits = splits or Splits()
    train = splits.load(recipe, "train")[0] if cut else task.train
    report, problem = ReadReport(), ""
    if test is None and (recipe.task.embedded or recipe.task.test):
        try:
            test, report = splits.load(recipe, "test")
        except TellError as error:
            problem = str(error)
    everywhere = _answers((*train, *task.dev, *(test or ())))
    labels = tuple(task.labels) or label_set(everywhere)
    return TaskAnswers(
        metrics=task.metrics or (_FOR_LABELS if labels else choose_metrics(everywhere)),
        labels=labels,
        train=_answers(task.train),
        everywhere=everywhere,
        test=tuple(test or ()),
        notes=report.warnings("task.test"),
        problem=problem,
        dev=_answers(task.dev),
    )


def _answers(examples: Sequence[Example]) -> tuple[str, ...]:
    return tuple(example.answer for example in examples)
