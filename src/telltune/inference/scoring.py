"""Log-likelihoods of given responses and of the labels of a closed set, without training.

For labels, a row contains the shared prefix once, each prompt once, and the labels of a prompt side
by side after it. A label costs only its own tokens, and a label of one token only a look-up in the
logits.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.inference.packed_engine import shared_length, starts_with
from telltune.models.kernels.attention import packed_attention
from telltune.models.kernels.cut_loss import CutLoss, cut_loss
from telltune.models.kernels.layout import Layout, Segment
from telltune.models.kernels.lora import FusedLora
from telltune.models.kernels.packing import LEAST_SHARED, can_pack, pack, token_nll
from telltune.models.threads import adapt_threads, shared_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from telltune.data.encoded import EncodedSet

_LOGITS = 2**24
"""Number of logits of labels that are normalized at once."""


def response_nll(model: Any, encoded: EncodedSet, *, budget: int = 2048) -> torch.Tensor:
    """Return the summed negative log-likelihood of each response, in nats, (examples,).

    `budget` is the number of tokens per pass.
    """
    together = can_pack(model)
    rows = [encoded[i] for i in range(len(encoded))]
    sums = torch.zeros(len(rows), dtype=torch.float64)
    model.eval()
    attending = packed_attention(model) if together else nullcontext()
    with shared_cores(), torch.inference_mode(), FusedLora(model):
        cut = cut_loss(model)
        with attending:
            for batch in pack(rows, budget, together=together):
                adapt_threads()
                sums.index_add_(0, batch.rows, token_nll(model, batch, cut).double().cpu())
    return sums


def label_nll(
    model: Any,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    budget: int = 2048,
    on_done: Callable[[int], None] | None = None,
) -> Tensor:
    """Return the negative log-likelihood of each label after each prompt, (prompts, labels).

    Values are in nats, summed over the tokens of a label.

    Args:
        model: Causal language model, with or without an adapter.
        prompts: Token ids of each prompt, up to the start of the answer.
        labels: Token ids of each label, with the token that ends the turn.
        budget: Number of tokens per pass, without those that all prompts share.
        on_done: Callback that receives the number of prompts scored since its last call.
    """
    found = torch.zeros(len(prompts), len(labels), dtype=torch.float64)
    model.eval()
    if not can_pack(model):
        return _apart(model, prompts, labels, found, on_done)
    shared = shared_length(prompts)
    shared = shared if shared >= LEAST_SHARED else 0
    rows = list(_rows(prompts, labels, shared, budget))
    at_once = max(_LOGITS // int(model.config.get_text_config().vocab_size), 1)
    with shared_cores(), torch.inference_mode(), FusedLora(model):
        # It tries the model, which takes longer than the logits of a short row.
        cut = cut_loss(model) if any(len(row.kept) > at_once for row in rows) else None
        attending = packed_attention(model)
    with shared_cores(), torch.inference_mode(), FusedLora(model), attending:
        for row in rows:
            adapt_threads()
            found[row.items] = row.nll(model, cut, at_once)
            if on_done is not None:
                on_done(len(row.items))
    return found


def _apart(
    model: Any,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    found: Tensor,
    on_done: Callable[[int], None] | None,
) -> Tensor:
    """Compute every pair of prompt and label in a separate pass, if packing is not possible."""
    for i, prompt in enumerate(prompts):
        rows = [(np.asarray([*prompt, *label], np.int32), len(prompt)) for label in labels]
        with shared_cores(), torch.inference_mode():
            for j, batch in enumerate(pack(rows, 1, together=False)):
                found[i, j] = token_nll(model, batch).double().sum().cpu()
        if on_done is not None:
            on_done(1)
    return found


@dataclass
class PromptRow:
    """A row being filled: the shared prefix, then prompts, each followed by its labels."""

    labels: Sequence[Sequence[int]] = ()
    items: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    """Positions whose logits are needed."""
    looks: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Item, label, index of the kept position, and target token of each needed logit."""

    def add(self, tokens: Sequence[int], place: int, prefix: int = -1) -> int:
        """Append tokens to the row and return the index of their segment."""
        self.ids += tokens
        self.places += range(place, place + len(tokens))
        self.segments.append(Segment(len(tokens), prefix))
        return len(self.segments) - 1

    def add_behind(self, shared: Sequence[int], prompt: Sequence[int]) -> int:
        """Append a prompt to the shared prefix of the row, and return its end in the row.

        The tokenizer may merge the end of the prefix and the start of a prompt. Such a prompt
        stands alone.
        """
        start = len(shared) if shared and starts_with(prompt, shared) else 0
        self.add(prompt[start:], start, 0 if start else -1)
        return len(self.ids)

    def add_item(self, item: int, prompt: Sequence[int], shared: int) -> None:
        """Append a prompt and all labels to the row."""
        segment = self.add(prompt[shared:], shared, 0 if shared else -1)
        at = len(self.items)
        self.items.append(item)
        self.kept.append(len(self.ids) - 1)
        end_of_prompt = len(self.kept) - 1
        for number, label in enumerate(self.labels):
            # Nothing follows the last token of a label, so it is only a target.
            inputs = label[:-1]
            first = len(self.ids)
            if inputs:
                self.add(inputs, len(prompt), segment)
            self.kept += range(first, len(self.ids))
            seen = [end_of_prompt, *range(len(self.kept) - len(inputs), len(self.kept))]
            self.looks += [(at, number, k, t) for k, t in zip(seen, label, strict=True)]

    def outputs(self, model: Any, kept: list[int], **settings: Any) -> Any:
        """Return the model's outputs for the row, with logits at the positions `kept` only."""
        device = next(model.parameters()).device
        return model(
            input_ids=torch.tensor([self.ids], device=device),
            position_ids=torch.tensor([self.places], device=device),
            logits_to_keep=torch.tensor(kept, device=device),
            layout=Layout(self.segments),
            use_cache=False,
            **settings,
        )

    def nll(self, model: Any, cut: CutLoss | None, at_once: int) -> Tensor:
        """Return the sum over the tokens of each label, (items, labels).

        Args:
            model: Causal language model.
            cut: Its output layer without logits, from `cut_loss`; None computes all logits at once.
            at_once: Number of positions whose logits are normalized at once.
        """
        with cut or nullcontext():
            outputs = self.outputs(model, self.kept).logits[0]
        device = outputs.device
        items, numbers, kept, targets = torch.tensor(self.looks).T
        sums = torch.zeros(len(self.items), len(self.labels), dtype=torch.float64)
        for first in range(0, len(self.kept), at_once):
            part = outputs[first : first + at_once]
            likelihood = (part if cut is None else cut.logits(part)).float().log_softmax(-1)
            here = (kept >= first) & (kept < first + at_once)
            looked = -likelihood[(kept[here] - first).to(device), targets[here].to(device)]
            sums.index_put_((items[here], numbers[here]), looked.double().cpu(), accumulate=True)
        return sums


def _rows(
    prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], shared: int, budget: int
) -> Iterator[PromptRow]:
    """Yield rows of at most `budget` tokens after the shared prefix, or of one longer prompt."""
    each = sum(len(label) - 1 for label in labels)
    row: PromptRow | None = None
    for i, prompt in enumerate(prompts):
        if row is not None and len(row.ids) + len(prompt) - 2 * shared + each > budget:
            yield row
            row = None
        if row is None:
            row = PromptRow(labels)
            if shared:
                row.add(prompts[0][:shared], 0)
        row.add_item(i, prompt, shared)
    if row is not None:
        yield row
