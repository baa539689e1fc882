"""Multitask sparse parity: a toy problem with known quanta, for testing quanta discovery.

An input consists of a subtask and a string of bits. The answer is the parity of a few of the bits,
which differ between subtasks. Subtask k occurs with a frequency proportional to k^-(alpha + 1).
Source: Michaud et al. (arXiv 2303.13506, section 3 and appendix A).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from telltune.research.quanta.losses import LossCurves
from telltune.research.quanta.tokens import LEARNED
from telltune.valuation.gradient_sketch import GradientSketch, gradient_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["SparseParity", "learn_parity", "parity_gradients"]


@dataclass(frozen=True)
class SparseParity:
    """Subtasks and their frequencies.

    Attributes:
        subtasks: Number of subtasks.
        bits: Length of the bit string.
        parity_bits: Number of bits on which an answer depends.
        alpha: Exponent of the frequencies, which are proportional to k^-(alpha + 1).
        control: Value of the one-hot entry that selects the subtask; the paper uses 1.
        seed: Seed of the choice of bits and of all random draws.
    """

    subtasks: int
    bits: int
    parity_bits: int = 3
    alpha: float = 0.4
    control: float = 1.0
    seed: int = 0

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """Frequencies of the subtasks, (subtasks,); they sum to 1."""
        weights = np.arange(1.0, self.subtasks + 1) ** -(self.alpha + 1)
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    @cached_property
    def chosen_bits(self) -> NDArray[np.int64]:
        """Indices of the bits that each subtask uses, (subtasks, parity_bits)."""
        rng = np.random.default_rng(self.seed)
        rows = [rng.permutation(self.bits)[: self.parity_bits] for _ in range(self.subtasks)]
        return np.stack(rows)

    def draw(self, subtasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw random inputs for the given subtasks, int64 (n,).

        Returns:
            The inputs, (n, subtasks + bits), and the answers, int64 (n,).
        """
        bits = torch.randint(2, (len(subtasks), self.bits), generator=generator)
        looked_at = torch.from_numpy(self.chosen_bits)[subtasks]
        answers = bits.gather(1, looked_at).sum(1) % 2
        code = functional.one_hot(subtasks, self.subtasks) * self.control
        return torch.cat([code, bits.float()], 1).float(), answers


def learn_parity(
    parity: SparseParity,
    *,
    width: int,
    steps: int,
    batch_size: int,
    learning_rate: float = 1e-2,
    moments: int = 50,
    held_out: int = 100,
) -> tuple[nn.Sequential, LossCurves]:
    """Train a ReLU network with one hidden layer on fresh samples with Adam.

    Args:
        parity: Subtasks to learn.
        width: Width of the hidden layer.
        steps: Number of training steps.
        batch_size: Number of samples per step.
        learning_rate: Learning rate of Adam.
        moments: Number of moments at which losses are recorded, besides the start.
        held_out: Number of held-out samples per subtask.

    Returns:
        The network, and the losses of held-out samples ordered by subtask at the start and at each
        moment, (moments + 1, subtasks · held_out).
    """
    generator = torch.Generator().manual_seed(parity.seed)
    with torch.random.fork_rng():
        torch.manual_seed(parity.seed)
        hidden = nn.Linear(parity.subtasks + parity.bits, width)
        network = nn.Sequential(hidden, nn.ReLU(), nn.Linear(width, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    frequencies = torch.from_numpy(parity.frequencies)
    seen = parity.draw(torch.arange(parity.subtasks).repeat_interleave(held_out), generator)
    at = np.unique(np.linspace(0, steps, moments + 1).round().astype(np.int64))
    losses = []
    for step in range(steps + 1):
        if step in at:
            with torch.no_grad():
                losses.append(_losses(network, *seen).double().numpy())
        asked = torch.multinomial(frequencies, batch_size, replacement=True, generator=generator)
        loss = _losses(network, *parity.draw(asked, generator)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network, LossCurves(at, np.stack(losses))


def parity_gradients(
    network: nn.Sequential, parity: SparseParity, samples: int, *, answers: tuple[int, ...] = (1,)
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return loss gradients of fresh samples that the network has learned, and their subtasks.

    Samples with answers 0 and 1 have opposite gradients for the weights of their subtask. Angles
    would separate answers before subtasks, so by default only samples with one answer are used.

    Args:
        network: Network from `learn_parity`.
        parity: Subtasks of the network.
        samples: Number of samples per subtask, before any are dropped.
        answers: Answers whose samples are kept.

    Returns:
        The sketched gradients, (n, width of the sketch), and the subtasks, (n,).
    """
    generator = torch.Generator().manual_seed(parity.seed + 1)
    subtasks = torch.arange(parity.subtasks).repeat_interleave(samples)
    inputs, wanted = parity.draw(subtasks, generator)
    losses = _losses(network, inputs, wanted)
    kept = ((losses < LEARNED) & torch.isin(wanted, torch.tensor(answers))).nonzero()[:, 0]
    sketch = GradientSketch(gradient_weights(network))
    gradients = np.stack([sketch.of(losses[i]) for i in kept])
    return gradients, subtasks[kept].numpy()


def _losses(network: nn.Sequential, inputs: Tensor, answers: Tensor) -> Tensor:
    return functional.cross_entropy(network(inputs), answers, reduction="none")
