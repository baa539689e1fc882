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

__all__ = ["assign_folds"]


def assign_folds(
    examples: Sequence[Example], folds: int, seed: int, labels: Sequence[str] = ()
) -> NDArray[np.int64]:
    """The fold of each example, (examples,); every label is spread evenly.

    Examples with the same prompt are in one fold: otherwise a model would have seen the question.

    Args:
        examples: To be scored.
        folds: How many.
        seed: Of the draw.
        labels: Of a closed set; none where completions are free text.

    Raises:
        DataError: There are fewer prompts than folds, or a label stands in one fold only, so that
            the model which scores it has never seen it.
    """
    prompts = list(dict.fromkeys(example.prompt for example in examples))
    if len(prompts) < folds:
        raise DataError(
            f"{len(prompts)} different prompts are too few for {folds} folds; give more examples, "
            "or fewer folds."
        )
    first = {example.prompt: example.completion for example in reversed(examples)}
    order = np.random.default_rng([seed, folds]).permutation(len(prompts)).tolist()
    if labels:
        order.sort(key=lambda i: first[prompts[i]])  # stable: drawn within a label
    fold_of = {prompts[i]: rank % folds for rank, i in enumerate(order)}
    found = np.array([fold_of[example.prompt] for example in examples], np.int64)
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
