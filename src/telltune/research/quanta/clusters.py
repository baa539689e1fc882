"""Quanta as clusters of gradients: tokens whose gradients point in similar directions.

Source: quanta discovery from gradients, Michaud et al. (arXiv 2303.13506, section 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from telltune.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def affinity(gradients: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the affinity 1 - angle / π of all pairs of gradients.

    Args:
        gradients: Nonzero gradients, (n, width).

    Returns:
        (n, n): 1 for the same direction, 0.5 for a right angle, 0 for opposite directions.
    """
    directions = gradients / np.linalg.norm(gradients, axis=1, keepdims=True)
    # Rounding may push a cosine outside [-1, 1], where the angle is undefined.
    cosines = np.clip((directions @ directions.T).astype(np.float64), -1, 1)
    angles: NDArray[np.float64] = np.arccos(cosines)
    return 1 - angles / np.pi


def cluster_gradients(
    gradients: NDArray[np.float32], clusters: int, seed: int = 0
) -> NDArray[np.int64]:
    """Cluster gradients spectrally by the angles between them.

    Args:
        gradients: Gradients to cluster, (n, width).
        clusters: Number of clusters.
        seed: Seed of the clustering's random initialization.

    Returns:
        The cluster of each gradient, (n,): 0 for the largest cluster, -1 for zero gradients, which
        have no direction.

    Raises:
        DataError: There are fewer nonzero gradients than clusters.
    """
    from sklearn.cluster import SpectralClustering

    pointing = gradients.any(axis=1)
    if pointing.sum() < clusters:
        raise DataError(
            f"{pointing.sum()} tokens are too few for {clusters} clusters; use fewer clusters or "
            "more held-out examples."
        )
    found = SpectralClustering(
        clusters, affinity="precomputed", n_init=30, random_state=seed
    ).fit_predict(affinity(gradients[pointing]))
    by_size = np.argsort(-np.bincount(found, minlength=clusters), kind="stable")
    labels = np.full(len(gradients), -1)
    labels[pointing] = np.argsort(by_size)[found]
    return labels
