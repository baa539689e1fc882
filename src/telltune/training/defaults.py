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
"""Highest learning rate that was tested (benchmarks/dev_grid.jsonl)."""


def resolve(
    recipe: Recipe, examples: int, model: ModelShape
) -> tuple[Recipe, dict[str, int | float]]:
    """Replace each `auto` of a recipe by a number.

    - `mixture.passes`: about 72 / sqrt(examples), within bounds.
    - `training.batch_size`: the power of two nearest to sqrt(examples), within bounds.
    - `training.learning_rate`: that of Thinking Machines' Tinker documentation for LoRA on Llama
      models, 5e-5 * 10 * (2000 / hidden size)^0.781, rounded to two digits. The factor of 10 is for
      LoRA only, and not for starts that change the base, which score lower with it.

    Args:
        recipe: Recipe of the run.
        examples: Number of distinct task examples that the run trains on.
        model: Sizes of the base model.

    Returns:
        The new recipe, or the same recipe if nothing in it is `auto`; and the numbers by key.
    """
    examples = max(examples, 1)
    rate = 5e-5 * (2000 / model.hidden) ** 0.781
    if not (recipe.training.full_parameters or recipe.lora.changes_base):
        rate *= 10
    numbers: dict[str, int | float] = {
        "mixture.passes": min(_MOST_PASSES, max(_LEAST_PASSES, round(72 / math.sqrt(examples)))),
        "training.batch_size": min(
            _LARGEST_BATCH, max(_SMALLEST_BATCH, 2 ** round(math.log2(examples) / 2))
        ),
        "training.learning_rate": float(f"{min(rate, _HIGHEST_RATE):.1e}"),
    }
    chosen = {}
    for key, value in numbers.items():
        part, _, name = key.partition(".")
        if getattr(getattr(recipe, part), name) == "auto":
            chosen[key] = value
            recipe = recipe.changed(**{part: {name: value}})
    return recipe, chosen
