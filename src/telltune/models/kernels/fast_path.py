"""One door to the fast paths of training: which a model can use, and how to turn them on."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from telltune.models.kernels.attention import packed_attention
from telltune.models.kernels.cut_loss import cut_loss
from telltune.models.kernels.lora import FusedLora
from telltune.models.kernels.norms import FusedRMSNorm
from telltune.models.kernels.packing import can_pack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

Kernels: TypeAlias = Literal["auto", "off"]


class FastPath:
    """Fast paths of a model with an adapter.

    Args:
        model: Any causal language model.
        kernels: `auto` takes every fast path that gives the model's own values; `off` takes none.
        fused: Whether layers and loss may be replaced. They hold copies of weights, and cannot be
            differentiated twice.

    Attributes:
        packed: Whether several examples share a row.
        cut_loss: Loss that never holds all logits; None for the model's own.
    """

    def __init__(self, model: Any, kernels: Kernels = "auto", *, fused: bool = True) -> None:
        self._model = model
        self.packed = kernels == "auto" and can_pack(model)
        fused = fused and kernels == "auto"
        self.cut_loss = cut_loss(model) if fused else None
        self._layers: list[AbstractContextManager[Any]] = (
            [FusedLora(model), FusedRMSNorm(model)] if fused else []
        )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Replace layers and attention within a `with` block."""
        with ExitStack() as stack:
            for layers in self._layers:
                stack.enter_context(layers)
            if self.packed:
                stack.enter_context(packed_attention(self._model))
            yield
