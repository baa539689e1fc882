"""What a baseline answers with: vectors of the prompts, and a linear score for each answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.errors import RecipeError
from telltune.methods.protocol import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.methods.features import Features

__all__ = ["BaselinePredictor", "LinearScorer", "text_of"]


@dataclass
class LinearScorer:
    """Scores of answers: `vectors @ weights.T + bias`. Their softmax says how likely each is.

    Attributes:
        weights: Shape (answers, width).
        bias: Shape (answers,).
        answers: The answers, which may repeat where each example has its own.
    """

    weights: NDArray[Any]
    bias: NDArray[Any]
    answers: tuple[str, ...]

    def __post_init__(self) -> None:
        # As they are when they are loaded: the layout decides in which order sums are rounded.
        self.weights = np.ascontiguousarray(self.weights)

    def scores(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Return the score of each answer for each vector, (texts, answers)."""
        found: NDArray[Any] = vectors @ self.weights.T + self.bias
        return found

    def best(self, vectors: NDArray[Any]) -> list[str]:
        """Return the answer of the highest score for each vector, (texts, width)."""
        return [self.answers[i] for i in self.scores(vectors).argmax(axis=1)]


@dataclass
class BaselinePredictor(Predictor):
    """Answers with one of the training data's answers.

    Attributes:
        vectorize: Turns texts into vectors, (texts, width).
        scorer: Chooses the answer of a vector.
    """

    vectorize: Features = field(kw_only=True)
    scorer: LinearScorer = field(kw_only=True)

    def predict(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> list[str]:
        """Answer each example's prompt; its completion is not looked at."""
        if not examples:
            return []
        answers = self.scorer.best(self.vectorize([text_of(example) for example in examples]))
        if on_done is not None:
            on_done(len(examples))
        return answers

    def nll(self, examples: Sequence[Example]) -> Any:  # noqa: ARG002 - the predictor's protocol
        """Raise an error, because no language model gives likelihoods.

        Raises:
            RecipeError: Always.
        """
        raise RecipeError(
            "a baseline without a language model has no perplexity; name other metrics under "
            "evaluation.metrics, or leave the baseline out."
        )


def text_of(example: Example) -> str:
    """Return the prompt and the turns before it, without the system turn."""
    turns = [turn.content for turn in example.history if turn.role != "system"]
    return "\n".join([*turns, example.prompt])
