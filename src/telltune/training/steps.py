"""Optimizer steps for the trainer: complete, or the share of one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from telltune.data.encoded import EncodedSet
    from telltune.data.mixture import Mixture
    from telltune.training.confidence import Confidence
    from telltune.training.processes import Processes
    from telltune.training.source_weights import SourceGroups
    from telltune.training.training_data import LossWeights


@dataclass(frozen=True)
class Step:
    """Examples and weights of one optimizer step in this process.

    Attributes:
        rows: Token ids and prompt length of each example.
        is_task: Whether each example is task data, (examples,).
        weights: Weight of every token of each example, (examples,).
        spare: An example of the step, for a process without examples of its own.
        group: Source index of each example, (examples,); None without learned source weights.
        input_scale: Factor of each example's prompt embeddings, (examples,); None without scaling.
        shares: Source index and share of the loss of each example of the step in all processes,
            each (all examples,); None without learned source weights.
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
        """Key of each example; examples with the same key may share a prefix in a packed row."""
        scale = torch.ones(len(self.rows)) if self.input_scale is None else self.input_scale
        return list(zip(self.is_task.tolist(), scale.tolist(), strict=True))


class StepSampler:
    """Batch sampler of the batches of a mixture over several epochs.

    One item is one optimizer step: (is task data, index) of each example. Every process gets the
    complete step, because the weight of an example depends on the others.
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
    """Data set from (is task data, index) to the same values, token ids and prompt length."""

    def __init__(self, task: EncodedSet, general: EncodedSet | None) -> None:
        self.task, self.general = task, general

    def __getitem__(self, key: tuple[bool, int]) -> tuple[bool, int, Any, int]:
        is_task, index = key
        source = self.task if is_task else self.general
        assert source is not None  # the mixture has no general slots without general data
        return (is_task, index, *source[index])


@dataclass(frozen=True)
class Collator:
    """Collator from the examples of a step to a `Step` with the share of this process.

    Attributes:
        weights: Weights of response tokens in the loss.
        confidence: Confidence of task examples and what it scales, or None.
        groups: Sources with learned weights, or None.
        processes: Processes of the run.
    """

    weights: LossWeights
    confidence: Confidence | None
    groups: SourceGroups | None
    processes: Processes

    def __call__(self, examples: list[tuple[bool, int, Any, int]]) -> dict[str, Step]:
        """Return the step under the key that the trainer reads."""
        is_task = np.array([task for task, *_ in examples], bool)
        index = np.array([index for _, index, *_ in examples], np.int64)
        rows = [(ids, prompt_length) for *_, ids, prompt_length in examples]
        lengths = np.array([len(ids) - max(prompt, 1) for ids, prompt in rows], np.int64)
        weights = self.weights.of(is_task, lengths)
        scale: NDArray[np.float64] | None = None
        if self.confidence is not None:
            trusted = self.confidence.of(is_task, index)
            if self.confidence.scale != "input":
                weights *= trusted
            if self.confidence.scale != "output":
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
    """Return the examples of a step that this process computes, balanced by tokens.

    Examples are assigned from the longest to the shortest, each to the process with the fewest
    tokens so far. All processes compute the same assignment. The indices are in ascending order;
    there may be none with fewer examples than processes.
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
