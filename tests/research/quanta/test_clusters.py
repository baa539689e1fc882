"""Gradients are clustered by angle, with the largest cluster first."""

from __future__ import annotations

import numpy as np
import pytest

from telltune.errors import DataError
from telltune.research.quanta.clusters import affinity, cluster_gradients


def test_affinity_is_the_angle() -> None:
    gradients = np.array([[1, 0], [5, 0], [0, 2], [-1, 0], [1, 1]], np.float32)
    assert affinity(gradients)[0] == pytest.approx([1, 1, 0.5, 0, 0.75], abs=1e-6)


def test_directions_are_found_whatever_the_lengths() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [20, 12, 8])
    directions = rng.normal(size=(3, 50))[truth] + 0.5 * rng.normal(size=(40, 50))
    lengths = 10 ** rng.uniform(-4, 4, (40, 1))
    labels = cluster_gradients((directions * lengths).astype(np.float32), 3)
    assert labels.tolist() == truth.tolist()  # numbered by size, as in the truth


def test_a_zero_gradient_is_in_no_cluster() -> None:
    gradients = np.array([[1, 0], [0, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    labels = cluster_gradients(gradients, 2)
    assert labels[1] == -1
    assert labels[0] == labels[2] != labels[3] == labels[4]
    assert set(labels) == {-1, 0, 1}


def test_too_few_tokens_are_an_error() -> None:
    with pytest.raises(DataError, match="2 tokens are too few for 3 clusters"):
        cluster_gradients(np.eye(2, dtype=np.float32), 3)
