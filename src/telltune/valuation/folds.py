"""Which examples are scored by a model that did not see them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example

__all__ = ["assign_folds", "draw_folds"]


def draw_folds(
    examples: Sequence[Example], folds: int, rng: np.random.Generator, *, by_label: bool
) -> NDArray[np.int64]:
    """Return the fold of each example, (examples,); those with the same prompt are in one fold.

    Args:
        examples: To be scored.
        folds: How many.
        rng: Draws the order in which prompts are dealt out to the folds.
        by_label: Whether completions are labels, each of which is spread evenly.
    """
    first = {example.prompt: example.completion for example in reversed(examples)}
    prompts = list(dict.fromkeys(example.prompt for example in examples))
    order = rng.permutation(len(prompts)).tolist()
    if by_label:
        order.sort(key=lambda i: first[prompts[i]])  # stable: drawn within a label
    fold_of = {prompts[i]: rank % folds for rank, i in enumerate(order)}
    return np.array([fold_of[example.prompt] for example in examples], np.int64)


def assign_folds(
    examples: Sequence[Example], folds: int, seed: int, labels: Sequence[str] = ()
) -> NDArray[np.int64]:
    """Return the fold of each example, (examples,), so that each label stands in several.

    Args:
        examples: To be scored.
        folds: How many.
        seed: Of the draw.
        labels: Of a closed set; none where completions are free text.

    Raises:
        DataError: There are fewer prompts than folds, or a label stands in one fold only, so that
            the model which scores it has never seen it.
    """
    prompts = len({example.prompt for example in examples})
    if prompts < folds:
        raise DataError(
            f"{prompts} different prompts are too few for {folds} folds; give more examples, "
            "or fewer folds."
        )
    rng = np.random.default_rng([seed, folds])
    found = draw_folds(examples, folds, rng, by_label=bool(labels))
    for label in labels:
        where = {int(f) for f, e in zip(found, examples, strict=True) if e.completion == label}
        if len(where) == 1:
            origin = next(e.origin for e in examples if e.completion == label)
            count = Counter(e.completion for e in examples)[label]
            raise DataError(
                f"label `{label}` ({count} example{'s' * (count > 1)}, the first {origin}) stands "
                "in one fold only, so what scores it has never seen it; add examples of it, or "
                "leave it out."
            )
    return found
