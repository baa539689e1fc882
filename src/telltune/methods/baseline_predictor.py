"""What a baseline answers with: vectors of the prompts, and a linear score for each answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from telltune.classifiers.features import prompt_text
from telltune.errors import RecipeError
from telltune.methods.protocol import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.classifiers.features import Features
    from telltune.classifiers.heads import LinearScorer
    from telltune.data.examples import Example

__all__ = ["BaselinePredictor"]


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
        answers = self.scorer.best(self.vectorize([prompt_text(example) for example in examples]))
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
