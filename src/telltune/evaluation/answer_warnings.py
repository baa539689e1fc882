"""Warnings about scores that may be misleading, one sentence each.

Some need the data only, and `plan` reports them before training. The others need the answers of a
predictor.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from telltune.data.encoding_cache import EncodingCache
from telltune.errors import TellError
from telltune.evaluation.structured import is_json
from telltune.evaluation.text import fold
from telltune.fitting.build_plan import answer_budget
from telltune.inference.labels import label_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from telltune.data.tokenizer import KnownTokenizer
    from telltune.evaluation.headline import TaskAnswers
    from telltune.fitting.predictor import Predictor
    from telltune.fitting.run_plan import RunPlan
    from telltune.recipe import Recipe

_NAMED = 3
_SHARE = 0.05
"""Share of answers above the budget that gives no warning; a few outliers are acceptable."""
_STEP = 8
"""Suggested answer budgets are multiples of this number of tokens."""


def warnings_before_training(
    recipe: Recipe,
    answers: TaskAnswers,
    run_plan: RunPlan,
    tokenizer: KnownTokenizer,
) -> tuple[str, ...]:
    """Return warnings about this run's scores that follow from the data alone."""
    product = run_plan.recipe.product_of_experts
    levers = run_plan.recipe.pseudo_label or product
    known = list(recipe.task.labels or ()) if levers else []
    found = data_warnings(answers, run_plan.counts.task_examples, known)
    if answers.test and recipe.evaluation.answers == "generate" and product is None:
        items = answers.test[: recipe.evaluation.max_items]
        try:
            lengths = EncodingCache(tokenizer, run_plan.anchor).encode(items).response_lengths
        except TellError as error:
            found.append(f"the test data cannot be encoded, so they will not be scored: {error}")
        else:
            found += _budget(lengths, answer_budget(run_plan.task.response_lengths, recipe))
    return tuple(found)


def data_warnings(answers: TaskAnswers, used: int, known: Sequence[str] = ()) -> list[str]:
    """Return warnings about labels and test data that make a score meaningless for any method.

    `known` are labels that the method knows without an example.
    """
    learned = answers.train[:used]
    found = [*_spelling(answers), *_unseen(answers, [*learned, *known]), *_same(learned)]
    if answers.problem:
        found.append(f"the test data cannot be read, so they will not be scored: {answers.problem}")
    return found


def scoring_warnings(
    predictor: Predictor,
    references: Sequence[str],
    lengths: NDArray[np.int64],
    predictions: Sequence[str],
    metrics: Sequence[str],
    answers: TaskAnswers | None,
) -> tuple[str, ...]:
    """Return warnings about everything that makes the scores of answers meaningless.

    Args:
        predictor: Predictor that gave the answers.
        references: Correct answers, (items,).
        lengths: Number of tokens of each reference with its end of turn, (items,).
        predictions: Answers of the predictor, (items,).
        metrics: Names of the metrics that score the answers.
        answers: Answers of the task's splits, or None if unknown.
    """
    found: list[str] = []
    if answers is not None:
        found += _spelling(answers)
        if used := predictor.cost.task_examples:
            found += _unseen(answers, predictor.labels or answers.train[:used])
    if not predictor.chooses:
        found += _budget(lengths, predictor.max_new_tokens)
        found += _cut(predictor.cut, len(predictions), predictor.max_new_tokens)
    labels = () if answers is None else answers.labels
    found += answer_warnings(predictor, predictions, references, labels)
    found += predictor.remarks()
    if "json_field_accuracy" in metrics:
        found += _not_json(references)
    return tuple(found)


def answer_warnings(
    predictor: Predictor,
    predictions: Sequence[str],
    references: Sequence[str],
    labels: Sequence[str],
) -> list[str]:
    """Return warnings about answers that are empty, all the same, or none of the labels."""
    found = list(_said(predictor, predictions, references))
    return found + list(_outside(predictor, predictions, labels)) if labels else found


