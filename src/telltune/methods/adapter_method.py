"""Base class of the methods that train an adapter, with the flags in which they differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telltune.data.task import GeneralData, TaskData
    from telltune.methods.protocol import Predictor, Settings
    from telltune.models import BaseModel
    from telltune.recipe import Order, Recipe

__all__ = ["AdapterMethod"]


@dataclass(frozen=True)
class AdapterMethod(ABC):
    """A method that trains an adapter; methods differ in what they train it on.

    Attributes:
        name: In recipes and tables.
        label: For people.
        anchored: Whether it uses the anchor.
        mixes: Whether it uses general data, be it only to know how much TELL would take.
        learns: Whether the task's examples are trained on; else they only say how much general
            data is.
        order: Of the mixture, in place of the recipe's.
        equal_steps: Trains on the task alone, in as many passes as come nearest to the number of
            optimizer steps that TELL would take.
        sets: Recipe keys, such as `selection.order`, and their values in place of the recipe's; a
            part alone, such as `meta`, stands for its defaults where the recipe has none.
    """

    name: str
    label: str
    anchored: bool
    mixes: bool
    learns: bool = True
    order: Order | None = None
    equal_steps: bool = False
    sets: tuple[tuple[str, Any], ...] = ()
    trains: bool = True
    sized: bool = True

    def configured(self, recipe: Recipe) -> Recipe:
        """The recipe with what the method itself sets."""
        return recipe.with_keys(self.sets)

    @abstractmethod
    def run(
        self, task: TaskData, general: GeneralData | None, base: BaseModel, settings: Settings
    ) -> Predictor:
        """Make a predictor. It never sees test data."""
