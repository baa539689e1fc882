"""Packing of many examples into one sequence, with shared prefixes and without padding.

Examples are concatenated in a row of tokens. Positions restart at each example and attention is
confined to it, so the result equals that of separate computation. A common start of examples (the
system text, the anchor) is stored once per row. Under causal attention its states do not depend on
later tokens, so all examples can attend to it, and their gradients add up. Logits are computed at
response positions only: over a vocabulary of 50,000 they cost more than several layers of a small
model.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from telltune.models.kernels.attention import agrees, packed_attention, tried_once
from telltune.models.kernels.layout import CHUNK, Layout, Segment

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from telltune.models.kernels.cut_loss import CutLoss

# Minimum number of tokens for which a shared prefix is worth its own segment.
LEAST_SHARED = 8


@dataclass(frozen=True)
class PackedBatch:
    """A row of packed examples.

    Attributes:
        input_ids: Token ids, int64 (1, tokens).
        position_ids: Position of each token in its own example, int64 (1, tokens).
        layout: Segments of the row: shared prefixes, and examples without their prefix.
        positions: Positions whose logits predict a response token, int64 (targets,).
        targets: Response tokens, int64 (targets,).
        rows: Index of each target's example in the caller's list, int64 (targets,).
        tokens: Number of tokens of the examples, without the filler at the end of the row.
        asks: Index of the example in whose prompt each token is, int64 (1, tokens). A shared prefix
            has the index of the first example that shares it; responses and filler are -1.
    """

    input_ids: Tensor
    position_ids: Tensor
    layout: Layout
    positions: Tensor
    targets: Tensor
    rows: Tensor
    tokens: int
    asks: Tensor


def pack(
    rows: Sequence[tuple[NDArray[np.int32], int]],
    budget: int,
    *,
    sources: Sequence[Hashable] | None = None,
    together: bool = True,
) -> list[PackedBatch]:
    """Pack examples into rows of at most `budget` tokens by first-fit decreasing.

    Rows are padded to a multiple of `CHUNK` tokens, because some libraries compile and keep a
    kernel for each row length.

    Args:
        rows: Token ids of each example, (length,), and the number of leading tokens without loss.
        budget: Maximum number of tokens of examples in a row; a longer example gets its own row.
        sources: Key of each example. Only examples with the same key share a prefix. Task examples
            have an anchor that general examples lack, and differently scaled embeddings are
            different prefixes.
        together: Whether to pack; False gives one row per example, for models without packing.
    """
    if not together:
        return [_row([(i, *row)], {i: (0, 0)}, fill=False) for i, row in enumerate(rows)]
    shared = _shared_prefixes(rows, sources or [0] * len(rows))
    bins: list[list[int]] = []
    used: list[int] = []
    groups: list[set[int]] = []
    # Longest first, so that short examples fill the remaining space of each row.
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i][0])):
        group, prefix = shared[i]
        rest = len(rows[i][0]) - prefix
        for b, members in enumerate(bins):
            cost = rest + (0 if group in groups[b] else prefix)
            if used[b] + cost <= budget:
                members.append(i)
                used[b] += cost
                groups[b].add(group)
                break
        else:
            bins.append([i])
            used.append(rest + prefix)
            groups.append({group})
    return [
        # The members of a group are adjacent and follow the prefix that they share.
        _row(
            [(i, *rows[i]) for i in sorted(members, key=lambda i: shared[i][0])], shared, fill=True
        )
        for members in bins
    ]


def _shared_prefixes(
    rows: Sequence[tuple[NDArray[np.int32], int]], sources: Sequence[Hashable]
) -> dict[int, tuple[int, int]]:
    """Return for each example the number of its group and the length of the group's prefix.

    A prefix ends before the last token of every prompt in the group. The logits of that token
    predict the response, so it belongs to the example.
    """
    members: dict[tuple[Hashable, bytes], list[int]] = {}
    for i, (ids, prompt_length) in enumerate(rows):
        opening = np.asarray(ids[:LEAST_SHARED], np.int32).tobytes()
        key = (sources[i], opening if prompt_length > LEAST_SHARED else b"%d" % i)
        members.setdefault(key, []).append(i)
    shared: dict[int, tuple[int, int]] = {}
    for group, indices in enumerate(members.values()):
        first = rows[indices[0]][0]
        length = min(rows[i][1] for i in indices) - 1 if len(indices) > 1 else 0
        for i in indices[1:]:
            differs = np.flatnonzero(rows[i][0][:length] != first[:length])
            length = int(differs[0]) if len(differs) else length
        shared |= dict.fromkeys(indices, (group, max(length, 0)))
    return shared


def _row(
    members: list[tuple[int, NDArray[np.int32], int]],
    shared: dict[int, tuple[int, int]],
    *,
    fill: bool,
) -> PackedBatch:
    segments: list[Segment] = []
    ids, places, positions, targets, owners, asks = [], [], [], [], [], []
    prefixes: dict[int, int] = {}
    end = 0
    for row, example, prompt_length in members:
        # Copy, because arrays mapped from the cache are read-only and `as_tensor` warns about it.
        tokens = torch.tensor(np.asarray(example), dtype=torch.int64)
        group, prefix = shared[row]
        if prefix and group not in prefixes:
            prefixes[group] = len(segments)
            segments.append(Segment(prefix))
            ids.append(tokens[:prefix])
            places.append(torch.arange(prefix))
            asks.append(torch.full((prefix,), row))
            end += prefix
        length = len(tokens)
        segments.append(Segment(length - prefix, prefixes[group] if prefix else -1))
        ids.append(tokens[prefix:])
        places.append(torch.arange(prefix, length))
        # The logits at a position predict the next token. No position predicts the first token.
        first = max(prompt_length, 1)
        positions.append(torch.arange(first - 1, length - 1) + (end - prefix))
        targets.append(tokens[first:])
        owners.append(torch.full((length - first,), row))
        own = max(prompt_length - prefix, 0)
        asks += [torch.full((own,), row), torch.full((length - prefix - own,), -1)]
        end += length - prefix
    if filler := -end % CHUNK if fill else 0:
        segments.append(Segment(filler))
        ids.append(torch.zeros(filler, dtype=torch.int64))
        places.append(torch.arange(filler))
        asks.append(torch.full((filler,), -1))
    return PackedBatch(
        torch.cat(ids)[None],
        torch.cat(places)[None],
        Layout(segments),
        torch.cat(positions),
        torch.cat(targets),
        torch.cat(owners),
        end,
        torch.cat(asks)[None],
    )


def token_nll(model: nn.Module, batch: PackedBatch, cut: CutLoss | None = None) -> Tensor:
    """Return the negative log-likelihood of each target in nats, fp32 (targets,).

    Call it inside `packed_attention(model)` if the batch has more than one example.

    Args:
        model: Causal language model.
        batch: Packed examples.
        cut: Loss without logits, from `cut_loss`; None computes logits.
    """
    device = next(model.parameters()).device
    with cut or nullcontext():
        logits = model(
            input_ids=batch.input_ids.to(device),
            position_ids=batch.position_ids.to(device),
            logits_to_keep=batch.positions.to(device),
            layout=batch.layout,
            use_cache=False,
        ).logits[0]
    if len(logits) != len(batch.positions):
        # Some architectures ignore `logits_to_keep` and return the logits of all positions.
        logits = logits[batch.positions.to(device)]
    targets = batch.targets.to(device)
    if cut is not None:
        return cut.nll(logits, targets)
    return functional.cross_entropy(logits.float(), targets, reduction="none")


@tried_once
def can_pack(model: Any) -> bool:
    """Return whether a model gives the same losses for packed and for separate examples.

    Architectures differ in how information passes between positions (recurrent state, chunks of
    attention). The function compares three short examples, packed and separate.
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    generator = np.random.default_rng(0)
    opening = generator.integers(0, vocabulary, LEAST_SHARED + 4)
    # Two examples share their start; the third does not.
    rows = [
        (np.concatenate([start, generator.integers(0, vocabulary, n)]).astype(np.int32), 14)
        for start, n in ((opening, 9), (opening, 5), (opening[::-1], 7))
    ]
    return agrees(
        model,
        packed_attention(model),
        lambda: token_nll(model, pack(rows, 64)[0]),
        lambda: torch.cat([token_nll(model, row) for row in pack(rows, 64, together=False)]),
    ) and _keeps_apart(model, pack(rows[1:], 64)[0])


def _keeps_apart(model: Any, batch: PackedBatch) -> bool:
    """Return whether the loss of the second of two examples has zero gradient in the first.

    With small weights, short convolutions and decaying states leak too little between examples to
    show in a comparison of losses.
    """
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: object, embedded: Tensor) -> Tensor:
        kept.append(embedded.detach().requires_grad_())
        return kept[-1]

    was_training = model.training
    model.train(False)
    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        with torch.inference_mode(False), torch.enable_grad(), packed_attention(model):
            nll = token_nll(model, batch)[batch.rows == batch.rows[-1]]
            (gradient,) = torch.autograd.grad(nll.sum(), kept[0])
    finally:
        hook.remove()
        model.train(was_training)
    first = int((batch.position_ids[0] == 0).nonzero()[1])
    return not gradient[0, :first].any()
