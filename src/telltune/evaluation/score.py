"""Score a predictor on held-out items, with confidence intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.clock import clock
from telltune.data.encoding import Encoder
from telltune.data.formats import DELIMITED
from telltune.data.writing import write_rows
from telltune.errors import DataError
from telltune.evaluation.answer_warnings import scoring_warnings
from telltune.evaluation.headline import TaskAnswers, choose_metrics
from telltune.evaluation.intervals import Interval, bootstrap_interval
from telltune.evaluation.metrics import Scored, get_metric
from telltune.evaluation.registry import PERPLEXITY as PERPLEXITY
from telltune.result_table import InNotebooks, ResultTable, between

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase

    from telltune.data.examples import Example
    from telltune.fitting.predictor import Predictor


@dataclass(frozen=True)
class Evaluation(InNotebooks):
    """Scores of a predictor.

    Attributes:
        scores: Score with interval by metric, the headline first.
        per_item: Score of each item by metric.
        predictions: Answers of the predictor.
        items: Number of scored items.
        seconds: Answering time in seconds.
        warnings: Reasons why the scores may be misleading; one sentence each.
        confidence: Confidence level of the intervals.
    """

    scores: dict[str, Interval]
    per_item: dict[str, list[float]]
    predictions: list[str]
    items: int
    seconds: float
    warnings: tuple[str, ...] = ()
    confidence: float = 0.95

    def tables(self) -> list[ResultTable]:
        """Return the scores as one table."""
        heads = ("metric", "score", f"{self.confidence:.0%} interval")
        rows = [(name, f"{i.score:.1f}", between(i.low, i.high)) for name, i in self.scores.items()]
        return [ResultTable(f"{self.items} items", heads, rows, self.warnings)]

    @property
    def headline(self) -> tuple[str, Interval]:
        """First metric and its score."""
        return next(iter(self.scores.items()))

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON, without the predictions."""
        return {
            "items": self.items,
            "seconds": round(self.seconds, 3),
            "scores": {name: asdict(interval) for name, interval in self.scores.items()},
            "warnings": list(self.warnings),
        }


def check_metrics(names: Sequence[str]) -> None:
    """Check that all metrics exist.

    Raises:
        RecipeError: A metric is unknown.
    """
    for name in names:
        if name != PERPLEXITY:
            get_metric(name)


def perplexity(per_item: npt.ArrayLike, tokens: npt.ArrayLike) -> Scored:
    """Return the perplexity of all items, which weights each by its tokens, for resampling.

    Args:
        per_item: Shape (n,). Perplexity of each item.
        tokens: Shape (n,). Number of reference tokens of each item.
    """
    items, counts = np.asarray(per_item, np.float64), np.asarray(tokens, np.float64)
    return Scored(
        items,
        np.column_stack([np.log(items) * counts, counts]),
        lambda sums: np.exp(sums[..., 0] / sums[..., 1]),
        percent=False,
        lowest=1.0,
    )


@dataclass(frozen=True)
class Answers:
    """Answers of a predictor to held-out items; they can be scored without the model.

    Attributes:
        metrics: Names of the metrics, the headline first.
        references: Correct answers, without the anchor's response side, (items,).
        predictions: Answers, (items,); "" each if no metric needs them.
        nll: Negative log-likelihood in nats and token count of each reference, (2, items); None
            unless perplexity is a metric.
        seconds: Answering time in seconds.
        warnings: Reasons why the scores may be misleading; one sentence each.
    """

    metrics: tuple[str, ...]
    prompts: list[str]
    references: list[str]
    predictions: list[str]
    nll: npt.NDArray[np.float64] | None
    seconds: float
    warnings: tuple[str, ...] = ()

    def score(self, confidence: float = 0.95, seed: int = 0) -> Evaluation:
        """Return the scores with intervals."""
        scores: dict[str, Interval] = {}
        per_item: dict[str, list[float]] = {}
        for name in self.metrics:
            if name == PERPLEXITY:
                assert self.nll is not None  # `answer_items` sets it for this metric.
                nll, tokens = self.nll
                scored = perplexity(np.exp(nll / tokens), tokens)
            else:
                scored = get_metric(name)(self.predictions, self.references, self.prompts)
            scores[name] = bootstrap_interval(scored, confidence, seed=seed)
            per_item[name] = scored.per_item.tolist()
        return Evaluation(
            scores,
            per_item,
            self.predictions,
            len(self.prompts),
            self.seconds,
            self.warnings,
            confidence,
        )


