"""Pointwise V-information (PVI): information about an example's answer in its input.

PVI(x → y) = -log2 g∅(y) + log2 g_x(y), in bits over the tokens of y (Ethayarajh et al.,
arXiv 2110.08420, eq. 4). g_x is the model trained on pairs, and g∅ is the same model trained on
answers with an empty input. A low or negative PVI marks a hard or mislabeled example. Each example
is scored by models not trained on it. Exemplars in the prompt are a cheaper alternative to training
g_x and g∅.
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
    """PVI scores of all examples.

    Attributes:
        with_input: -log2 g_x(y), in bits, (examples,).
        without_input: -log2 g∅(y), in bits, (examples,).
        tokens: Number of tokens of each answer, end of turn included, (examples,).
        fold: Fold in which each example was held out, (examples,).
        training_seconds: Training time of all fold models in seconds.
        scoring_seconds: Scoring time of all held-out examples in seconds.
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
        """Return the scores for summed negative log-likelihoods in nats, (examples,) each."""
        bits = (with_input / math.log(2), without_input / math.log(2))
        return cls(*bits, tokens, fold, training_seconds, scoring_seconds)

    @property
    def bits(self) -> NDArray[np.float64]:
        """PVI of each example in bits, (examples,)."""
        return self.without_input - self.with_input

    @property
    def bits_per_token(self) -> NDArray[np.float64]:
        """PVI of each example in bits per answer token, (examples,)."""
        return self.bits / self.tokens

    @property
    def information(self) -> float:
        """V-information of the data set: the mean PVI in bits per example."""
        return float(self.bits.mean())


def without_input(examples: Sequence[Example]) -> list[Example]:
    """Return the examples with empty prompts and histories, as g∅ requires."""
    return [replace(example, prompt="", history=()) for example in examples]


def in_context(
    examples: Sequence[Example], fold: NDArray[np.int64], shots: int, seed: int
) -> list[Example]:
    """Prepend exemplars from other folds to each example, the same ones within a fold.

    Args:
        examples: Examples with or without input.
        fold: Fold of each example, (examples,).
        shots: Maximum number of exemplars.
        seed: Seed for drawing the exemplars.
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
