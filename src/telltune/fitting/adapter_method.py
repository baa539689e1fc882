"""Base class of the methods that train an adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telltune.data.task import GeneralData, TaskData
    from telltune.fitting.protocol import Predictor, Settings
    from telltune.models import BaseModel
    from telltune.recipe import Order, Recipe

__all__ = ["AdapterMethod"]


@dataclass(frozen=True)
class AdapterMethod(ABC):
    """Method that trains an adapter; its flags set the training data.

    Attributes:
        name: Name in recipes and tables.
        label: Display name.
        anchored: Whether the method uses the anchor.
        mixes: Whether the method uses general data, even if only to set the number of steps.
        learns: Whether to train on the task examples; else they only set the amount of general
            data.
        order: Order of the mixture, overriding the recipe's.
        equal_steps: Whether to train on the task alone, with the number of passes closest to TELL's
            number of optimizer steps.
        sets: Recipe keys, such as `selection.order`, and values that override the recipe's. A
            section alone, such as `meta`, uses its defaults if the recipe lacks it.
        trains: Whether the method trains an adapter.
        sized: Whether the method depends on the number and the draw of the task examples.
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
        """Return the recipe with the keys in `sets` applied."""
        return recipe.with_keys(self.sets)

    @abstractmethod
    def run(
        self, task: TaskData, general: GeneralData | None, base: BaseModel, settings: Settings
    ) -> Predictor:
        """Return a predictor. Methods never receive test data."""
