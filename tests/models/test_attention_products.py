"""Attention as products: what PyTorch's own attention gives, and where it is used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from telltune.models import attention_products as module
from telltune.models.attention import Layout, Segment, visible
from telltune.models.attention import _attend as attend
from telltune.models.attention_products import attend_by_products, suits_products


def tile(tokens: int, before: int, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """Query, key, value, and the mask that hides what is to come."""
    torch.manual_seed(4)
    query = torch.randn(1, 6, tokens, 8).to(dtype).requires_grad_()
    key, value = (
        torch.randn(1, 2, before + tokens, 8).to(dtype).requires_grad_() for _ in range(2)
    )
    mask = torch.zeros(tokens, before + tokens)
    return query, key, value, mask.masked_fill_(~visible(tokens, before), float("-inf")).to(dtype)


def both(tensors: tuple[Any, ...], mask: Any) -> list[list[torch.Tensor]]:
    """Result and gradients of PyTorch's attention and of ours."""
    query, key, value, full = tensors
    upstream = torch.rand_like(query)
    results = (
        functional.scaled_dot_product_attention(
            query, key, value, attn_mask=full, scale=0.3, enable_gqa=True
        ),
        attend_by_products(query, key, value, mask, 0.3),
    )
    inputs = (query, key, value)
    return [[result, *torch.autograd.grad(result, inputs, upstream)] for result in results]


@pytest.mark.parametrize("block", [1, 3, 100])
@pytest.mark.parametrize("before", [0, 5])
def test_result_and_gradients_are_pytorchs(
    monkeypatch: pytest.MonkeyPatch, block: int, before: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    tensors = tile(7, before)
    for wanted, ours in zip(*both(tensors, tensors[3]), strict=True):
        torch.testing.assert_close(ours, wanted)


def test_without_a_mask_it_is_causal() -> None:
    for wanted, ours in zip(*both(tile(7, 0), None), strict=True):
        torch.testing.assert_close(ours, wanted)


def test_in_bf16_it_is_as_near_to_fp32_as_bf16_allows() -> None:
    exact, rounded = (
        both(tile(40, 9), tile(40, 9)[3]),
        both(tile(40, 9, torch.bfloat16), tile(40, 9, torch.bfloat16)[3]),
    )
    for wanted, kernel, ours in zip(exact[0], rounded[0], rounded[1], strict=True):
        theirs = (kernel.float() - wanted).norm() / wanted.norm()
        assert (ours.float() - wanted).norm() / wanted.norm() < max(2 * theirs, 0.01)


def test_only_bf16_on_a_cpu_without_dropout_and_not_too_long() -> None:
    query, key, *_ = tile(7, 0, torch.bfloat16)
    assert suits_products(query, key, 0.0)
    assert not suits_products(query.float(), key.float(), 0.0)
    assert not suits_products(query, key, 0.1)
    assert not suits_products(query, key.expand(1, 2, 7, 8).repeat(1, 1, 400, 1), 0.0)
    assert not suits_products(query.to("meta"), key.to("meta"), 0.0)


def test_rows_in_bf16_attend_as_in_fp32() -> None:
    query, key, value, _ = tile(30, 0)
    layout = Layout([Segment(9), Segment(6, 0), Segment(5, 0), Segment(10)])
    module = SimpleNamespace(training=True)
    wanted, _ = attend(module, query, key, value, None, layout=layout)  # type: ignore[arg-type]
    narrow = (t.bfloat16() for t in (query, key, value))
    found, _ = attend(module, *narrow, None, layout=layout)  # type: ignore[arg-type]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=0.05, rtol=0.02)
