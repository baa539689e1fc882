"""Cross-validation folds, so that each example is scored by a model not trained on it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example


def draw_folds(
    examples: Sequence[Example], folds: int, rng: np.random.Generator, *, by_label: bool
) -> NDArray[np.int64]:
    """Return the fold of each example, (examples,); equal prompts are in the same fold.

    With `by_label`, completions are labels, which are then spread evenly over the folds.
    """
    first = {example.prompt: example.answer for example in reversed(examples)}
    prompts = list(dict.fromkeys(example.prompt for example in examples))
    order = rng.permutation(len(prompts)).tolist()
    if by_label:
        order.sort(key=lambda i: first[prompts[i]])  # stable: random order within a label
    fold_of = {prompts[i]: rank % folds for rank, i in enumerate(order)}
    return np.array([fold_of[example.prompt] for example in examples], np.int64)


def assign_folds(
    examples: Sequence[Example], folds: int, seed: int, labels: Sequence[str] = ()
) -> NDArray[np.int64]:
    """Return the fold of each example, (examples,), so that each label occurs in several folds.

    `labels` is empty if completions are free text.

    Raises:
        DataError: There are fewer distinct prompts than folds, or a label occurs in only one fold,
            so that the model that scores it was never trained on it.
    """
    prompts = len({example.prompt for example in examples})
    if prompts < folds:
        raise DataError(
            f"{prompts} different prompts are too few for {folds} folds; add examples or use "
            "fewer folds."
        )
    rng = np.random.default_rng([seed, folds])
    found = draw_folds(examples, folds, rng, by_label=bool(labels))
    for label in labels:
        where = {int(f) for f, e in zip(found, examples, strict=True) if e.answer == label}
        if len(where) == 1:
            origin = next(e.origin for e in examples if e.answer == label)
            count = Counter(e.answer for e in examples)[label]
            raise DataError(
                f"label `{label}` ({count} example{'s' * (count > 1)}, first at {origin}) occurs "
                "in only one fold, so the model that scores it never trains on it; add examples "
                "of it or remove it."
            )
    return found
