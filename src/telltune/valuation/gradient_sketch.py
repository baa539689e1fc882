"""Sketched gradients of single-token losses with respect to the trained weights.

Quanta are found from the angles between such gradients (Michaud et al., arXiv 2303.13506, section
5). One gradient over the adapter of a model with 135M weights has five million numbers, so a few
hundred of them do not fit into memory. The paper's code recomputes each gradient for every block of
angles, which takes time quadratic in the tokens. A seeded count sketch preserves angles with a
known error, in one pass and with a few thousand numbers per token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.errors import ModelError
from telltune.models.kernels.packing import pack, token_nll

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from telltune.data.encoded import EncodedSet

# The standard deviation of a cosine is at most 1/128.
_WIDTH = 2**14


class GradientSketch:
    """A seeded linear map of gradients to vectors of length `width` that preserves their angles.

    Each number of a gradient is added, with a random sign, to one of `width` sums chosen at random.
    The dot product of two sketches equals that of the gradients in expectation. For unit gradients
    with cosine c its variance is at most (1 + c²) / width. The variance of the sketches' own cosine
    is about (1 - c²)² / width. A gradient of at most `width` numbers is kept unchanged.

    Source: Charikar, Chen and Farach-Colton (2002); the variance is from Weinberger et al.
    (arXiv 0902.2206, lemma 2).

    Args:
        weights: Weights with respect to which gradients are taken.
        width: Maximum number of values of a sketch.
        seed: Seed of the random sums and signs.
    """

    def __init__(self, weights: Sequence[Tensor], *, width: int = _WIDTH, seed: int = 0) -> None:
        self.weights = list(weights)
        size = sum(weight.numel() for weight in self.weights)
        self.width = min(width, size)
        self._sums: Tensor | None = None
        if size > width:
            rng = np.random.default_rng(seed)
            device = self.weights[0].device
            self._sums = torch.from_numpy(rng.integers(0, width, size, np.int32)).to(device)
            self._signs = torch.from_numpy(rng.integers(0, 2, size, np.int8) * 2 - 1).to(device)

    def of(self, loss: Tensor) -> NDArray[np.float32]:
        """Return the sketched gradient of a scalar loss, (width,); its graph is retained."""
        gradients = torch.autograd.grad(
            loss, self.weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        flat = torch.cat([gradient.flatten() for gradient in gradients]).float()
        if self._sums is not None:
            empty = torch.zeros(self.width, device=flat.device)
            flat = empty.index_add_(0, self._sums, flat * self._signs)
        sketched: NDArray[np.float32] = flat.cpu().numpy()
        return sketched


def gradient_weights(model: nn.Module) -> list[nn.Parameter]:
    """Return the trained weights except input embeddings, output embeddings and norms.

    The excluded weights have a gradient for every token, whatever predicting the token requires.

    Raises:
        ModelError: No other weights are trained.
    """
    left_out: set[int] = set()
    for module in model.modules():
        kind = type(module).__name__.lower()
        if "embedding" in kind or "norm" in kind:
            left_out.update(id(weight) for weight in module.parameters())
    get_head: Any = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head is not None else None
    if head is not None:
        left_out.update(id(weight) for weight in head.parameters())
    chosen = [w for w in model.parameters() if w.requires_grad and id(w) not in left_out]
    if not chosen:
        raise ModelError(
            "quanta need gradients of trained weights other than embeddings and norms, and this "
            "model has none; list linear layers in `lora.target_modules`."
        )
    return chosen


def token_gradients(
    model: Any, encoded: EncodedSet, tokens: NDArray[np.int64], sketch: GradientSketch
) -> NDArray[np.float32]:
    """Return the sketched gradients of the losses of the given response tokens.

    This takes one forward pass per example and one backward pass per token, through all tokens
    before it.

    Args:
        model: A causal language model, which is set to evaluation mode.
        encoded: Encoded examples.
        tokens: Indices of response tokens, numbered over the whole set, ascending, (n,).
        sketch: Sketch over weights of this model.

    Returns:
        The sketched gradients, (n, sketch.width).
    """
    model.eval()
    found = np.empty((len(tokens), sketch.width), np.float32)
    last = np.cumsum(encoded.response_lengths)
    owners = np.searchsorted(last, tokens, side="right")
    for owner in np.unique(owners):
        [example] = pack([encoded[int(owner)]], 1, together=False)
        nll = token_nll(model, example)
        for place in np.flatnonzero(owners == owner):
            found[place] = sketch.of(nll[int(tokens[place] - last[owner])])
    return found
