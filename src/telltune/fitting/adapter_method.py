"""Base class of the methods that train an adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telltune.data.task import GeneralData, TaskData
    from telltune.fitting.protocol import Predictor, Settings
    from telltune.models import LoadedModel
    from telltune.recipe import Order, Recipe


@dataclass(frozen=True)
class AdapterMethod(ABC):
    """Method that trains an adapter; its flags set the training data.

    Attributes:
        name: Name in recipes and tables.
        label: Display name.
        anchored: Whether the method uses the anchor.
        uses_general: Whether the method uses general data, even if only to set the number of steps.
        learns: Whether to train on the task examples; else they only set the amount of general
            data.
        order: Order of the mixture, overriding the recipe's.
        equal_steps: Whether to train on the task alone, with the number of passes closest to TELL's
            number of optimizer steps.
        overrides: Recipe keys, such as `selection.order`, and values that override the recipe's. A
            section alone, such as `meta`, uses its defaults if the recipe lacks it.
        trains: Whether the method trains an adapter.
        depends_on_size: Whether the method depends on the number and the draw of the task examples.
    """

    name: str
    label: str
    anchored: bool
    uses_general: bool
    learns: bool = True
    order: Order | None = None
    equal_steps: bool = False
    overrides: tuple[tuple[str, Any], ...] = ()
    trains: bool = True
    depends_on_size: bool = True

    def configured(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the keys in `overrides` applied."""
        return recipe.with_keys(self.overrides)

    @abstractmethod
    def run(
        self, task: TaskData, general: GeneralData | None, base: LoadedModel, settings: Settings
    ) -> Predictor:
        """Return a predictor. Methods never receive test data."""
