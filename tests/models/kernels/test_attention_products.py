"""Attention by matrix products equals PyTorch's attention, and applies to bf16 on a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from telltune.models.kernels import layout as blocks
from telltune.models.kernels.attention import _attend as attend
from telltune.models.kernels.attention_products import attend_by_products, suits_products
from telltune.models.kernels.layout import Layout, Segment

# Two with a common start, one alone, and one that fills the row.
SEGMENTS = [Segment(9), Segment(6, 0), Segment(5, 0), Segment(10), Segment(2)]
SCALE = 0.3


@pytest.fixture(params=[1, 3, 32], autouse=True)
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CHUNK", request.param)
    monkeypatch.setattr(blocks, "_CALL", 10)


def row(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Return the query, key and value of a row, as transformers passes them."""
    torch.manual_seed(4)
    return [
        torch.randn(1, 32, heads, 8).to(dtype).transpose(1, 2).requires_grad_()
        for heads in (6, 2, 2)
    ]


def ours(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return telltune's result and gradients."""
    found = Layout(SEGMENTS).blocks(None)
    assert found is not None
    result = attend_by_products(*tensors, found, SCALE)  # type: ignore[arg-type]
    return [result, *torch.autograd.grad(result, tensors, torch.ones_like(result))]


def hidden() -> torch.Tensor:
    """Mask over the whole row."""
    owner = torch.arange(5).repeat_interleave(torch.tensor([s.length for s in SEGMENTS]))
    sees = owner[:, None] == owner
    sees[9:20, :9] = True
    return torch.zeros(32, 32).masked_fill_(~sees.tril(), float("-inf"))


def pytorchs(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same with PyTorch's attention, which gets a mask over the whole row."""
    mask = hidden().to(tensors[0].dtype)
    result = functional.scaled_dot_product_attention(
        *tensors, attn_mask=mask, scale=SCALE, enable_gqa=True
    ).transpose(1, 2)
    return [result, *torch.autograd.grad(result, tensors, torch.ones_like(result))]


def test_result_and_gradients_are_pytorchs() -> None:
    tensors = row()
    for wanted, found in zip(pytorchs(tensors), ours(tensors), strict=True):
        torch.testing.assert_close(found, wanted)


def eager(
    tensors: list[torch.Tensor], softcap: float | None, sinks: torch.Tensor | None
) -> torch.Tensor:
    """The same with a soft cap and sinks, as gpt-oss and Gemma 2 compute them."""
    query, key, value = tensors
    key, value = (t.repeat_interleave(3, dim=1) for t in (key, value))
    scores = query @ key.transpose(2, 3) * SCALE
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + hidden()
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(1, -1, 32, 1)], -1)
    return (torch.softmax(scores, -1)[..., :32] @ value).transpose(1, 2)


@pytest.mark.parametrize(("softcap", "sunk"), [(0.7, False), (None, True), (0.7, True)])
def test_soft_caps_and_sinks(softcap: float | None, sunk: bool) -> None:
    tensors = row()
    sinks = torch.linspace(-2, 2, 6).requires_grad_() if sunk else None
    learned = [*tensors, *([] if sinks is None else [sinks])]
    found = Layout(SEGMENTS).blocks(None)
    assert found is not None
    ours = attend_by_products(*tensors, found, SCALE, softcap=softcap, sinks=sinks)  # type: ignore[arg-type]
    theirs = eager(tensors, softcap, sinks)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn_like(ours)
    for mine, wanted in zip(
        torch.autograd.grad(ours, learned, upstream),
        torch.autograd.grad(theirs, learned, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, wanted)


def test_a_soft_cap_takes_no_dropout_and_rows_of_any_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("telltune.models.kernels.layout.MOST_KEYS", 4)
    tensors, layout = row(), Layout(SEGMENTS)
    module: Any = SimpleNamespace(training=True)
    found, _ = attend(module, *tensors, None, scaling=SCALE, layout=layout, softcap=0.7)  # type: ignore[arg-type]
    torch.testing.assert_close(found, eager(tensors, 0.7, None))
    module.attention_dropout = 0.1
    with pytest.raises(ValueError, match="dropout"):
        attend(module, *tensors, None, layout=layout, softcap=0.7)  # type: ignore[arg-type]


def test_in_bf16_it_is_as_near_to_fp32_as_bf16_allows() -> None:
    narrow = row(torch.bfloat16)
    for wanted, kernel, found in zip(pytorchs(row()), pytorchs(narrow), ours(narrow), strict=True):
        theirs = (kernel.float() - wanted).norm() / wanted.norm()
        assert (found.float() - wanted).norm() / wanted.norm() < max(2 * theirs, 0.01)


def test_only_bf16_on_a_cpu_without_dropout() -> None:
    query = row(torch.bfloat16)[0]
    assert suits_products(query, 0.0)
    assert not suits_products(query.float(), 0.0)
    assert not suits_products(query, 0.1)
    assert not suits_products(query.to("meta"), 0.0)


@pytest.mark.parametrize("most_keys", [1024, 4])
def test_rows_in_bf16_attend_as_in_fp32(monkeypatch: pytest.MonkeyPatch, most_keys: int) -> None:
    monkeypatch.setattr("telltune.models.kernels.layout.MOST_KEYS", most_keys)
    layout = Layout(SEGMENTS)
    module: Any = SimpleNamespace(training=True)
    wanted, _ = attend(module, *row(), None, layout=layout)  # type: ignore[arg-type]
    found, _ = attend(module, *row(torch.bfloat16), None, layout=layout)  # type: ignore[arg-type]
    assert found.dtype == torch.bfloat16
    assert found.shape == wanted.shape
    torch.testing.assert_close(found.float(), wanted, atol=0.05, rtol=0.02)
