"""Generation without padding, with a prefix computed once, that drops finished sequences.

`transformers.generate` pads a batch to its longest prompt, computes a shared prefix per prompt,
and continues until the last sequence of the batch has ended. Here a pass over the model is one row
of tokens: the packed prompts of new sequences, or the next token of each running sequence.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from telltune.inference.key_values import KeyValues, attend
from telltune.inference.next_tokens import Row, choose, chosen, draft, penalized
from telltune.models.kernels.attention import agrees, attention, tried_once
from telltune.models.kernels.decoder_layers import FusedLayers
from telltune.models.kernels.norms import FusedRMSNorm
from telltune.models.kernels.packing import LEAST_SHARED
from telltune.models.kernels.prepacked import Prepacked
from telltune.models.threads import adapt_threads, shared_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

NAME = "telltune_key_values"
# Above this number, the cost of a pass is proportional to its rows, so larger batches do not help.
MOST_ROWS = 128
# A pass over four rows costs a fifth more than a pass over one row.
MOST_DRAFTED = 3

# Tokens of a shared prefix, and its keys and values by layer.
_Prefix = tuple[tuple[int, ...], dict[int, Any]]


@dataclass
class PackedGenerator:
    """Generator for models with a `layer_backend`.

    It applies the repetition penalty of the model's `generation_config`.

    Attributes:
        model: Causal language model, with or without an adapter; it must not change afterwards.
        batch_tokens: Number of tokens of all sequences in a batch, prompts included.
        pass_tokens: Number of prompt tokens computed in one pass.
    """

    model: Any
    batch_tokens: int = 8192
    pass_tokens: int = 1024
    _prefix: _Prefix = field(default=((), {}), init=False)
    _last: Sequence[int] = field(default=(), init=False)
    _packed: Prepacked | None = field(default=None, init=False)

    @property
    def penalty(self) -> float:
        """Repetition penalty; 1 for none."""
        config = getattr(self.model, "generation_config", None)
        return getattr(config, "repetition_penalty", None) or 1.0

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_ids: set[int],
        temperature: float = 0.0,
        top_p: float = 1.0,
        on_done: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """Continue each prompt; see `Generator.generate`."""
        rows = [Row(prompt, max_new_tokens, stop_ids, temperature, top_p) for prompt in prompts]
        if rows and max_new_tokens > 0:
            with self.computing():
                self._continue(rows, on_done)
        return [row.answer for row in rows]

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Enter the state in which batches compute; the model is otherwise unchanged."""
        self.model.eval()
        if self._packed is None:
            self._packed = Prepacked(self.model, quick=layer_backend(self.model) == "quick")
        attending = attention(self.model, NAME, attend)
        with shared_cores(), torch.inference_mode(), self._packed, attending:
            yield

    def batch(self, prefix: Sequence[int] = ()) -> PackedBatch:
        """Return a new batch for prompts that start with a prefix; within `computing`."""
        return PackedBatch(self, self._computed(tuple(prefix)))

    def _continue(self, rows: list[Row], on_done: Callable[[int], None] | None) -> None:
        prefix = self._shared_prefix([row.prompt for row in rows])
        # The longest prompts come first, so that a lack of memory shows at once.
        waiting = deque(sorted(rows, key=lambda row: len(row.prompt))[::-1])
        width = len(waiting[0].prompt) - len(prefix[0]) + waiting[0].max_new_tokens
        most = min(max(1, self.batch_tokens // width), MOST_ROWS, len(rows))
        batch = PackedBatch(self, prefix, (most, width))
        while waiting or batch.rows:
            # New prompts start when half of the batch has ended, so that few passes are for them.
            if waiting and len(batch.rows) <= most // 2:
                moved = batch.start(batch.take(waiting, most))
            else:
                moved = batch.grow()
            for row in moved:
                if row.end is not None and on_done is not None:
                    on_done(1)

    def _shared_prefix(self, prompts: Sequence[Sequence[int]]) -> _Prefix:
        """Return a prefix that all prompts share; it is computed once and kept for later calls.

        A single prompt is compared with the one before it. A kept prefix is used until one of twice
        its length is shared.
        """
        kept = self._prefix[0]
        if any(not starts_with(prompt, kept) for prompt in prompts):
            kept = ()
        length = shared_length(prompts if len(prompts) > 1 else [*prompts, self._last])
        self._last = prompts[0]
        if length >= max(LEAST_SHARED, 2 * len(kept)):
            self._prefix = self._computed(tuple(prompts[0][:length]))
        elif not kept:
            return (), {}
        return self._prefix

    def _computed(self, prefix: tuple[int, ...]) -> _Prefix:
        if not prefix:
            return prefix, {}
        store = KeyValues(1, len(prefix))
        self._start(store, [list(prefix)])
        return prefix, store.as_prefix()

    def _start(self, store: KeyValues, prompts: list[list[int]]) -> Tensor:
        """Return the logits after each prompt, (prompts, vocabulary)."""
        lengths = [len(prompt) for prompt in prompts]
        places = [torch.arange(n) + store.prefix_length for n in lengths]
        store.start(lengths)
        ids = torch.tensor([token for prompt in prompts for token in prompt])
        return self._pass(store, ids, torch.cat(places), torch.tensor(lengths).cumsum(0) - 1)

    def _grow(self, store: KeyValues, tokens: list[list[int]]) -> Tensor:
        """Return the logits after each of the next tokens of all sequences, (tokens, vocabulary).

        `tokens` has the next tokens of each sequence, the same number for all.
        """
        count = len(tokens[0])
        places = torch.tensor(store.lengths)[:, None] + store.prefix_length + torch.arange(count)
        store.grow(count)
        ids = torch.tensor(tokens)
        return self._pass(store, ids.flatten(), places.flatten(), torch.arange(ids.numel()))

    def _pass(self, store: KeyValues, ids: Tensor, places: Tensor, keep: Tensor) -> Tensor:
        adapt_threads()
        device = next(self.model.parameters()).device
        logits: Tensor = self.model(
            input_ids=ids[None].to(device),
            position_ids=places[None].to(device),
            logits_to_keep=keep.to(device),
            use_cache=False,
            key_values=store,
        ).logits[0]
        store.done()
        return logits


class PackedBatch:
    """Rows that grow together, and join and leave between passes.

    Its methods are called within `PackedGenerator.computing`.

    Attributes:
        rows: Rows that have started and not ended.

    Args:
        engine: Engine that computes the passes.
        prefix: Tokens with which every prompt starts, and their keys and values.
        size: Rows and tokens, without the prefix, for which memory is reserved at once.
    """

    def __init__(
        self, engine: PackedGenerator, prefix: _Prefix, size: tuple[int, int] = (0, 0)
    ) -> None:
        self.rows: list[Row] = []
        self._engine = engine
        self._prefix = prefix[0]
        self._store = KeyValues(*size, prefix[1])
        self._reach = MOST_DRAFTED

    def take(self, waiting: deque[Row], most: int) -> list[Row]:
        """Take the first waiting rows that fit into one pass and into a batch of `most` rows."""
        new: list[Row] = []
        tokens, width = 0, self._width(self.rows)
        while waiting and len(self.rows) + len(new) < most:
            row = waiting[0]
            tokens += len(row.prompt) - len(self._prefix)
            width = max(width, self._width([row]))
            count = len(self.rows) + len(new) + 1
            if new and tokens > self._engine.pass_tokens:
                break
            # A row that is too long for any batch is computed alone.
            if count > 1 and count * width > self._engine.batch_tokens:
                break
            new.append(waiting.popleft())
        return new

    def start(self, new: list[Row]) -> list[Row]:
        """Compute the prompts and the first tokens of new rows, and return these rows."""
        if not new:
            return []
        rows = [*self.rows, *new]
        self._store.reserve(len(rows), self._width(rows))
        skipped = len(self._prefix)
        logits = self._engine._start(self._store, [list(row.prompt[skipped:]) for row in new])
        first, self.rows = len(self.rows), rows
        return self._extend(first, self._choose(new, logits))

    def grow(self) -> list[Row]:
        """Compute the next token of each row, of a single row perhaps several; return the rows."""
        alone = len(self.rows) == 1 and self.rows[0].temperature == 0
        if alone and self._engine.penalty == 1:
            return self._extend(0, [self._grow_one(self.rows[0])])
        logits = self._engine._grow(self._store, [[row.answer[-1]] for row in self.rows])
        return self._extend(0, self._choose(self.rows, logits))

    def leave(self, row: Row) -> None:
        """Remove a row that has not ended."""
        self._remove(self.rows.index(row))

    def _choose(self, rows: list[Row], logits: Tensor) -> list[list[int]]:
        logits = penalized(rows, logits, self._engine.penalty)
        return [[token] for token in chosen(rows, logits)]

    def _grow_one(self, row: Row) -> list[int]:
        most = min(self._reach, row.max_new_tokens - len(row.answer) - 1)
        ahead = draft([*row.prompt, *row.answer], most)
        chosen = self._try([row.answer[-1], *ahead])
        if ahead:
            # The next guess is at most one token longer than the right part of this one, so that
            # texts without repetition cost little more.
            self._reach = min(len(chosen), MOST_DRAFTED)
        return chosen

    def _try(self, tokens: list[int]) -> list[int]:
        """Compute a token and the guessed tokens after it, and return the greedy choices.

        The result has the right part of the guess and the first choice that differs from it. It is
        the same as with one pass per token.
        """
        chosen = choose(self._engine._grow(self._store, [tokens]))
        right = 0
        while right < len(tokens) - 1 and chosen[right] == tokens[right + 1]:
            right += 1
        self._store.lengths[0] -= len(tokens) - 1 - right
        return chosen[: right + 1]

    def _extend(self, first: int, chosen: list[list[int]]) -> list[Row]:
        """Append tokens to the rows from `first` on, remove those that end, and return all."""
        moved = self.rows[first:]
        # Rows are visited from the last, so that a row moved to a free place is already done.
        for index in range(len(self.rows) - 1, first - 1, -1):
            self.rows[index].extend(chosen[index - first])
            if self.rows[index].end is not None:
                self._remove(index)
        return moved

    def _remove(self, index: int) -> None:
        self._store.remove(index)
        last = self.rows.pop()
        if index < len(self.rows):
            self.rows[index] = last

    def _width(self, rows: list[Row]) -> int:
        """Return the number of tokens that the largest row may need, without the prefix."""
        skipped = len(self._prefix)
        return max((len(r.prompt) - skipped + r.max_new_tokens for r in rows), default=0)


@tried_once
def layer_backend(model: Any) -> Literal["quick", "plain"] | None:
    """Return the decoder layers with which this engine reproduces the model's logits, if any.

    `quick` layers are telltune's, and `plain` layers the model's own. The engine computes two
    prompts with a common prefix and their next tokens. The logits must agree with those of the
    model on each whole text.
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    numbers = np.random.default_rng(0)
    opening = numbers.integers(0, vocabulary, LEAST_SHARED + 2).tolist()
    texts = [opening + numbers.integers(0, vocabulary, n).tolist() for n in (6, 4)]

    def grown() -> Tensor:
        engine = PackedGenerator(model)
        prefix, before = engine._shared_prefix(texts)
        start = len(prefix)
        store = KeyValues(len(texts), 8, before)
        engine._start(store, [text[start:-2] for text in texts])
        return engine._grow(store, [text[-2:] for text in texts])[1::2]

    def whole() -> Tensor:
        ids = [torch.tensor([text], device=model.device) for text in texts]
        return torch.stack([model(row).logits[0, -1] for row in ids])

    if not agrees(model, attention(model, NAME, attend), grown, whole):
        return None
    return "quick" if agrees(model, _with_quick_layers(model), grown, whole) else "plain"


@contextmanager
def _with_quick_layers(model: Any) -> Iterator[None]:
    def beside(*layers: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([layer(x) for layer in layers], -1)

    with attention(model, NAME, attend), FusedRMSNorm(model), FusedLayers(model, beside):
        yield


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Return the length of the prompts' shared prefix, which leaves each at least one token."""
    if len(prompts) < 2:
        return 0
    ordered = sorted(list(prompt) for prompt in prompts)
    first, last = ordered[0], ordered[-1]  # All others are between them, so share their prefix.
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return min(shared, min(len(p) for p in prompts) - 1)


def starts_with(prompt: Sequence[int], prefix: Sequence[int]) -> bool:
    """Return whether a prompt starts with a prefix and has more tokens."""
    return len(prompt) > len(prefix) and tuple(prompt[: len(prefix)]) == tuple(prefix)
