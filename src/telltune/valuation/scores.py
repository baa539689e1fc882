"""Scores of training examples, in one form for all scoring methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.valuation.memory import (
    LEVELS,
    TEMPLATES,
    memory_of,
    propose_templates,
    read_aliases,
)
from telltune.valuation.pvi import pvi_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.anchor import Anchor
    from telltune.data.examples import Example
    from telltune.models import LoadedModel
    from telltune.recipe import Recipe, SelectionSpec


@dataclass(frozen=True)
class Scores:
    """Scores of a data set.

    Attributes:
        easy: Easiness of each example, higher for easier ones, (examples,).
        columns: Values per example by name, (examples,) each.
        told: Summary values of the data set by name.
        seconds: Time by phase in seconds; cached results count with their original time.
        level: Memory level of each example, (examples,); None unless scored by memory.
    """

    easy: NDArray[np.float64]
    columns: dict[str, NDArray[Any]]
    told: dict[str, float]
    seconds: dict[str, float]
    level: NDArray[np.int64] | None = None

    @property
    def hardest_first(self) -> NDArray[np.int64]:
        """Indices of all examples by increasing easiness, (examples,); ties keep their order."""
        return np.argsort(self.easy, kind="stable")


def score(
    base: LoadedModel,
    examples: Sequence[Example],
    anchor: Anchor | None,
    recipe: Recipe,
    spec: SelectionSpec,
    *,
    progress: bool = False,
) -> Scores:
    """Score examples by the method in `selection`; memory scores do not use the anchor.

    The base model is without an adapter, and is unchanged on return.

    Raises:
        RecipeError: See `pvi_scores`.
        DataError: See `pvi_scores`; also if an alias table cannot be read or has another form.
    """
    if spec.by == "memory":
        return _by_memory(base, examples, recipe, spec, progress=progress)
    pvi = pvi_scores(base, examples, anchor, recipe, spec, progress=progress)
    return Scores(
        # Long answers have more bits; bits per token are comparable between answers.
        easy=pvi.bits_per_token,
        columns={
            "pvi": pvi.bits,
            "pvi_per_token": pvi.bits_per_token,
            "bits": pvi.with_input,
            "bits_without_input": pvi.without_input,
            "tokens": pvi.tokens,
            "fold": pvi.fold,
        },
        told={
            "information": pvi.information,
            "information_per_token": float(pvi.bits.sum() / pvi.tokens.sum()),
            "negative": int((pvi.bits < 0).sum()),
        },
        seconds={"training": pvi.training_seconds, "scoring": pvi.scoring_seconds},
    )


def _by_memory(
    base: LoadedModel,
    examples: Sequence[Example],
    recipe: Recipe,
    spec: SelectionSpec,
    *,
    progress: bool,
) -> Scores:
    templates = [*(spec.templates or TEMPLATES)]
    if spec.proposed_templates:
        templates += propose_templates(base, spec.proposed_templates, recipe.seed)
    memory = memory_of(
        base,
        examples,
        templates,
        samples=spec.samples,
        aliases=read_aliases(spec.aliases) if spec.aliases else None,
        seed=recipe.seed,
        progress=progress,
    )
    counts = np.bincount(memory.level, minlength=LEVELS + 1).tolist()
    return Scores(
        easy=memory.recall,
        columns={"recall": memory.recall, "level": memory.level},
        told={"recall": float(memory.recall.mean())}
        | {f"level_{level}": count for level, count in enumerate(counts)},
        seconds={"scoring": memory.seconds},
        level=memory.level,
    )
