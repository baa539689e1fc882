"""Quanta as clusters of gradients: tokens that move the same weights the same way.

Source: quanta discovery from gradients, Michaud et al. (arXiv 2303.13506, section 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["affinity", "cluster_gradients"]


def affinity(gradients: NDArray[np.float32]) -> NDArray[np.float64]:
    """How much two gradients point the same way: 1 - angle / π.

    Args:
        gradients: Of any length but 0, (n, width).

    Returns:
        (n, n): 1 for the same direction, 0.5 for a right angle, 0 for opposite directions.
    """
    directions = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    # Rounding may put a cosine beside its range, where no angle has it.
    cosines = np.clip((directions @ directions.T).astype(np.float64), -1, 1)
    angles: NDArray[np.float64] = np.arccos(cosines)
    return 1 - angles / np.pi


def cluster_gradients(
    gradients: NDArray[np.float32], clusters: int, seed: int = 0
) -> NDArray[np.int64]:
    """Spectral clustering of gradients by the angles between them.

    Args:
        gradients: (n, width).
        clusters: How many to find.
        seed: Of the clustering's own random start.

    Returns:
        (n,): the cluster of each, 0 for the largest; -1 where a gradient is zero and so points
        nowhere.

    Raises:
        DataError: There are fewer gradients than clusters.
    """
    from sklearn.cluster import SpectralClustering

    pointing = gradients.any(axis=1)
    if pointing.sum() < clusters:
        raise DataError(
            f"{pointing.sum()} tokens are too few for {clusters} clusters; ask for fewer, or take "
            "more held-out items."
        )
    found = SpectralClustering(
        clusters, affinity="precomputed", n_init=30, random_state=seed
    ).fit_predict(affinity(gradients[pointing]))
    by_size = np.argsort(-np.bincount(found, minlength=clusters), kind="stable")
    labels = np.full(len(gradients), -1)
    labels[pointing] = np.argsort(by_size)[found]
    return labels
