"""Choice of the inputs to label: those that together cover the other inputs best."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.classifiers.features import prompt_text
from telltune.data.checks import question
from telltune.data.prompts import read_prompts
from telltune.errors import DataError, check_count
from telltune.valuation.embeddings import EMBEDDED, embed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.recipe import Columns

CANDIDATES = 2000
"""Maximum number of inputs to choose from. More are subsampled, to bound memory."""
COVERED = 20_000
"""Maximum number of inputs to encode and to cover. More are subsampled, to bound time."""


@dataclass(frozen=True)
class Picked:
    """Inputs to label.

    Attributes:
        rows: Rows of the file in order: each covers best what those before it leave.
        coverage: Mean cosine of an input to the closest row up to each, shape (rows,).
        inputs: Number of distinct inputs without a label.
        labeled: Number of labeled inputs.
    """

    rows: tuple[dict[str, Any], ...]
    coverage: tuple[float, ...]
    inputs: int
    labeled: int


def pick(
    inputs: str | Path,
    number: int,
    *,
    labeled: str | Path | None = None,
    columns: Columns | None = None,
    encoder: str = EMBEDDED,
    seed: int = 0,
) -> Picked:
    """Choose the inputs of a file that are most worth labeling, without looking at any label.

    Args:
        inputs: File of inputs, in any format of training data. Answers in it are ignored.
        number: Number of inputs to choose.
        labeled: File of examples that are labeled already. Inputs like them are chosen last, and
            those among them are left out.
        columns: Columns of both files.
        encoder: Sentence encoder; see `embed`.
        seed: Seed of the subsamples, if there are more than `CANDIDATES` inputs.

    Raises:
        DataError: A file cannot be read, or there are fewer inputs than `number`.
        RecipeError: `number` is no whole number from 1, or `seed` none from 0.
        ModelError: The encoder cannot be loaded.

    Examples:
        >>> picked = telltune.pick("inputs.csv", 8)
        >>> len(picked.rows)
        8
    """
    check_count("number", number)
    check_count("seed", seed, least=0)
    known = [] if labeled is None else read_prompts(Path(labeled), columns=columns)
    seen = {question(example) for _, example in known}
    rows: list[dict[str, Any]] = []
    texts: list[str] = []
    for values, example in read_prompts(Path(inputs), columns=columns):
        if question(example) not in seen:
            seen.add(question(example))
            rows.append(values)
            texts.append(prompt_text(example))
    if len(rows) < number:
        raise DataError(
            f"{inputs} has {len(rows)} distinct inputs without a label, but {number} are to be "
            "picked; lower the number."
        )
    kept = np.sort(np.random.default_rng(seed).permutation(len(rows))[: max(COVERED, number)])
    vectors = embed([texts[i] for i in kept], encoder)
    before = embed([prompt_text(example) for _, example in known], encoder) if known else None
    chosen, coverage = cover(vectors, number, labeled=before, seed=seed)
    picked = tuple(rows[kept[i]] for i in chosen)
    return Picked(picked, tuple(coverage.tolist()), len(rows), len(known))


def cover(
    vectors: NDArray[np.float32],
    number: int,
    *,
    labeled: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Choose vectors greedily so that each vector has a close one among the chosen.

    The objective is facility location: the sum over all vectors of the cosine to the closest chosen
    one, where a negative cosine counts as zero. The greedy choice reaches at least 1 - 1/e of the
    best sum, and a smaller choice is the start of a larger one.

    Args:
        vectors: Unit vectors to choose from, (inputs, width).
        number: Number of vectors to choose.
        labeled: Unit vectors that cover others already, (labeled, width).
        seed: Seed of the subsample of more than `CANDIDATES` vectors.

    Returns:
        Indices in the order of choice, and the mean cosine after each, both (number,).

    Source: Nemhauser, Wolsey and Fisher (1978); for the choice of training data, Wei, Iyer and
    Bilmes (2015), "Submodularity in data subset selection and active learning".
    """
    rng = np.random.default_rng(seed)
    candidates = np.sort(rng.permutation(len(vectors))[: max(CANDIDATES, number)])
    cosines = np.maximum(vectors @ vectors[candidates].T, 0)
    closest = np.zeros(len(vectors), dtype=np.float32)
    if labeled is not None:
        closest = np.maximum((vectors @ labeled.T).max(axis=1), 0)
    chosen, coverage = [], []
    free = np.ones(len(candidates), dtype=bool)
    for _ in range(number):
        gains = np.maximum(cosines - closest[:, None], 0).sum(axis=0)
        best = int(np.where(free, gains, -1.0).argmax())
        free[best] = False
        closest = np.maximum(closest, cosines[:, best])
        chosen.append(int(candidates[best]))
        coverage.append(float(closest.mean()))
    return np.array(chosen), np.array(coverage)
