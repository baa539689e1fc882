"""Multitask sparse parity: a toy whose quanta are known, to check on it what finds quanta.

An input names a subtask and has a string of bits; the answer is the parity of a few of the bits, of
others in every subtask. Subtask k is asked for with a frequency proportional to k^-(alpha + 1).
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

from telltune.valuation.quanta_gradients import GradientSketch, gradient_weights
from telltune.valuation.quanta_losses import LossCurves
from telltune.valuation.quanta_tokens import LEARNED

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["SparseParity", "learn_parity", "parity_gradients"]


@dataclass(frozen=True)
class SparseParity:
    """Subtasks and how often each is asked for.

    Attributes:
        subtasks: How many.
        bits: Length of the string.
        parity_bits: How many of them an answer depends on.
        alpha: Frequencies are proportional to k^-(alpha + 1).
        control: The number that stands for "this subtask" in its place of the input, where the
            paper has 1.
        seed: Of the choice of bits, and of all that is drawn.
    """

    subtasks: int
    bits: int
    parity_bits: int = 3
    alpha: float = 0.4
    control: float = 1.0
    seed: int = 0

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """Of the subtasks, (subtasks,); they add up to 1."""
        weights = np.arange(1.0, self.subtasks + 1) ** -(self.alpha + 1)
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    @cached_property
    def chosen_bits(self) -> NDArray[np.int64]:
        """Which bits each subtask looks at, (subtasks, parity_bits)."""
        rng = np.random.default_rng(self.seed)
        rows = [rng.permutation(self.bits)[: self.parity_bits] for _ in range(self.subtasks)]
        return np.stack(rows)

    def draw(self, subtasks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random inputs for given subtasks, int64 (n,).

        Returns:
            Inputs, (n, subtasks + bits), and answers, int64 (n,).
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
    """Train a ReLU network with one hidden layer on fresh samples, with Adam.

    Args:
        parity: The subtasks.
        width: Of the hidden layer.
        steps: Of training.
        batch_size: Samples in a step.
        learning_rate: Adam's.
        moments: How often it is looked at, besides the start.
        held_out: Samples a subtask to look at.

    Returns:
        The network; and the losses of held-out samples, subtask after subtask, (moments,
        subtasks · held_out).
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
    """Gradients of the losses of fresh samples that the network has learned, and their subtasks.

    A sample that is answered 0 pulls at the weights of its subtask the other way than one that is
    answered 1, as two tokens do of which either may come next. Angles tell the two apart before
    they tell subtasks apart, so by default samples of one answer are compared.

    Args:
        network: From `learn_parity`.
        parity: The subtasks.
        samples: A subtask, before any is left out.
        answers: Samples with these are kept.

    Returns:
        Shapes (n, width of the sketch) and (n,).
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
