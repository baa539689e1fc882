"""Fast paths change no number, and `off` keeps the model's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from telltune.models.kernels.fast_path import FastPath
from telltune.models.kernels.packing import pack, token_nll
from telltune.recipe import LoraSpec
from telltune.training.adapter import add_lora

if TYPE_CHECKING:
    from telltune.models import LoadedModel

ROWS = [([5, 6, 7, 8, 9], 2), ([10, 11, 12], 1), ([13, 14, 15, 16], 3)]


def own_forwards(model: torch.nn.Module) -> int:
    return sum("forward" in vars(module) for module in model.modules())


def nll_and_gradient(model: torch.nn.Module, fast: FastPath) -> tuple[torch.Tensor, torch.Tensor]:
    model.zero_grad()
    with fast.active():
        rows = pack(ROWS, 64, together=fast.packed)
        nll = torch.cat([token_nll(model, row, fast.cut_loss) for row in rows])
        nll.sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return nll.detach().sort().values, torch.cat(gradients)


def test_off_uses_nothing_and_changes_nothing(tiny_base: LoadedModel) -> None:
    model = add_lora(tiny_base, LoraSpec(rank=4, dropout=0.0), seed=0)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.02, generator=torch.Generator().manual_seed(1))
    off, auto = FastPath(model, "off"), FastPath(model, "auto")
    assert (off.packed, off.cut_loss) == (False, None)
    assert auto.packed
    before = own_forwards(model)
    with off.active():
        assert own_forwards(model) == before
    with auto.active():
        assert own_forwards(model) > before
    assert own_forwards(model) == before
    plain, fast = nll_and_gradient(model, off), nll_and_gradient(model, auto)
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast[1], plain[1], rtol=1e-3, atol=1e-5)


def test_layers_are_kept_where_weights_are_spread_or_differentiated_twice(
    tiny_base: LoadedModel,
) -> None:
    fast = FastPath(tiny_base.model, fused=False)
    assert (fast.packed, fast.cut_loss) == (True, None)
    before = own_forwards(tiny_base.model)
    with fast.active():
        assert own_forwards(tiny_base.model) == before


@pytest.mark.parametrize("kernels", ["auto", "off"])
def test_an_error_inside_takes_the_layers_off_again(tiny_base: LoadedModel, kernels: str) -> None:
    fast = FastPath(tiny_base.model, kernels)  # type: ignore[arg-type]
    before = own_forwards(tiny_base.model)
    with pytest.raises(ZeroDivisionError), fast.active():
        _ = 1 / 0
    assert own_forwards(tiny_base.model) == before
