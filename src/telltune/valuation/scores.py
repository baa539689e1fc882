"""What each example is worth, by whichever way: one form for choosing, ordering and looking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from telltune.valuation.fold_models import pvi_scores
from telltune.valuation.memory import (
    LEVELS,
    TEMPLATES,
    memory_of,
    propose_templates,
    read_aliases,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from telltune.data.anchor import Anchor
    from telltune.data.examples import Example
    from telltune.models import BaseModel
    from telltune.recipe import Recipe, SelectionSpec

__all__ = ["Scores", "score"]


@dataclass(frozen=True)
class Scores:
    """Of a data set.

    Attributes:
        easy: Higher for an easier example, (examples,).
        columns: What is known of each, by name, (examples,) each.
        told: What is known of all of them, by name.
        seconds: By phase; what was kept on disk counts as it did when it was found.
        level: Memory level, (examples,); None where they were not scored by memory.
    """

    easy: NDArray[np.float64]
    columns: dict[str, NDArray[Any]]
    told: dict[str, float]
    seconds: dict[str, float]
    level: NDArray[np.int64] | None = None

    @property
    def hardest_first(self) -> NDArray[np.int64]:
        """All examples by score, (examples,); of those alike the first first."""
        return np.argsort(self.easy, kind="stable")


def score(
    base: BaseModel,
    examples: Sequence[Example],
    anchor: Anchor | None,
    recipe: Recipe,
    spec: SelectionSpec,
    *,
    progress: bool = False,
) -> Scores:
    """Score examples as `selection` says.

    Args:
        base: Without an adapter; it is left as it was.
        examples: All to be scored.
        anchor: What goes with every one of them in training, or None. Memory is asked without.
        recipe: The run's.
        spec: By what, and how.
        progress: Show bars.

    Raises:
        RecipeError: As `pvi_scores`.
        DataError: Likewise, or an alias table that cannot be read.
    """
    if spec.by == "memory":
        return _by_memory(base, examples, recipe, spec, progress=progress)
    pvi = pvi_scores(base, examples, anchor, recipe, spec, progress=progress)
    return Scores(
        # A long answer has more bits to win; per token, answers of all lengths compare.
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
    base: BaseModel,
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