def answer_items(
    predictor: Predictor,
    test: Sequence[Example],
    metrics: Sequence[str] = (),
    *,
    answers: TaskAnswers | None = None,
    on_done: Callable[[int], None] | None = None,
) -> Answers:
    """Answer every item.

    Args:
        predictor: Predictor of any method.
        test: Held-out items. Thinking and the anchor's response side are stripped from references,
            as from answers.
        metrics: Names of the metrics, the headline first; those of `answers` if not given.
        answers: Result of `task_answers`, which chooses the metrics and lets warnings name labels
            that training did not have. Without it, the metrics are chosen from the items alone.
        on_done: Callback that receives the number of items answered since its last call.

    Raises:
        RecipeError: A metric is unknown.
        DataError: There are no items.
    """
    if not test:
        raise DataError("there are no test items to score; check `task.test`.")
    prompts = [e.prompt for e in test]
    references = [predictor.answer(e.completion) for e in test]
    metrics = tuple(metrics) or (answers.metrics if answers else choose_metrics(references))
    check_metrics(metrics)
    began = clock()
    wants_answers = any(name != PERPLEXITY for name in metrics)
    predictions = predictor.predict(test, on_done=on_done) if wants_answers else [""] * len(test)
    seconds = clock() - began
    nll = None
    if PERPLEXITY in metrics:
        nll = np.stack([part.double().numpy() for part in predictor.nll(test)])
    warnings: tuple[str, ...] = ()
    if wants_answers:
        lengths = predictor.answer_lengths(test)
        warnings = scoring_warnings(predictor, references, lengths, predictions, metrics, answers)
    return Answers(metrics, prompts, references, predictions, nll, seconds, warnings)


def answer_score(
    headline: str, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> Callable[[Sequence[str]], float] | None:
    """Return a function that scores answers to examples by the headline metric.

    The function takes the answers to the first of the examples, in order.

    Returns:
        The function, or None if there are no examples or the headline is perplexity.
    """
    if not examples or headline == PERPLEXITY:
        return None
    metric, encoder = get_metric(headline), Encoder(tokenizer)
    references = [encoder.answer(example.completion) for example in examples]
    prompts = [example.prompt for example in examples]

    def score(answers: Sequence[str]) -> float:
        count = len(answers)
        return metric(answers, references[:count], prompts[:count]).score

    return score


def evaluate_predictor(
    predictor: Predictor,
    test: Sequence[Example],
    metrics: Sequence[str] = (),
    *,
    confidence: float = 0.95,
    seed: int = 0,
    answers: TaskAnswers | None = None,
    on_done: Callable[[int], None] | None = None,
) -> Evaluation:
    """Answer every item and score the answers; see `answer_items` and `Answers.score`."""
    found = answer_items(predictor, test, metrics, answers=answers, on_done=on_done)
    return found.score(confidence, seed)


def write_predictions(path: Path, test: Sequence[Example], evaluation: Evaluation) -> None:
    """Write one row per item: its origin, prompt, reference, answer and scores; see `write_rows`.

    In formats without objects, each score has a column of its own.
    """
    flat = path.suffix.lower() in DELIMITED
    rows: list[dict[str, object]] = []
    for i, (example, answer) in enumerate(zip(test, evaluation.predictions, strict=True)):
        scores = {name: values[i] for name, values in evaluation.per_item.items()}
        row: dict[str, object] = {
            "origin": example.origin,
            "prompt": example.prompt,
            "reference": example.completion,
            "prediction": answer,
        }
        rows.append(row | scores if flat else row | {"scores": scores})
    write_rows(path, rows)
