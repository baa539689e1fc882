"""Levers of a recipe, and registration of levers from plugins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, cast

from telltune.errors import RecipeError
from telltune.levers.auxiliary import Auxiliary
from telltune.levers.protocol import Lever, Resources, UseAs, Yield
from telltune.levers.pseudo_label import PseudoLabel
from telltune.levers.self_guide import SelfGuide
from telltune.recipe import Recipe, SynthesisSpec
from telltune.recipe.base import ConfigModel
from telltune.recipe.lever_sections import LEVER_SECTIONS

if TYPE_CHECKING:
    from telltune.data.task import TaskData
    from telltune.levers.synthesis import Synthesis


class PluginLever(ConfigModel, ABC):
    """Base class of levers from plugins; see `telltune.levers.protocol.Lever`.

    Its fields are the keys of the recipe section `levers.NAME`.
    """

    name: ClassVar[str]
    use_as: ClassVar[UseAs] = "once"
    needs_unlabeled: ClassVar[bool] = False

    def describe(self) -> str:
        """Return a clause for `tell plan`."""
        return f"the lever `{self.name}` makes training examples"

    @abstractmethod
    def apply(self, task: TaskData, resources: Resources) -> Yield:
        """Make examples; see `Lever.apply`."""


def register_lever(lever: type[PluginLever]) -> type[PluginLever]:
    """Add a lever from a plugin.

    Raises:
        RecipeError: Another lever has its name.
    """
    if lever.name in Recipe.model_fields or LEVER_SECTIONS.get(lever.name, lever) is not lever:
        raise RecipeError(f"lever `{lever.name}` is already registered; choose another name.")
    LEVER_SECTIONS[lever.name] = lever
    return lever


def synthesis_lever(recipe: Recipe) -> Synthesis:
    """Return the lever of the recipe key `synthesis`, with defaults if the recipe has none."""
    spec = recipe.synthesis or SynthesisSpec()
    teacher = recipe.teacher if spec.by == "teacher" else None
    return SelfGuide(spec, teacher) if spec.make == "examples" else Auxiliary(spec, teacher)


def levers_of(recipe: Recipe) -> tuple[Lever, ...]:
    """Return the levers of a recipe in the order in which they are applied.

    `synthesis` comes first, then `pseudo_label`, then the levers of plugins in the recipe's order.
    All whose examples appear `once` come after the others, because the selection and weighting of
    examples is between them.
    """
    found: list[Lever] = []
    if recipe.synthesis is not None:
        found.append(synthesis_lever(recipe))
    if recipe.pseudo_label is not None:
        found.append(PseudoLabel(recipe.pseudo_label))
    # `register_lever` accepts nothing else.
    found += cast("list[PluginLever]", list((recipe.levers or {}).values()))
    return tuple(sorted(found, key=lambda lever: lever.use_as == "once"))
