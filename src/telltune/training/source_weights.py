"""Weights of the sources of a mixture, learned together with the adapter.

With s = ln σ² for each source, an example's part of the loss is divided by σ², and a regularizer
keeps σ² from growing without bound (arXiv 2412.09046; after Kendall et al., arXiv 1705.07115):

- ALF1: L/σ² + ln σ²; minimal at σ² = L, and negative for small L.
- ALF2: L/σ² + ln(σ² + 1); never negative.

A source whose loss stays high, such as noise, thus gets a lower weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from telltune.data.general import GeneralData

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from telltune.data.examples import Example

_FILE = "source_weights.pt"


@dataclass(frozen=True)
class SourceGroups:
    """Assignment of the examples of a mixture to sources.

    Attributes:
        names: Names of the sources, task data first.
        task: Source index of each task example, (task examples,).
        general_ends: Index after the last example of each general source, (general sources,).
    """

    names: tuple[str, ...]
    task: NDArray[np.int64]
    general_ends: NDArray[np.int64]

    def of(self, is_task: NDArray[np.bool_], index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the source index of each slot of a mixture, (n,)."""
        first = len(self.names) - len(self.general_ends)
        found = first + np.searchsorted(self.general_ends, index, side="right")
        found[is_task] = self.task[index[is_task]]
        return found


def source_groups(task: Sequence[Example], general: GeneralData | None) -> SourceGroups:
    """Return one source for each data set of the task data and of the general data.

    General data that were chosen or made in this run are a single source.
    """
    found = list(dict.fromkeys(example.source for example in task))
    numbers = np.array([found.index(example.source) for example in task], np.int64)
    names = ["task"] if len(found) == 1 else [f"task: {source}" for source in found]
    parts = [] if general is None else [general]
    # Other classes hold examples in another order than their sources.
    if type(general) is GeneralData and len(general.sources) > 1:
        parts = [GeneralData(spec.path, (spec,)) for spec in general.sources]
    paths = [part.name for part in parts]
    for entry, path in enumerate(paths, start=1):
        repeated = f" (entry {entry})" if path in paths[: entry - 1] else ""
        names.append("general" if len(parts) == 1 else f"general: {path}{repeated}")
    counts = [part.contents.examples for part in parts]
    return SourceGroups(tuple(names), numbers, np.cumsum(np.array(counts, np.int64)))


class LearnedWeights:
    """Learned weights of a run's sources, with a regularizer; see the module's description."""

    learning_rate = 0.2
    """Learning rate of s for Adam. A small run has about 40 to 80 steps. In the first ten, all
    losses fall, and the weights must follow before they separate the sources. At 0.05 they did not
    (benchmarks/noise_source.py); the adapter's own rate would move them by a hundredth."""

    def __init__(
        self, kind: Literal["alf1", "alf2"], groups: SourceGroups, device: torch.device
    ) -> None:
        self.kind, self.groups = kind, groups
        self.log_variance = nn.Parameter(torch.zeros(len(groups.names), device=device))

    def factors(self, group: torch.Tensor) -> torch.Tensor:
        """Return 1/σ² of each example's source, (examples,), with a new graph at each call."""
        return torch.exp(-self.log_variance)[group]

    def regularizer(self, group: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """Return the regularization term of a step's loss, a scalar.

        `group` is the source index and `share` the share of the loss of each example, (examples,).
        """
        each = self.log_variance if self.kind == "alf1" else functional.softplus(self.log_variance)
        return (each[group] * share).sum()

    def record(self) -> dict[str, float]:
        """Return the current weights, for the log."""
        values = torch.exp(-self.log_variance.detach()).tolist()
        return {
            f"weight_{name}": value for name, value in zip(self.groups.names, values, strict=True)
        }

    def save(self, folder: Path) -> None:
        """Save the weights in the folder of a checkpoint."""
        torch.save(self.log_variance.detach().cpu(), folder / _FILE)

    def load(self, folder: Path) -> None:
        """Load the weights from the folder of a checkpoint."""
        kept = torch.load(folder / _FILE, weights_only=True)
        with torch.no_grad():
            self.log_variance.copy_(kept)