def _budget(lengths: NDArray[np.int64], budget: int) -> Iterator[str]:
    """Yield a warning if many references exceed the answer budget."""
    over = int((lengths > budget).sum())
    if over > _SHARE * len(lengths):
        longest = int(lengths.max())
        enough = -(-longest // _STEP) * _STEP
        yield (
            f"{over} of {len(lengths)} references are longer than the answer limit ({budget} "
            f"tokens; the longest reference has {longest}), so no answer can match them; raise "
            f"the limit with `--set evaluation.max_new_tokens={enough}`."
        )


def _cut(cut: int, items: int, budget: int) -> Iterator[str]:
    if cut > _SHARE * items:
        yield (
            f"{cut} of {items} answers did not end within {budget} tokens and were cut there; if "
            "they should be longer, raise the limit with "
            f"`--set evaluation.max_new_tokens={2 * budget}`."
        )


def _said(
    predictor: Predictor, predictions: Sequence[str], references: Sequence[str]
) -> Iterator[str]:
    """Yield warnings if answers are empty or all the same."""
    items = len(predictions)
    help_ = (
        "it has not learned the task: train longer with `--set mixture.passes=...` or raise the "
        "learning rate with `--set training.learning_rate=...`."
        if predictor.cost.optimizer_steps
        else "the model does not follow the task's prompts."
    )
    empty = sum(
        not got.strip() and bool(gold.strip())
        for got, gold in zip(predictions, references, strict=True)
    )
    if empty:
        yield f"{empty} of {items} answers are empty; {help_}"
    wanted = len(set(map(fold, references)))
    if empty < items > 2 and wanted > 1 and len(set(map(fold, predictions))) == 1:
        yield (
            f"all {items} answers are {_quoted(predictions[0])}, but there are {wanted} different "
            f"references; {help_}"
        )


def _outside(
    predictor: Predictor, predictions: Sequence[str], labels: Sequence[str]
) -> Iterator[str]:
    known = {fold(label).casefold() for label in labels}
    strange = Counter(
        fold(got) for got in predictions if got.strip() and fold(got).casefold() not in known
    )
    if strange:
        help_ = (
            "; `--set evaluation.answers=likelihood` chooses one of the labels"
            if predictor.labels
            else ""
        )
        yield (
            f"{strange.total()} of {len(predictions)} answers are none of the {len(known)} labels, "
            f"most often {_listed(strange)}{help_}."
        )


def _not_json(references: Sequence[str]) -> Iterator[str]:
    strange = [text for text in references if not is_json(text)]
    if strange:
        yield (
            f"{len(strange)} of {len(references)} references are not a JSON object or array, e.g. "
            f"{_quoted(strange[0])}; json_field_accuracy compares them as text."
        )


def _unseen(answers: TaskAnswers, learned: Sequence[str]) -> Iterator[str]:
    """Yield warnings if dev or test items have labels that no training example has."""
    if not answers.labels:
        return
    shown = set(map(label_key, learned))
    for split, items in (("dev", answers.dev), ("test", [e.completion for e in answers.test])):
        unseen = Counter(label for label in items if label_key(label) not in shown)
        if unseen:
            yield (
                f"{unseen.total()} of {len(items)} {split} items have labels that no training "
                f"example has: {_listed(unseen)}; add examples of them to `task.train`, or "
                "let a classifier learn them from `task.labels`."
            )


def _same(learned: Sequence[str]) -> Iterator[str]:
    """Yield a warning if all training examples have the same answer."""
    if len(learned) > 1 and len(set(map(label_key, learned))) == 1:
        yield (
            f"all {len(learned)} training answers are {_quoted(learned[0])}, so they teach nothing "
            "about the prompts; add examples with other answers."
        )


def _spelling(answers: TaskAnswers) -> Iterator[str]:
    """Yield a warning if a label is written in several ways."""
    if not answers.labels:
        return
    written: dict[str, Counter[str]] = defaultdict(Counter)
    for text in answers.everywhere:
        written[label_key(text)][text] += 1
    several = [forms for forms in written.values() if len(forms) > 1]
    if several:
        named = "; ".join(_listed(forms, " and ") for forms in several[:_NAMED])
        more = "; ..." if len(several) > _NAMED else ""
        yield (
            f"{len(several)} of {len(written)} labels are written in more than one way: "
            f"{named}{more}; accuracy ignores only case and white space, so use one spelling of "
            "each label in train, dev and test."
        )


def _listed(counts: Counter[str], between: str = ", ") -> str:
    """Return the most frequent texts with their counts, and the number of further ones."""
    named = between.join(f"{_quoted(text)} ({n})" for text, n in counts.most_common(_NAMED))
    more = len(counts) - _NAMED
    return f"{named} and {more} more" if more > 0 else named


def _quoted(text: str) -> str:
    shown = text if len(text) <= 40 else f"{text[:39]}…"
    return f"`{shown}`".replace("\n", "\\n")
