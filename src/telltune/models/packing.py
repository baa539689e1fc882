"""Many examples as one sequence: no padding, and logits only where the loss looks.

Examples of different lengths stand one after another in a row of tokens; positions restart with
each and attention stays inside each, so the result is that of computing them apart. Logits over a
vocabulary of 50,000 cost more than several layers of a small model, and only response positions
need them.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

__all__ = ["PackedBatch", "can_pack", "pack", "packed_attention", "token_nll"]

ATTENTION = "telltune_packed"


@dataclass(frozen=True)
class PackedBatch:
    """A row of examples.

    Attributes:
        input_ids: int64 (1, tokens).
        position_ids: int64 (1, tokens), from 0 in each example.
        segments: Where each example starts, and where the last one ends.
        positions: int64 (targets,), the positions whose logits predict a response token.
        targets: int64 (targets,), the response tokens.
        rows: int64 (targets,), which example of the caller's list each target belongs to.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: tuple[int, ...]
    positions: Tensor
    targets: Tensor
    rows: Tensor


def pack(
    rows: Sequence[tuple[NDArray[np.int32], int]], budget: int, *, together: bool = True
) -> list[PackedBatch]:
    """Pack examples into as few rows of at most `budget` tokens as first-fit-decreasing finds.

    Args:
        rows: The ids of each example, (length,), and how many of them carry no loss.
        budget: Tokens in a row; a longer example has a row of its own.
        together: False keeps each example apart, for models that cannot be packed.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    # The longest first: what is left of each row is then filled with short ones.
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i][0])):
        length = len(rows[i][0])
        place = next((b for b, free in enumerate(room) if free >= length), None)
        if place is None or not together:
            bins.append([i])
            room.append(budget - length)
        else:
            bins[place].append(i)
            room[place] -= length
    return [_row([(i, *rows[i]) for i in members]) for members in bins]


def _row(members: list[tuple[int, NDArray[np.int32], int]]) -> PackedBatch:
    segments = [0]
    ids, places, positions, targets, owners = [], [], [], [], []
    for row, example, prompt_length in members:
        tokens = torch.as_tensor(example, dtype=torch.int64)
        start, length = segments[-1], len(tokens)
        segments.append(start + length)
        ids.append(tokens)
        places.append(torch.arange(length))
        # The logits at a position predict the token after it; the first token has none before it.
        first = max(prompt_length, 1)
        positions.append(torch.arange(start + first - 1, start + length - 1))
        targets.append(tokens[first:])
        owners.append(torch.full((length - first,), row))
    return PackedBatch(
        torch.cat(ids)[None],
        torch.cat(places)[None],
        tuple(segments),
        torch.cat(positions),
        torch.cat(targets),
        torch.cat(owners),
    )


def token_nll(model: nn.Module, batch: PackedBatch) -> Tensor:
    """The negative log-likelihood of each target, in nats, fp32 (targets,).

    Call it inside `packed_attention(model)` when the batch holds more than one example.
    """
    device = next(model.parameters()).device
    logits = model(
        input_ids=batch.input_ids.to(device),
        position_ids=batch.position_ids.to(device),
        logits_to_keep=batch.positions.to(device),
        segments=batch.segments,
        use_cache=False,
    ).logits[0]
    return functional.cross_entropy(logits.float(), batch.targets.to(device), reduction="none")


@contextmanager
def packed_attention(model: Any) -> Iterator[None]:
    """Let a model attend within examples only, while this lasts."""
    _register()
    before = model.config._attn_implementation
    model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        model.config._attn_implementation = before


def can_pack(model: Any) -> bool:
    """Whether packing gives this model what computing examples apart gives; tried, not guessed.

    Architectures differ in what passes between positions (recurrent state, attention sinks, soft
    caps). Two short rows of tokens, packed and apart, tell.
    """
    import numpy as np

    vocabulary = int(model.config.get_text_config().vocab_size)
    generator = np.random.default_rng(0)
    rows = [(generator.integers(0, vocabulary, n).astype(np.int32), 2) for n in (12, 7)]
    was_training = model.training
    model.train(False)
    try:
        with torch.no_grad(), packed_attention(model):
            packed = token_nll(model, pack(rows, 64)[0])
        with torch.no_grad():
            apart = torch.cat([token_nll(model, b) for b in pack(rows, 64, together=False)])
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        logging.getLogger(__name__).info("This model is not packed: %s", error)
        return False
    finally:
        model.train(was_training)
    # bf16 rounds to three digits; a leak between examples changes whole nats.
    return bool(torch.allclose(packed, apart, rtol=0.02, atol=0.02))


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attend)
    # Attention is confined by `_attend`; a mask over all tokens of a row would be built in vain.
    AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - the interface of transformers
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: tuple[int, ...] = (),
    **_: object,
) -> tuple[Tensor, None]:
    """Causal attention within each segment.

    Shapes: query (1, heads, tokens, width), key and value (1, key heads, tokens, width); returns
    (1, tokens, heads, width).
    """
    grouped = key.shape[1] != query.shape[1]
    parts = []
    for start, stop in itertools.pairwise(segments):
        length = stop - start
        mask = None
        if sliding_window is not None and length > sliding_window:
            distance = torch.arange(length)[:, None] - torch.arange(length)[None]
            mask = ((distance >= 0) & (distance < sliding_window)).to(query.device)
        parts.append(
            functional.scaled_dot_product_attention(
                query[:, :, start:stop],
                key[:, :, start:stop],
                value[:, :, start:stop],
                attn_mask=mask,
                dropout_p=dropout if module.training else 0.0,
                is_causal=mask is None,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None
