"""A training can start from the weights of another training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from telltune.errors import RecipeError
from telltune.recipe import recipe_from_dict
from telltune.training.adapter import set_trained_weights, trainable, trained_weights

if TYPE_CHECKING:
    from telltune.models import LoadedModel


@pytest.mark.parametrize(
    ("full", "kind"),
    [(False, {}), (True, {}), (False, {"use_dora": True, "modules_to_save": ["lm_head"]})],
    ids=["LoRA", "full parameters", "DoRA and a module"],
)
def test_trained_weights_are_copied_and_set_again(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any], kind: dict[str, Any], *, full: bool
) -> None:
    toy_recipe["training"]["full_parameters"] = full
    toy_recipe["lora"] |= kind
    model = trainable(tiny_base, recipe_from_dict(toy_recipe))
    before = trained_weights(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    after = trained_weights(model)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value + 1.0)
    set_trained_weights(model, before)
    for name, value in trained_weights(model).items():
        assert torch.equal(value, before[name])


def test_weights_of_another_shape_are_refused(
    tiny_base: LoadedModel, toy_recipe: dict[str, Any]
) -> None:
    adapter = trainable(tiny_base, recipe_from_dict(toy_recipe))
    weights = trained_weights(adapter)
    whole: Any = adapter.unload()
    with pytest.raises(RecipeError, match="full_parameters"):
        set_trained_weights(whole, weights)
    other = recipe_from_dict(toy_recipe | {"lora": {"rank": 2}})
    with pytest.raises(RecipeError, match="another rank"):
        set_trained_weights(trainable(tiny_base, other), weights)
