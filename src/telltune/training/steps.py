"""Optimizer steps as the trainer gets them: whole, or the share of one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from telltune.data.encoding import EncodedSet
    from telltune.data.mixture import Mixture
    from telltune.training.confidence import Confidence
    from telltune.training.loss import LossWeights
    from telltune.training.processes import Processes
    from telltune.training.source_weights import SourceGroups

__all__ = ["Collator", "Sources", "Step", "StepSampler", "own_share"]


@dataclass(frozen=True)
class Step:
    """What one optimizer step computes in this process.

    Attributes:
        rows: The ids of each example and the length of its prompt.
        is_task: (examples,).
        weights: The weight of each token of each example, (examples,).
        spare: One of the step's examples, for a process that has none of its own.
        group: The source of each example, (examples,), where sources have weights of their own.
        input_scale: The factor of each example's prompt embeddings, (examples,), where they are
            scaled.
        shares: Where sources have weights, of all examples of the step and not of this process's
            alone: the source, and the part of the loss that it is; each (all examples,).
    """

    rows: list[tuple[Any, int]]
    is_task: torch.Tensor
    weights: torch.Tensor
    spare: list[tuple[Any, int]]
    group: torch.Tensor | None = None
    input_scale: torch.Tensor | None = None
    shares: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def sources(self) -> list[tuple[bool, float]]:
        """A key for each example: those with the same key may share a prefix in a packed row."""
        scale = torch.ones(len(self.rows)) if self.input_scale is None else self.input_scale
        return list(zip(self.is_task.tolist(), scale.tolist(), strict=True))


class StepSampler:
    """The mixture's batches, epoch after epoch, as a batch sampler.

    One item is one optimizer step: (is it task data, index) of each example. Every process sees all
    of a step, since an example's weight depends on the others'.
    """

    def __init__(self, mixture: Mixture, epochs: int) -> None:
        self.mixture, self.epochs = mixture, epochs

    def __len__(self) -> int:
        return self.mixture.batches_per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[tuple[bool, int]]]:
        for epoch in range(self.epochs):
            for slots in self.mixture.batches(epoch):
                yield slots.pairs


class Sources(Dataset[tuple[bool, int, Any, int]]):
    """Looks an example up by (is it task data, index): both, its ids, and its prompt's length."""

    def __init__(self, task: EncodedSet, general: EncodedSet | None) -> None:
        self.task, self.general = task, general

    def __getitem__(self, key: tuple[bool, int]) -> tuple[bool, int, Any, int]:
        is_task, index = key
        source = self.task if is_task else self.general
        assert source is not None  # the mixture has no general slots without general data
        return (is_task, index, *source[index])


@dataclass(frozen=True)
class Collator:
    """Makes a `Step` of a step's examples: weights by all of them, rows of this process's share.

    Attributes:
        weights: How they count.
        confidence: Of task examples, and what it scales.
        groups: Sources that have weights of their own.
        processes: Whose share it is.
    """

    weights: LossWeights
    confidence: Confidence | None
    groups: SourceGroups | None
    processes: Processes

    def __call__(self, examples: list[tuple[bool, int, Any, int]]) -> dict[str, Step]:
        """The step, under the name by which the trainer finds it."""
        is_task = np.array([task for task, *_ in examples], bool)
        index = np.array([index for _, index, *_ in examples], np.int64)
        rows = [(ids, prompt_length) for *_, ids, prompt_length in examples]
        lengths = np.array([len(ids) - max(prompt, 1) for ids, prompt in rows], np.int64)
        weights = self.weights.of(is_task, lengths)
        scale: NDArray[np.float64] | None = None
        if self.confidence is not None:
            trusted = self.confidence.of(is_task, index)
            if self.confidence.scales_losses:
                weights *= trusted
            if self.confidence.scales_prompts:
                scale = trusted
        own = own_share([len(ids) for ids, _ in rows], self.processes)
        group = shares = None
        if self.groups is not None:
            groups = torch.from_numpy(self.groups.of(is_task, index))
            group = groups[own]
            shares = (groups, torch.from_numpy(weights * lengths).float())
        step = Step(
            [rows[i] for i in own],
            torch.from_numpy(is_task[own]),
            torch.from_numpy(weights[own]).float(),
            rows[:1],
            group,
            None if scale is None else torch.from_numpy(scale[own]),
            shares,
        )
        return {"step": step}


def own_share(lengths: list[int], processes: Processes) -> list[int]:
    """Which of a step's examples this process computes: each is one process's, all as much.

    The longest goes to whoever has least so far, then the next; the same in every process.

    Args:
        lengths: Tokens of each.
        processes: Whose share.

    Returns:
        Places, ascending; none where there are fewer examples than processes.
    """
    if processes.count == 1:
        return list(range(len(lengths)))
    load = [0] * processes.count
    own = []
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = load.index(min(load))
        load[least] += lengths[place]
        if least == processes.rank:
            own.append(place)
    return sorted(own)
