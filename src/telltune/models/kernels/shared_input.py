"""Joint computation of layers that read the same input."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

__all__ = ["SharedInput", "same_input"]


class SharedInput:
    """Layers that read the same input; the first one called computes the outputs of all.

    Args:
        layers: Layers of a model.
        compute: Function from the input to the output of each layer.
    """

    def __init__(
        self, layers: Sequence[Any], compute: Callable[[Tensor], Sequence[Tensor]]
    ) -> None:
        self.layers = layers
        self._compute = compute
        self._input: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}

    def attach(self) -> None:
        """Replace the forward of the layers."""
        for number, layer in enumerate(self.layers):
            layer.forward = lambda x, number=number: self._forward(number, x)

    def detach(self) -> None:
        """Restore the forward of the layers."""
        self._input, self._waiting = None, {}
        for layer in self.layers:
            del layer.forward

    def _forward(self, number: int, x: Tensor) -> Tensor:
        if x is not self._input or number not in self._waiting:
            self._input, self._waiting = x, dict(enumerate(self._compute(x)))
        result = self._waiting.pop(number)
        if not self._waiting:
            self._input = None
        return result


def same_input(model: nn.Module, layers: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield groups of layers that read the same tensor, in the order of computation.

    The groups are found in a pass over two tokens. Layers that it does not reach are not included.
    """
    if not layers:
        return
    seen: list[tuple[Any, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args: seen.append((layer, args[0])))
        for layer in layers
    ]
    device = next(model.parameters()).device
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    times = Counter(layer for layer, _ in seen)
    # A layer that is called again with another input gets its own group.
    yield from ([layer] for layer, count in times.items() if count > 1)
    group: list[Any] = []
    shared: Tensor | None = None
    for layer, tensor in seen:
        if times[layer] > 1:
            continue
        if group and tensor is not shared:
            yield group
            group = []
        group.append(layer)
        shared = tensor
    if group:
        yield group
