"""Adapter of a cell that one process trained and another one is to evaluate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from telltune.fitting.adapter_folder import load_predictor
from telltune.fitting.trained_method import TrainedMethod
from telltune.methods.registry import get_method
from telltune.storage import write_bytes
from telltune.training.adapter import take_off

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.fitting.predictor import Cost, Predictor
    from telltune.models import LoadedModel
    from telltune.study.spec import Cell


def can_be_split(cell: Cell) -> bool:
    """Return whether a cell's adapter folder answers as the predictor that the method returns.

    Methods with code of their own may return another one. A folder with all weights is too large.
    """
    method = get_method(cell.method)
    return type(method) is TrainedMethod and not cell.recipe.training.full_parameters


@dataclass(frozen=True)
class TrainedCell:
    """A trained cell without answers.

    Attributes:
        files: Contents of the adapter folder, by name.
        cost: Cost of the training.
        curve: Loss curve.
        general_used: Highest index of a general example in the mixture, plus 1.
        seconds: Seconds since the start of the cell.
    """

    files: dict[str, bytes]
    cost: Cost
    curve: dict[str, Any]
    general_used: int
    seconds: float

    @classmethod
    def files_in(cls, folder: Path) -> dict[str, bytes]:
        """Return the contents of an adapter folder."""
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def predictor(self, base: LoadedModel, folder: Path) -> Predictor:
        """Write the adapter folder, and return its predictor, which releases the base on exit."""
        for name, content in self.files.items():
            write_bytes(folder / name, content)
        found = load_predictor(folder, base=base)
        return replace(found, cost=self.cost, release=partial(take_off, found.model))
