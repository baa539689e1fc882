"""Gradients of single losses, sketched: which way each token would move the trained weights.

Quanta are found from the angles between such gradients (Michaud et al., arXiv 2303.13506, section
5). One gradient over the adapter of a model of 135M weights has five million numbers, so that a few
hundred do not fit into memory side by side, and computing each anew for every block of angles, as
the paper's code does, takes time quadratic in the tokens. A seeded count sketch keeps angles
instead: one pass, a few thousand numbers a token, and an error that is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.errors import ModelError
from telltune.models.packing import pack, token_nll

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from telltune.data.encoded import EncodedSet

__all__ = ["GradientSketch", "gradient_weights", "token_gradients"]

# Cosines are off by 1/128 at most, as a standard deviation.
_WIDTH = 2**14


class GradientSketch:
    """A seeded linear map of gradients to vectors of `width` numbers, which keeps their angles.

    Each number of a gradient is added, with a random sign, to a random one of `width` sums. The
    scalar product of two images is that of the gradients on average. For gradients of length 1 at
    cosine c its variance is at most (1 + c²) / width; that of the images' own cosine is about
    (1 - c²)² / width. A gradient of no more than `width` numbers is kept as it is.

    Source: Charikar, Chen and Farach-Colton (2002); the variance is that of Weinberger et al.
    (arXiv 0902.2206, lemma 2).

    Args:
        weights: What gradients are taken with regard to.
        width: Numbers that are kept.
        seed: Of the random sums and signs.
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
        """The sketched gradient of a scalar, (width,); the graph behind it stays for the next."""
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
    """The weights that are trained, without embeddings (of input and output) and norms.

    Those move with every token, whatever it takes to predict it.

    Raises:
        ModelError: Nothing else is trained.
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
            "quanta are found from gradients of trained weights other than embeddings and norms, "
            "and this model has none; name linear layers in `lora.target_modules`."
        )
    return chosen


def token_gradients(
    model: Any, encoded: EncodedSet, tokens: NDArray[np.int64], sketch: GradientSketch
) -> NDArray[np.float32]:
    """The sketched gradients of the losses of some response tokens.

    A forward pass an example, and a backward pass a token, through all tokens before it.

    Args:
        model: A causal language model; it computes without dropout here.
        encoded: The examples.
        tokens: Which of their response tokens, numbered over the whole set; ascending, (n,).
        sketch: Over weights of this model.

    Returns:
        (n, sketch.width).
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
