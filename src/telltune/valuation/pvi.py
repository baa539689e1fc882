"""Pointwise V-information: how much of its answer a model reads from an example's input.

PVI(x → y) = -log2 g∅(y) + log2 g_x(y), in bits over the tokens of y (Ethayarajh et al.,
arXiv 2110.08420, eq. 4): g_x is the model trained on pairs, g∅ the same trained on answers behind
an empty input. Low or negative: hard, or wrongly labelled. Every example is scored by models that
did not train on it. In place of training, exemplars in the prompt make a cheaper g_x and g∅.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from telltune.data.examples import as_turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example, Message

__all__ = ["Pvi", "in_context", "without_input"]


@dataclass(frozen=True)
class Pvi:
    """The score of every example.

    Attributes:
        with_input: -log2 g_x(y), in bits, (examples,).
        without_input: -log2 g∅(y), in bits, (examples,).
        tokens: Of each answer, the end of the turn included, (examples,).
        fold: In which it was held out, (examples,).
        training_seconds: Of all folds' models.
        scoring_seconds: Of their passes over what they did not see.
    """

    with_input: NDArray[np.float64]
    without_input: NDArray[np.float64]
    tokens: NDArray[np.int64]
    fold: NDArray[np.int64]
    training_seconds: float = 0.0
    scoring_seconds: float = 0.0

    @classmethod
    def of_nats(
        cls,
        with_input: NDArray[np.float64],
        without_input: NDArray[np.float64],
        tokens: NDArray[np.int64],
        fold: NDArray[np.int64],
        training_seconds: float = 0.0,
        scoring_seconds: float = 0.0,
    ) -> Pvi:
        """From summed negative log-likelihoods."""
        bits = (with_input / math.log(2), without_input / math.log(2))
        return cls(*bits, tokens, fold, training_seconds, scoring_seconds)

    @property
    def bits(self) -> NDArray[np.float64]:
        """PVI of each example, (examples,)."""
        return self.without_input - self.with_input

    @property
    def bits_per_token(self) -> NDArray[np.float64]:
        """The same over the answer's tokens, (examples,)."""
        return self.bits / self.tokens

    @property
    def information(self) -> float:
        """The data set's V-information, in bits an example: the mean of PVI."""
        return float(self.bits.mean())

    @property
    def suspects(self) -> NDArray[np.int64]:
        """All examples, those first whose label is most likely wrong: the lowest PVI a token."""
        return np.argsort(self.bits_per_token, kind="stable")


def without_input(examples: Sequence[Example]) -> list[Example]:
    """The same answers to nothing at all, as g∅ sees them."""
    return [replace(example, prompt="", history=()) for example in examples]


def in_context(
    examples: Sequence[Example], fold: NDArray[np.int64], shots: int, seed: int
) -> list[Example]:
    """Each example behind exemplars from other folds, the same for all of a fold.

    Args:
        examples: With input or without.
        fold: Of each.
        shots: Exemplars, at most.
        seed: Of their draw.
    """
    generator = np.random.default_rng([seed, shots])
    history: dict[int, tuple[Message, ...]] = {}
    for number in np.unique(fold).tolist():
        others = np.flatnonzero(fold != number)
        chosen = generator.permutation(others)[:shots].tolist()
        history[number] = as_turns(examples[i] for i in chosen)
    return [
        replace(example, history=history[int(number)] + example.history)
        for example, number in zip(examples, fold, strict=True)
    ]
