"""From examples to token ids: the chat template, the loss boundary, and the cache on disk."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from telltune.errors import DataError, ModelError
from telltune.storage import atomic_folder, cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from telltune.data.examples import Example

__all__ = ["EncodedSet", "Encoder", "control_tokens"]

# Bump when the same example would be encoded to other ids, so that old caches are not read.
ENCODING_VERSION = 2
# Rows tokenized at once: enough to keep the tokenizer's threads busy, little enough to be memory.
CHUNK = 2048


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts that this tokenizer reads as control tokens, such as `<|im_end|>`."""
    special = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    return sorted(special.union(tokenizer.all_special_tokens))


@dataclass(frozen=True)
class EncodedSet:
    """Token ids of many examples, in memory or mapped from disk.

    Attributes:
        ids: int32 (total tokens,), all examples one after another.
        offsets: int64 (n + 1,), where each example starts.
        prompt_lengths: int32 (n,), how many of an example's tokens carry no loss.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.int32], int]:
        """The ids of one example, (length,), and the length of its prompt."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        return self.ids[start:stop], int(self.prompt_lengths[index])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, prompt and response, (n,)."""
        return np.diff(self.offsets)

    @property
    def response_lengths(self) -> NDArray[np.int64]:
        """Tokens of each example that carry loss, (n,)."""
        return self.lengths - self.prompt_lengths

    def save(self, folder: Path) -> None:
        """Write three .npy files into an existing folder."""
        for name in ("ids", "offsets", "prompt_lengths"):
            np.save(folder / f"{name}.npy", getattr(self, name))

    @classmethod
    def load(cls, folder: Path) -> EncodedSet:
        """Map a saved set from disk; nothing is read before it is used."""
        names = ("ids", "offsets", "prompt_lengths")
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in names))


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
        self.end_ids = self._end_of_turn()

    @property
    def stop_ids(self) -> set[int]:
        """Tokens after which generation has nothing more to say."""
        eos = self.tokenizer.eos_token_id
        return {self.end_ids[-1]} | ({eos} if eos is not None else set())

    def prompts(self, examples: Sequence[Example]) -> list[list[int]]:
        """Token ids of each prompt, up to where the answer starts."""
        ids: list[list[int]] = []
        for start in range(0, len(examples), CHUNK):
            ids += self._tokenize([self._render(e) for e in examples[start : start + CHUNK]])
        return ids

    def completions(self, examples: Sequence[Example]) -> list[list[int]]:
        """Token ids of each completion, the end of the turn included."""
        ids: list[list[int]] = []
        for start in range(0, len(examples), CHUNK):
            texts = [self._shield(e.completion) for e in examples[start : start + CHUNK]]
            ids += [row + self.end_ids for row in self._tokenize(texts)]
        return ids

    def encode(self, examples: Sequence[Example]) -> EncodedSet:
        """Encode examples, in order.

        Raises:
            DataError: An example is longer than `max_length`, and the recipe says to refuse it; or
                its prompt alone leaves no room for a response.
        """
        prompts, completions = self.prompts(examples), self.completions(examples)
        limit = self.max_length
        if limit is not None:
            self._bound(examples, prompts, completions, limit)
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        flat = [i for pair in zip(prompts, completions, strict=True) for ids in pair for i in ids]
        return EncodedSet(
            np.asarray(flat, np.int32),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.asarray([len(p) for p in prompts], np.int32),
        )

    def encode_cached(self, examples: Sequence[Example]) -> EncodedSet:
        """As `encode`, kept on disk by content: the same examples are tokenized once."""
        if self.too_long == "truncate":
            # What was cut must be named in every run, and only encoding knows it.
            return self.encode(examples)
        folder = cache_folder("encoded") / self._key(examples)
        if not folder.is_dir():
            encoded = self.encode(examples)
            with atomic_folder(folder) as filling:
                encoded.save(filling)
        return EncodedSet.load(folder)

    def _bound(
        self,
        examples: Sequence[Example],
        prompts: list[list[int]],
        completions: list[list[int]],
        limit: int,
    ) -> None:
        """Refuse or cut what is longer than `limit`, in place."""
        refused = []
        for i, example in enumerate(examples):
            length = len(prompts[i]) + len(completions[i])
            if length <= limit:
                continue
            if self.too_long == "truncate" and len(prompts[i]) < limit:
                completions[i] = completions[i][: limit - len(prompts[i])]
                self.truncated.append(example.origin)
            else:
                refused.append(f"{example.origin or f'example {i}'} ({length} tokens)")
        if refused:
            more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
            raise DataError(
                f"longer than training.max_length = {limit}: {', '.join(refused[:5])}{more}; raise "
                "it (up to the model's context), shorten these, or set training.too_long: truncate "
                "(which cuts responses, never prompts)."
            )

    def _key(self, examples: Sequence[Example]) -> str:
        digest = hashlib.sha256(f"{ENCODING_VERSION}|{self.max_length}|".encode())
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend else repr(sorted(self.tokenizer.get_vocab()))
        digest.update(vocabulary.encode())
        digest.update(str(self.tokenizer.chat_template).encode())
        for example in examples:
            row = (example.history, example.prompt, example.completion)
            digest.update(repr(row).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()[:32]

    def _render(self, example: Example) -> str:
        """The chat template's text up to the answer, control texts in the data shielded."""
        turns = [*example.history, ("user", example.prompt)]
        messages = [{"role": role, "content": self._shield(text)} for role, text in turns]
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as error:  # a template may raise whatever it likes
            raise DataError(
                f"{example.origin or 'an example'}: the model's chat template refuses it: {error}"
            ) from None

    def _shield(self, text: str) -> str:
        """Wrap the text of control tokens in marks that `_tokenize` finds again."""
        return self._control.sub(lambda m: f"{_OPEN}{m.group()}{_CLOSE}", text)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Token ids; only what stands outside the marks may be a control token."""
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        for i, text in enumerate(texts):
            if _OPEN in text:
                ids[i] = self._tokenize_shielded(text)
        return ids

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


# Private-use characters, that no text means anything by, as marks around control texts. Where data
# hold one even so, it is shielded in its turn, which is why a closing mark may stand between two.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_MARKS = re.compile(f"{_OPEN}({_CLOSE}|[^{_CLOSE}]+){_CLOSE}")
# What a later part of a text is read behind: one of them does not grow together with it.
_LEADS = ("\n", ".", "a")
