"""Generation without padding, with a prefix computed once, that drops finished sequences.

`transformers.generate` pads a batch to its longest prompt, computes a shared prefix per prompt,
and continues until the last sequence of the batch has ended. Here a pass over the model is one row
of tokens: the packed prompts of new sequences, or the next token of each running sequence.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from telltune.inference.key_values import KeyValues, attend
from telltune.models.kernels.attention import agrees, attention, tried_once
from telltune.models.kernels.decoder_layers import FusedLayers
from telltune.models.kernels.norms import FusedRMSNorm
from telltune.models.kernels.packing import LEAST_SHARED
from telltune.models.kernels.prepacked import Prepacked
from telltune.models.threads import adapt_threads, shared_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

__all__ = ["PackedGenerator", "can_generate_packed", "choose", "draft", "shared_length"]

NAME = "telltune_key_values"
# Above this number, the cost of a pass is proportional to its rows, so larger batches do not help.
MOST_ROWS = 128
# A pass over four rows costs a fifth more than a pass over one row.
MOST_DRAFTED = 3
_SORTED = 1024
"""Number of likeliest tokens that are sorted first to sample with top-p."""


@dataclass
class PackedGenerator:
    """Generator for models that `can_generate_packed`.

    Attributes:
        model: Causal language model, with or without an adapter; it must not change afterwards.
        batch_tokens: Number of tokens of all sequences in a batch, prompts included.
        pass_tokens: Number of prompt tokens computed in one pass.
    """

    model: Any
    batch_tokens: int = 8192
    pass_tokens: int = 1024
    _prefix: tuple[tuple[int, ...], dict[int, Any]] = field(default=((), {}), init=False)
    _packed: Prepacked | None = field(default=None, init=False)

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
        self.model.eval()
        if self._packed is None:
            self._packed = Prepacked(self.model, quick=_layer_backend(self.model) == "quick")
        attending = attention(self.model, NAME, attend)
        with shared_cores(), torch.inference_mode(), self._packed, attending:
            return self._generate(prompts, max_new_tokens, stop_ids, temperature, top_p, on_done)

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: set[int],
        temperature: float,
        top_p: float,
        on_done: Callable[[int], None] | None,
    ) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in prompts]
        prefix = self._shared_prefix(prompts)
        start = len(prefix)
        # The longest prompts come first, so that a lack of memory shows at once.
        waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        if not waiting or max_new_tokens < 1:
            return answers
        width = len(prompts[waiting[-1]]) - start + max_new_tokens
        rows = min(max(1, self.batch_tokens // width), MOST_ROWS, len(prompts))
        store = KeyValues(rows, width, self._prefix[1] if start else None)
        growing: list[int] = []
        reach = MOST_DRAFTED
        while waiting or growing:
            # New prompts start when half of the batch has ended, so that few passes are for them.
            if waiting and len(growing) <= rows // 2:
                new = self._next(waiting, prompts, start, rows - len(growing))
                logits = self._start(store, [list(prompts[i][start:]) for i in new])
                first = len(growing)
                growing += new
                chosen = [[token] for token in choose(logits, temperature, top_p)]
            elif len(growing) == 1 and temperature == 0:
                first = 0
                answer = answers[growing[0]]
                most = min(reach, max_new_tokens - len(answer) - 1)
                ahead = draft([*prompts[growing[0]], *answer], most)
                chosen = [self._try(store, [answer[-1], *ahead])]
                if ahead:
                    # The next guess is at most one token longer than the right part of this one,
                    # so that texts without repetition cost little more.
                    reach = min(len(chosen[0]), MOST_DRAFTED)
            else:
                first = 0
                logits = self._grow(store, [[answers[i][-1]] for i in growing])
                chosen = [[token] for token in choose(logits, temperature, top_p)]
            # Rows are visited from the last, so that a row moved to a free place is already done.
            for row in range(len(growing) - 1, first - 1, -1):
                i = growing[row]
                if _extend(answers[i], chosen[row - first], stop_ids, max_new_tokens):
                    store.remove(row)
                    growing[row] = growing[-1]
                    growing.pop()
                    if on_done is not None:
                        on_done(1)
        return answers

    def _try(self, store: KeyValues, tokens: list[int]) -> list[int]:
        """Compute a token and the guessed tokens after it, and return the greedy choices.

        The result has the right part of the guess and the first choice that differs from it. It is
        the same as with one pass per token.
        """
        chosen = choose(self._grow(store, [tokens]))
        right = 0
        while right < len(tokens) - 1 and chosen[right] == tokens[right + 1]:
            right += 1
        store.shorten(0, len(tokens) - 1 - right)
        return chosen[: right + 1]

    def _next(
        self, waiting: list[int], prompts: Sequence[Sequence[int]], start: int, room: int
    ) -> list[int]:
        """Take the longest waiting prompts that fit into one pass."""
        new = [waiting.pop()]
        tokens = len(prompts[new[0]]) - start
        while waiting and len(new) < room:
            tokens += len(prompts[waiting[-1]]) - start
            if tokens > self.pass_tokens:
                break
            new.append(waiting.pop())
        return new

    def _shared_prefix(self, prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Return the shared prefix of all prompts; it is computed once and kept for later calls."""
        kept, _ = self._prefix
        if kept and all(tuple(p[: len(kept)]) == kept and len(p) > len(kept) for p in prompts):
            return kept
        length = shared_length(prompts)
        if length < LEAST_SHARED:
            return ()
        prefix = tuple(prompts[0][:length])
        store = KeyValues(1, length)
        self._start(store, [list(prefix)])
        self._prefix = (prefix, store.as_prefix())
        return prefix

    def _start(self, store: KeyValues, prompts: list[list[int]]) -> Tensor:
        """Return the logits after each prompt, (prompts, vocabulary)."""
        lengths = [len(prompt) for prompt in prompts]
        places = [torch.arange(n) + store.prefix_length for n in lengths]
        store.start(lengths)
        ids = torch.tensor([token for prompt in prompts for token in prompt])
        return self._pass(store, ids, torch.cat(places), torch.tensor(lengths).cumsum(0) - 1)

    def _grow(self, store: KeyValues, tokens: list[list[int]]) -> Tensor:
        """Return the logits after each of the next tokens of all sequences, (tokens, vocabulary).

        Args:
            store: Cache of the sequences.
            tokens: Next tokens of each sequence, the same number for all.
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


def can_generate_packed(model: Any) -> bool:
    """Return whether this engine reproduces the model's logits, by running both."""
    return _layer_backend(model) is not None


