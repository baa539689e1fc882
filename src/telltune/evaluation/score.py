"""From a predictor and held-out items to scores with intervals."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.errors import DataError
from telltune.evaluation.intervals import Interval, bootstrap_interval
from telltune.evaluation.metrics import get_metric
from telltune.storage import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from telltune.data.examples import Example
    from telltune.methods.protocol import Predictor

__all__ = [
    "PERPLEXITY",
    "Evaluation",
    "check_metrics",
    "choose_metrics",
    "evaluate_predictor",
    "write_predictions",
]

PERPLEXITY = "perplexity"
"""Of the references, given the prompts: exp of the mean nll a token. It looks at no answer."""


@dataclass(frozen=True)
class Evaluation:
    """How a predictor did.

    Attributes:
        scores: By metric, the headline first.
        per_item: By metric, one score an item.
        predictions: The answers.
        items: How many were scored.
        seconds: That answering took.
    """

    scores: dict[str, Interval]
    per_item: dict[str, list[float]]
    predictions: list[str]
    items: int
    seconds: float

    @property
    def headline(self) -> tuple[str, Interval]:
        """The first metric and its score."""
        return next(iter(self.scores.items()))

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the predictions."""
        return {
            "items": self.items,
            "seconds": round(self.seconds, 3),
            "scores": {
                name: {"score": i.score, "low": i.low, "high": i.high}
                for name, i in self.scores.items()
            },
        }


def choose_metrics(test: Sequence[Example]) -> tuple[str, ...]:
    """Metrics that fit the answers: labels, or free text.

    A task whose answers come from a small closed set (at most a quarter as many as items, 20 at
    the most) is scored as classification.
    """
    labels = {example.completion for example in test}
    if len(labels) <= min(20, max(2, len(test) // 4)):
        return ("accuracy", "macro_f1", "balanced_accuracy")
    return ("exact_match", "token_f1", "rouge_l")


def check_metrics(names: Sequence[str]) -> None:
    """Refuse an unknown metric before anything long begins.

    Raises:
        RecipeError: There is none of that name.
    """
    for name in names:
        if name != PERPLEXITY:
            get_metric(name)


def evaluate_predictor(
    predictor: Predictor,
    test: Sequence[Example],
    metrics: Sequence[str] = (),
    *,
    confidence: float = 0.95,
    seed: int = 0,
    on_done: Callable[[int], None] | None = None,
) -> Evaluation:
    """Answer every item and score the answers.

    Args:
        predictor: Any method's.
        test: Held-out items; the anchor's response side is stripped from references too.
        metrics: Names, the headline first; none lets the answers decide.
        confidence: Of the intervals.
        seed: Of the bootstrap.
        on_done: Told how many items have been answered since the last call.

    Raises:
        RecipeError: An unknown metric.
        DataError: No items.
    """
    if not test:
        raise DataError("there are no test items to score; check `task.test`.")
    metrics = metrics or choose_metrics(test)
    check_metrics(metrics)
    began = time.perf_counter()
    wants_answers = any(name != PERPLEXITY for name in metrics)
    predictions = predictor.predict(test, on_done=on_done) if wants_answers else [""] * len(test)
    seconds = time.perf_counter() - began
    strip = predictor.anchor.strip if predictor.anchor else str
    references = [strip(example.completion) for example in test]
    scores: dict[str, Interval] = {}
    per_item: dict[str, list[float]] = {}
    for name in metrics:
        if name == PERPLEXITY:
            scores[name], per_item[name] = _perplexity(predictor, test, confidence, seed)
            continue
        scored = get_metric(name)(predictions, references, [e.prompt for e in test])
        scores[name] = bootstrap_interval(scored, confidence, seed=seed)
        per_item[name] = scored.per_item.tolist()
    return Evaluation(scores, per_item, predictions, len(test), seconds)


def write_predictions(path: Path, test: Sequence[Example], evaluation: Evaluation) -> None:
    """One JSON line an item: where it stands, its prompt, reference, answer and scores."""
    lines = [
        json.dumps(
            {
                "origin": example.origin,
                "prompt": example.prompt,
                "reference": example.completion,
                "prediction": answer,
                "scores": {name: values[i] for name, values in evaluation.per_item.items()},
            },
            ensure_ascii=False,
        )
        for i, (example, answer) in enumerate(zip(test, evaluation.predictions, strict=True))
    ]
    write_text(path, "\n".join(lines) + "\n")


def _perplexity(
    predictor: Predictor, test: Sequence[Example], confidence: float, seed: int
) -> tuple[Interval, list[float]]:
    """Token-weighted perplexity, with a bootstrap over items of the ratio of sums."""
    sums, tokens = (t.double().numpy() for t in predictor.nll(test))
    draws = np.random.default_rng(seed).integers(0, len(test), (2000, len(test)))
    resampled = np.exp(sums[draws].sum(1) / tokens[draws].sum(1))
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    score = math.exp(sums.sum() / tokens.sum())
    return Interval(score, float(low), float(high)), np.exp(sums / tokens).tolist()
