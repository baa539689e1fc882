"""From examples to token ids: the chat template and the loss boundary."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from telltune.data.encoded import EncodedSet
from telltune.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from transformers import PreTrainedTokenizerBase

    from telltune.data.examples import Example

__all__ = ["EncodedSet", "Encoder", "control_tokens"]

# Tokenized at once, whichever comes first: enough to keep the tokenizer's threads busy. It takes
# some 100 bytes for a token while it works, so long texts come in smaller chunks.
CHUNK = 2048
CHUNK_CHARACTERS = 2**21


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts that this tokenizer reads as control tokens, such as `<|im_end|>`."""
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    return sorted(special.union(tokenizer.all_special_tokens))


class Encoder:
    """Encodes examples with a tokenizer's chat template.

    The prompt is what `apply_chat_template(..., add_generation_prompt=True)` gives, token for
    token, so that what is learned in training is what any server sends later. The response is the
    completion and the token that ends the turn.

    Text in data never becomes a control token: where an example holds the text of one, that text
    is tokenized as plain text. (Added tokens that the tokenizer does not call special, such as a
    model's `<think>`, are ordinary text with an id of their own and stay what they are.)

    Args:
        tokenizer: Its chat template is used as it is, anchored or not.
        max_length: Longest example in tokens, or None for no bound.
        too_long: `refuse` or `truncate` (the response loses its end, and its end-of-turn token).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        too_long: Literal["refuse", "truncate"] = "refuse",
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.too_long = too_long
        self.truncated: list[str] = []
        """Origins of examples that lost their end, for the caller to name."""
        self._control_ids = {
            i for i, token in tokenizer.added_tokens_decoder.items() if token.special
        }.union(tokenizer.all_special_ids)
        self._control = re.compile(
            "|".join(
                [re.escape(t) for t in sorted(control_tokens(tokenizer), key=len, reverse=True)]
                + [_OPEN, _CLOSE]
            )
        )
        self._direct = _direct(tokenizer)
        self.end_ids = self._end_of_turn()

    @property
    def stop_ids(self) -> set[int]:
        """Tokens after which generation has nothing more to say."""
        eos = self.tokenizer.eos_token_id
        return {self.end_ids[-1]} | ({eos} if eos is not None else set())

    def prompts(self, examples: Iterable[Example]) -> list[list[int]]:
        """Token ids of each prompt, up to where the answer starts."""
        chunks = (self._tokenize(self._render(chunk)) for chunk in _chunks(examples))
        return list(chain.from_iterable(chunks))

    def completions(self, examples: Iterable[Example]) -> list[list[int]]:
        """Token ids of each completion, the end of the turn included."""
        chunks = (
            self._tokenize([self._shield(e.completion) for e in chunk])
            for chunk in _chunks(examples)
        )
        return [row + self.end_ids for row in chain.from_iterable(chunks)]

    def encode(self, examples: Iterable[Example]) -> EncodedSet:
        """Encode examples, in order, into memory.

        Raises:
            DataError: An example is longer than `max_length`, and the recipe says to refuse it; or
                its prompt alone leaves no room for a response.
        """
        return EncodedSet.joined(list(self.encode_parts(examples)))

    def encode_parts(self, examples: Iterable[Example]) -> Iterator[EncodedSet]:
        """As `encode`, a chunk at a time: one is tokenized while the next is read and rendered."""
        refused = _Refused(self.max_length)
        seen = 0
        waiting: list[tuple[list[Example], Future[list[list[int]]]]] = []
        with ThreadPoolExecutor(1) as tokenizer:
            for chunk in chain(_chunks(examples), [[]]):
                texts = self._render(chunk) + [self._shield(e.completion) for e in chunk]
                waiting.append((chunk, tokenizer.submit(self._tokenize, texts)))
                if len(waiting) == 1:
                    continue
                read, tokenized = waiting.pop(0)
                yield self._part(read, tokenized.result(), seen, refused)
                seen += len(read)
        refused.check()

    def _part(
        self, examples: list[Example], ids: list[list[int]], start: int, refused: _Refused
    ) -> EncodedSet:
        """The set of one chunk, whose first example is number `start`, bounded in length."""
        prompts = ids[: len(examples)]
        completions = [row + self.end_ids for row in ids[len(examples) :]]
        for i, example in enumerate(examples):
            limit, length = self.max_length, len(prompts[i]) + len(completions[i])
            if limit is None or length <= limit:
                continue
            if self.too_long == "truncate" and len(prompts[i]) < limit:
                completions[i] = completions[i][: limit - len(prompts[i])]
                self.truncated.append(example.origin)
            else:
                refused.add(example.origin or f"example {start + i}", length)
        rows = [row for pair in zip(prompts, completions, strict=True) for row in pair]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return EncodedSet(
            np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())),
            np.concatenate([[0], np.cumsum(lengths.reshape(-1, 2).sum(1))]).astype(np.int64),
            lengths[::2].astype(np.int32),
        )

    def _render(self, examples: Sequence[Example]) -> list[str]:
        """The chat template's text up to each answer, control texts in the data shielded."""
        if not examples:
            return []
        conversations = [self._messages(example) for example in examples]
        try:
            return self._apply_template(conversations)
        except Exception:  # a template may raise whatever it likes
            # Which example it was, only applying it to one after the other can tell.
            return [
                self._render_one(example, messages)
                for example, messages in zip(examples, conversations, strict=True)
            ]

    def _render_one(self, example: Example, messages: list[dict[str, str]]) -> str:
        try:
            return self._apply_template([messages])[0]
        except Exception as error:  # a template may raise whatever it likes
            raise DataError(
                f"{example.origin or 'an example'}: the model's chat template refuses it: {error}"
            ) from None

    def _apply_template(self, conversations: list[list[dict[str, str]]]) -> list[str]:
        # All in one call, which is a third quicker than one by one.
        rendered: Any = self.tokenizer.apply_chat_template(
            conversations, tokenize=False, add_generation_prompt=True
        )
        return list(rendered)

    def _messages(self, example: Example) -> list[dict[str, str]]:
        turns = [*example.history, ("user", example.prompt)]
        return [{"role": role, "content": self._shield(text)} for role, text in turns]

    def _shield(self, text: str) -> str:
        """Wrap the text of control tokens in marks that `_tokenize` finds again."""
        return self._control.sub(lambda m: f"{_OPEN}{m.group()}{_CLOSE}", text)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids; only what stands outside the marks may be a control token."""
        ids = self._ids_of(texts)
        for i, text in enumerate(texts):
            if _OPEN in text:
                ids[i] = self._tokenize_shielded(text)
        return ids

    def _ids_of(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if not self._direct:
            return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        # One text the usual way, so that nothing stays set from an earlier call (truncation, say).
        self.tokenizer([""], add_special_tokens=False)
        encodings = self._direct.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _tokenize_shielded(self, text: str) -> list[int]:
        ids: list[int] = []
        for position, part in enumerate(_MARKS.split(text)):
            # Odd parts are what stood between the marks.
            plain = position % 2 == 1
            row = self._tokenize_part(part, plain=plain, first=position == 0)
            if plain and self._control_ids.intersection(row):
                raise DataError(
                    f"the data holds {part!r}, which this tokenizer can only read as a control "
                    "token; take it out of the data."
                )
            ids += row
        return ids

    def _tokenize_part(self, part: str, *, plain: bool, first: bool) -> list[int]:
        """Token ids of a part of a text, without the space that some put before a text's start."""

        def read(text: str) -> list[int]:
            row = self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)
            return list(row["input_ids"])

        for lead in () if first else _LEADS:
            before, both = read(lead), read(lead + part)
            if both[: len(before)] == before:
                return both[len(before) :]
        return read(part)

    def _end_of_turn(self) -> list[int]:
        """The ids that end an answer: what the template writes after it, up to a control token."""
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "PROBE"}]
        try:
            text = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # a template may raise whatever it likes
            raise ModelError(f"the model's chat template cannot be used: {error}") from None
        after = self.tokenizer(text.rpartition("PROBE")[2], add_special_tokens=False)["input_ids"]
        for i, token in enumerate(after):
            if token in self._control_ids:
                return list(after[: i + 1])
        if self.tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no end-of-sequence token, so no answer could end.")
        return [self.tokenizer.eos_token_id]


