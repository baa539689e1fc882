"""Metrics of structured answers: labels of a closed set, and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np

from telltune.errors import DataError
from telltune.evaluation.registry import Floats, Scored, mean_of, metric
from telltune.evaluation.text import fold, nfc

_ANSWER = "Answer: "

# The fields of a JSON object, each value in canonical form.
_Fields = dict[str, str]

# Function from counts of gold, predicted and right items, each of shape (..., L), to scores in
# 0..1.
_OfCounts = Callable[[Floats, Floats, Floats], Floats]


def _label(text: str) -> str:
    return fold(text).casefold()


@metric("accuracy", percent=True, binary=True)
def accuracy(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Share of predicted labels that are right, ignoring case and white space.

    A prediction that is not a known label ("Billing, I think") is wrong.
    """
    pairs = zip(predictions, references, strict=True)
    return mean_of([100.0 * (_label(got) == _label(gold)) for got, gold in pairs])


@metric("answer_letter", percent=True, binary=True)
def answer_letter(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Share of predictions with the reference's character after `Answer: `, whatever follows.

    It scores a choice that is followed by reasons. A prediction without `Answer: ` is wrong. A
    reference without it is compared as a whole.

    Source: TRACE (arXiv 2310.06762), ScienceQA.
    """

    def right(prediction: str, reference: str) -> bool:
        if _ANSWER not in reference:
            return fold(prediction) == fold(reference)
        got, gold = (nfc(text).partition(_ANSWER)[2][:1] for text in (prediction, reference))
        return got == gold and _ANSWER in prediction

    pairs = zip(predictions, references, strict=True)
    return mean_of([100.0 * right(got, gold) for got, gold in pairs])


@metric("macro_f1", percent=True)
def macro_f1(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """F1 of each label, averaged over the labels in the references.

    A prediction that is none of these labels is invalid: it lowers the recall of its gold label and
    the precision of no label. Per-item scores are 100 (right) or 0 (wrong). Statistics have shape
    (n, 3 L): one-hot gold, predicted and right, for L labels.

    Source: equals scikit-learn's f1_score(average="macro", labels=labels in references).
    """
    return _by_label(predictions, references, _f1_of)


@metric("balanced_accuracy", percent=True)
def balanced_accuracy(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Recall of each label, averaged over the labels in the references.

    Invalid predictions, per-item scores and statistics are as in `macro_f1`.

    Source: equals scikit-learn's balanced_accuracy_score.
    """
    return _by_label(predictions, references, _recall_of)


def _f1_of(gold: Floats, predicted: Floats, right: Floats) -> Floats:
    return 2 * right / np.maximum(gold + predicted, 1)


def _recall_of(gold: Floats, predicted: Floats, right: Floats) -> Floats:  # noqa: ARG001
    return right / np.maximum(gold, 1)


def _by_label(
    predictions: Sequence[str], references: Sequence[str], of_counts: _OfCounts
) -> Scored:
    gold = [_label(text) for text in references]
    got = [_label(text) for text in predictions]
    column = {label: index for index, label in enumerate(sorted(set(gold)))}
    one_hot = np.zeros((len(gold), 3, len(column)))
    for row, (expected, predicted) in enumerate(zip(gold, got, strict=True)):
        one_hot[row, 0, column[expected]] = 1
        if predicted in column:
            one_hot[row, 1, column[predicted]] = 1
    one_hot[:, 2] = one_hot[:, 0] * one_hot[:, 1]

    def reduce(sums: Floats) -> Floats:
        counts = sums.reshape(*sums.shape[:-1], 3, -1)
        expected = counts[..., 0, :]
        # A resample that lacks a label averages over the labels that it contains, as the metric
        # does on those items.
        held = expected > 0
        per_label = of_counts(expected, counts[..., 1, :], counts[..., 2, :])
        score: Floats = 100 * np.where(held, per_label, 0).sum(axis=-1) / held.sum(axis=-1)
        return score

    right = 100 * one_hot[:, 2].sum(axis=-1)
    return Scored(right, one_hot.reshape(len(gold), -1), reduce)


@metric("json_valid", percent=True, binary=True)
def json_valid(predictions: Sequence[str], references: Sequence[str]) -> Scored:  # noqa: ARG001
    """Share of predictions that parse as a JSON object or array, whatever the references are.

    Parsing follows RFC 8259 strictly: NaN, comments, code fences and surrounding text are invalid.
    """
    return mean_of([100.0 * is_json(text) for text in predictions])


@metric("json_field_accuracy", percent=True)
def json_field_accuracy(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Mean share of fields whose value is right, out of all fields of reference and prediction.

    An additional field costs as much as a missing one. Values are compared as a whole: lists as
    multisets at every depth, texts after `fold`, numbers by value (1 equals 1.0, but neither true
    nor "1"). A JSON array is right or wrong as a whole. Invalid JSON is not repaired and scores 0.
    A reference that is neither a JSON object nor an array is compared as text, after `fold`.

    Raises:
        DataError: No reference is a JSON object or array.
    """
    gold = [_parse(text) for text in references]
    if all(fields is None for fields in gold):
        raise DataError(
            f"metric 'json_field_accuracy': no reference is a JSON object or array, such as "
            f"{references[0][:60]!r}; choose another metric"
        )
    scores = []
    for got, text, fields in zip(predictions, references, gold, strict=True):
        as_text = float(fold(got) == fold(text))
        scores.append(100.0 * (as_text if fields is None else _share_equal(_parse(got), fields)))
    return mean_of(scores)


def is_json(text: str) -> bool:
    """Return whether a text is a JSON object or array by RFC 8259."""
    return _parse(text) is not None


def _share_equal(got: _Fields | str | None, gold: _Fields | str) -> float:
    if isinstance(got, dict) and isinstance(gold, dict):
        fields = got.keys() | gold.keys()
        equal = sum(got[name] == gold[name] for name in got.keys() & gold.keys())
        return equal / len(fields) if fields else 1.0
    return float(got == gold)


def _parse(text: str) -> _Fields | str | None:
    """Parse JSON: return the fields of an object or an array in canonical form, or None."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if isinstance(value, dict):
            return {nfc(name): _canonical(inner) for name, inner in value.items()}
        return _canonical(value) if isinstance(value, list) else None
    # A prediction such as "[[[[[[..." is nested too deeply to be parsed.
    except (ValueError, RecursionError):
        return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _canonical(value: object) -> str:
    """Return a text that is the same for two values exactly if they are equal."""
    if isinstance(value, dict):
        fields = (f"{json.dumps(nfc(name))}:{_canonical(value[name])}" for name in value)
        return "{" + ",".join(sorted(fields)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(sorted(map(_canonical, value))) + "]"
    if isinstance(value, str):
        return json.dumps(fold(value))
    if isinstance(value, float) and value.is_integer():
        return json.dumps(int(value))
    return json.dumps(value)