@tried_once
def _layer_backend(model: Any) -> Literal["quick", "plain"] | None:
    """Return which decoder layers reproduce the model's logits: `quick`, `plain`, or None.

    `quick` layers are telltune's and `plain` layers the model's own. The engine computes two
    prompts with a common prefix and their next tokens. The logits must agree with those of the
    model on each whole text.
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    numbers = np.random.default_rng(0)
    opening = numbers.integers(0, vocabulary, LEAST_SHARED + 2).tolist()
    texts = [opening + numbers.integers(0, vocabulary, n).tolist() for n in (6, 4)]

    def grown() -> Tensor:
        engine = PackedGenerator(model)
        start = len(engine._shared_prefix(texts))
        store = KeyValues(len(texts), 8, engine._prefix[1])
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


def _extend(answer: list[int], tokens: list[int], stop_ids: set[int], longest: int) -> bool:
    """Append tokens to an answer and return whether it has ended."""
    for token in tokens:
        if token in stop_ids:
            return True
        answer.append(token)
        if len(answer) == longest:
            return True
    return False


def draft(tokens: Sequence[int], most: int) -> list[int]:
    """Guess the next tokens: those after the previous occurrence of the last two tokens.

    Answers repeat parts of their prompts and of themselves. A pass over a few rows costs little
    more than a pass over one, whose time is that of reading the weights (prompt lookup decoding).

    Args:
        tokens: Tokens of the prompt and the answer so far.
        most: Maximum number of guessed tokens.
    """
    last = tuple(tokens[-2:])
    for at in range(len(tokens) - 3, -1, -1):
        if tokens[at] == last[0] and tokens[at + 1] == last[1]:
            return list(tokens[at + 2 : at + 2 + most])
    return []


def choose(logits: Tensor, temperature: float = 0.0, top_p: float = 1.0) -> list[int]:
    """Return the next token of each sequence.

    Args:
        logits: Logits, (sequences, vocabulary).
        temperature: Sampling temperature; 0 means greedy decoding.
        top_p: Sample among the likeliest tokens that together have this probability.
    """
    tokens: list[int]
    if temperature == 0:
        tokens = logits.argmax(dim=-1).tolist()
        return tokens
    chances = torch.softmax(logits.float() / temperature, -1)
    if top_p < 1:
        chances = _likeliest(chances, top_p)
    # torch.multinomial draws one number per token of the vocabulary, which takes six times as long.
    # With sums in 32 bits the rarest tokens would never be drawn.
    below = chances.cumsum(-1, dtype=torch.float64)
    drawn = torch.rand(len(below), 1, dtype=below.dtype).to(below.device) * below[:, -1:]
    tokens = torch.searchsorted(below, drawn, right=True)[:, 0].tolist()
    return tokens


def _likeliest(chances: Tensor, share: float) -> Tensor:
    """Set all probabilities to 0 except those of the likeliest tokens, at least one.

    Sorting a whole vocabulary takes longer than a pass of a small model. Only the likeliest tokens
    are sorted if they have enough probability.
    """
    best, tokens = chances.topk(min(_SORTED, chances.shape[-1]))
    if bool((best.sum(-1) < share).any()):
        best, tokens = chances.sort(-1, descending=True)
    best = best.where(best.cumsum(-1) - best < share, 0.0)
    return torch.zeros_like(chances).scatter_(-1, tokens, best)