class _Refused:
    """Counts the examples that are too long, and names the first."""

    def __init__(self, limit: int | None) -> None:
        self._limit, self._count = limit, 0
        self._named: list[str] = []

    def add(self, origin: str, length: int) -> None:
        self._count += 1
        if len(self._named) < _NAMED:
            self._named.append(f"{origin} ({length} tokens)")

    def check(self) -> None:
        """Raise if there are any."""
        if not self._count:
            return
        more = f" and {self._count - _NAMED} more" if self._count > _NAMED else ""
        raise DataError(
            f"longer than training.max_length = {self._limit}: {', '.join(self._named)}{more}; "
            "raise it (up to the model's context), shorten these, or set training.too_long: "
            "truncate (which cuts responses, never prompts)."
        )


def _chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    characters = 0
    for example in examples:
        chunk.append(example)
        characters += len(example.prompt) + len(example.completion)
        characters += sum(len(message.content) for message in example.history)
        if len(chunk) >= CHUNK or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _direct(tokenizer: PreTrainedTokenizerBase) -> Any:
    """The Rust tokenizer where asking it directly gives the same ids, a fifth quicker.

    Only where the tokenizer's class adds nothing of its own to what transformers does with a text.
    """
    from transformers import PreTrainedTokenizerFast

    steps = ("__call__", "_encode_plus")
    if all(
        getattr(type(tokenizer), step, None) is getattr(PreTrainedTokenizerFast, step, tokenizer)
        for step in steps
    ):
        return getattr(tokenizer, "backend_tokenizer", None)
    return None


_NAMED = 5
# Private-use characters, that no text means anything by, as marks around control texts. Where data
# hold one even so, it is shielded in its turn, which is why a closing mark may stand between two.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_MARKS = re.compile(f"{_OPEN}({_CLOSE}|[^{_CLOSE}]+){_CLOSE}")
# What a later part of a text is read behind: one of them does not grow together with it.
_LEADS = ("\n", ".", "a")
