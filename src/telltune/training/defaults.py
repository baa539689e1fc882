"""Values of training settings that a recipe sets to `auto`, from the data and the model.

See docs/guides/defaults.md for the measurements behind the rules.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from telltune.models import ModelShape
    from telltune.recipe import Recipe

_MOST_PASSES, _LEAST_PASSES = 16, 3
_LARGEST_BATCH, _SMALLEST_BATCH = 16, 4
_HIGHEST_RATE = 2e-3


def resolve(recipe: Recipe, examples: int, model: ModelShape) -> Recipe:
    """Replace each `auto` of a recipe by a number.

    Args:
        recipe: Recipe of the run.
        examples: Number of distinct task examples that the run trains on.
        model: Sizes of the base model.

    Returns:
        The new recipe, or the same recipe if nothing in it is `auto`.
    """
    for key, value in auto_settings(recipe, examples, model).items():
        part, _, name = key.partition(".")
        changed = getattr(recipe, part).model_copy(update={name: value})
        recipe = recipe.model_copy(update={part: changed})
    return recipe


def auto_settings(recipe: Recipe, examples: int, model: ModelShape) -> dict[str, int | float]:
    """Return the value of each recipe key that is `auto`, such as `mixture.passes`."""
    found = {
        "mixture.passes": (recipe.mixture.passes, _passes(examples)),
        "training.batch_size": (recipe.training.batch_size, _batch_size(examples)),
        "training.learning_rate": (
            recipe.training.learning_rate,
            _learning_rate(model.hidden, full_parameters=recipe.training.full_parameters),
        ),
    }
    return {key: value for key, (given, value) in found.items() if given == "auto"}


def _passes(examples: int) -> int:
    """Return the number of passes, about 72 / sqrt(examples), within bounds."""
    return min(_MOST_PASSES, max(_LEAST_PASSES, round(72 / math.sqrt(max(examples, 1)))))


def _batch_size(examples: int) -> int:
    """Return the power of two nearest to the square root of the number of examples."""
    nearest = 2 ** round(math.log2(max(examples, 1)) / 2)
    return int(min(_LARGEST_BATCH, max(_SMALLEST_BATCH, nearest)))


def _learning_rate(hidden: int, *, full_parameters: bool) -> float:
    """Return the learning rate of Thinking Machines' Tinker documentation for LoRA on Llama models.

    It is 5e-5 * 10 * (2000 / hidden size)^0.781, rounded to two digits. The factor of 10 is for
    LoRA only. The bound is the highest rate that was tested (benchmarks/dev_grid.jsonl).
    """
    rate = 5e-5 * (2000 / hidden) ** 0.781 * (1 if full_parameters else 10)
    return float(f"{min(rate, _HIGHEST_RATE):.1e}")
