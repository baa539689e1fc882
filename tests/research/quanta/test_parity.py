"""On a toy with known quanta, gradients cluster by subtask and frequent ones come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from quanta_parity import SparseParity, learn_parity, parity_gradients
from telltune.research.quanta.clusters import cluster_gradients
from telltune.research.quanta.order import kendall_tau, learned_at

if TYPE_CHECKING:
    from torch import nn

    from telltune.research.quanta.losses import LossCurves

PARITY = SparseParity(subtasks=6, bits=9, control=3.0)
HELD_OUT = 100


def test_an_answer_is_the_parity_of_the_subtasks_bits() -> None:
    inputs, answers = PARITY.draw(torch.tensor([2, 2, 5]), torch.Generator().manual_seed(0))
    assert inputs[:, :6].argmax(1).tolist() == [2, 2, 5]
    assert inputs[:, :6].sum(1).tolist() == [3, 3, 3]
    bits = inputs[:, 6:].int().numpy()
    for row, subtask, answer in zip(bits, (2, 2, 5), answers.tolist(), strict=True):
        assert row[PARITY.chosen_bits[subtask]].sum() % 2 == answer


def test_frequencies_fall_as_a_power() -> None:
    shares = PARITY.frequencies
    assert shares.sum() == pytest.approx(1)
    assert shares[0] / shares[3] == pytest.approx(4**1.4)


@pytest.fixture(scope="module")
def learned() -> tuple[nn.Sequential, LossCurves]:
    torch.set_num_threads(1)
    return learn_parity(PARITY, width=64, steps=1000, batch_size=256, moments=25, held_out=HELD_OUT)


def test_subtasks_are_learned_by_frequency(learned: tuple[nn.Sequential, LossCurves]) -> None:
    _, curves = learned
    likely = np.exp(-curves.losses).reshape(-1, PARITY.subtasks, HELD_OUT).mean(2).T
    # Without learning, an answer is right half of the time.
    assert likely[:, 0] == pytest.approx(0.5, abs=0.05)
    steps = learned_at(curves.steps, likely, np.ones(PARITY.subtasks))
    assert np.isfinite(steps).all()
    assert kendall_tau(steps, -PARITY.frequencies) > 0.6
    assert steps.argmin() == 0


def test_clusters_are_the_subtasks(learned: tuple[nn.Sequential, LossCurves]) -> None:
    network, _ = learned
    gradients, subtasks = parity_gradients(network, PARITY, 40)
    labels = cluster_gradients(gradients, PARITY.subtasks)
    assert adjusted_rand_score(subtasks, labels) > 0.85
    # The measure is not too high with so few samples.
    rng = np.random.default_rng(0)
    null = [adjusted_rand_score(rng.permutation(subtasks), labels) for _ in range(50)]
    assert np.quantile(null, 0.99) < 0.15


def test_opposite_answers_pull_apart_what_a_subtask_joins(
    learned: tuple[nn.Sequential, LossCurves],
) -> None:
    network, _ = learned
    gradients, subtasks = parity_gradients(network, PARITY, 40, answers=(0, 1))
    labels = cluster_gradients(gradients, PARITY.subtasks)
    assert adjusted_rand_score(subtasks, labels) < 0.5
