"""Description of the steps before training, which a plan's time and counts do not include."""

from __future__ import annotations

from typing import TYPE_CHECKING

from telltune.levers.registry import levers_of
from telltune.recipe import SelectionSpec
from telltune.valuation.memory import TEMPLATES

if TYPE_CHECKING:
    from telltune.fitting.adapter_method import AdapterMethod
    from telltune.recipe import Recipe

__all__ = ["describe_pre_training"]


def describe_pre_training(method: AdapterMethod, recipe: Recipe) -> list[str]:
    """Return one clause per step before training; an empty list if there are none.

    Args:
        method: The method, whose own settings may add steps.
        recipe: Recipe of the run.
    """
    recipe = method.configured(recipe)
    said = [lever.describe() for lever in levers_of(recipe)]
    chosen, trusted = recipe.selection, recipe.confidence
    if recipe.product_of_experts is not None:
        said.append("a small classifier is chosen by cross-validation and combined with the model")
    by_pvi = {part.by for part in (chosen, trusted) if part is not None}
    if "pvi" in by_pvi and chosen is not None and chosen.in_context:
        said.append(f"examples are scored by PVI with {chosen.in_context} exemplars in the prompt")
    elif "pvi" in by_pvi:
        folds = (chosen or SelectionSpec()).folds
        said.append(f"examples are scored by PVI: {2 * folds} trainings on the other folds")
    if chosen is not None and chosen.by == "memory":
        ways = len(chosen.templates or TEMPLATES) + chosen.proposed_templates
        asked = ways * chosen.samples
        said.append(f"the base answers each question {asked} times")
    if recipe.meta is not None:
        said.append(
            f"initial weights are learned by {recipe.meta.algorithm} in {recipe.meta.steps} steps"
        )
    choice = recipe.general_choice
    if method.uses_general and choice is not None:
        said.append(f"general examples are chosen from {choice.candidates:,} by {choice.by}")
    return said
