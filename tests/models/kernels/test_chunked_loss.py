"""The chunked loss has the values and gradients of the loss on all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from telltune.models.kernels import cut_loss as module
from telltune.models.kernels.cut_loss import chunked_cross_entropy

VOCABULARY = 37


def layer(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(2)
    hidden = torch.randn(11, 8).to(dtype).requires_grad_()
    return hidden, torch.randn(VOCABULARY, 8).to(dtype), torch.randint(VOCABULARY, (11,))


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(
    ("products", "normalized", "multiple"),
    [(2**24, 2**21, 16), (5, 2, 1), (4, 4, 4), (5, 3, 2), (1, 3, 1)],
)
def test_loss_and_gradient_are_those_of_all_logits(
    monkeypatch: pytest.MonkeyPatch,
    products: int,
    normalized: int,
    multiple: int,
    softcap: float | None,
) -> None:
    monkeypatch.setattr(module, "_MULTIPLE", multiple)
    monkeypatch.setattr(module, "_LOGITS", products * VOCABULARY)
    monkeypatch.setattr(module, "_NORMALIZED", normalized * VOCABULARY)
    hidden, weight, targets = layer(torch.float32)
    upstream = torch.rand(11)
    logits = hidden @ weight.t()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    wanted = functional.cross_entropy(logits, targets, reduction="none")
    (gradient,) = torch.autograd.grad(wanted, hidden, upstream)
    found = chunked_cross_entropy(hidden, weight, targets, softcap)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, hidden, upstream)[0], gradient)


def test_products_have_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    linear = functional.linear

    def counted(part: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return linear(part, weight)

    monkeypatch.setattr(module.functional, "linear", counted)
    monkeypatch.setattr(module, "_LOGITS", 40 * VOCABULARY)
    for count in (1, 11, 40, 50):
        hidden = torch.randn(count, 8)
        assert (
            len(
                chunked_cross_entropy(
                    hidden, torch.randn(VOCABULARY, 8), torch.zeros(count, dtype=torch.int64)
                )
            )
            == count
        )
    assert sizes == [16, 16, 32, 16, 32, 32]


def test_without_a_gradient_the_loss_is_the_same() -> None:
    hidden, weight, targets = layer(torch.float32)
    wanted = chunked_cross_entropy(hidden, weight, targets)
    with torch.no_grad():
        torch.testing.assert_close(chunked_cross_entropy(hidden, weight, targets), wanted)


def test_in_bf16_the_gradient_of_a_token_that_is_all_but_certain_is_kept() -> None:
    hidden, weight, targets = layer(torch.bfloat16)
    with torch.no_grad():
        # States in the direction of the target's weight make the target almost certain.
        hidden.copy_(weight[targets] * 1.2)
    exact = hidden.detach().float().requires_grad_()
    wanted = functional.cross_entropy(exact @ weight.float().t(), targets, reduction="none")
    assert wanted.min() < 1e-2
    (gradient,) = torch.autograd.grad(wanted.sum(), exact)
    found = chunked_cross_entropy(hidden, weight, targets)
    (ours,) = torch.autograd.grad(found.sum(), hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0.05)
    apart = (ours.float() - gradient).norm(dim=1) / gradient.norm(dim=1)
    assert apart.max() < 0.1


def test_extreme_logits_stay_numbers() -> None:
    hidden = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]])
    found = chunked_cross_entropy(hidden, weight, torch.tensor([1, 0]))
    assert found.tolist() == [600.0, 600.0]
    assert torch.autograd.grad(found.sum(), hidden)[0].tolist() == [[2.0], [-2.0]]
