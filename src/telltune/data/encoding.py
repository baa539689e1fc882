"""Encoding of examples as token ids with a chat template, and the loss boundary."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from telltune.data.chat_template import ChatTemplate, Rendered, TemplateError
from telltune.data.control_tokens import MARKED, ControlTokens
from telltune.data.encoded import EncodedSet
from telltune.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transformers import PreTrainedTokenizerBase

    from telltune.data.examples import Example

    _Pairs = tuple[list[list[int]], list[list[int]]]

# Limits of a chunk in examples and in characters. Both are large enough to keep the tokenizer's
# threads busy. The tokenizer needs about 100 bytes per token, so long texts need smaller chunks.
CHUNK = 2048
CHUNK_CHARACTERS = 2**21


class Encoder:
    r"""Encoder of examples with a tokenizer's chat template. Only response tokens carry loss.

    The prompt has exactly the tokens of `apply_chat_template(..., add_generation_prompt=True)`, so
    training uses the same prompts as a server. The response is the part of the rendered
    conversation after the prompt, up to the token that ends the turn. Both together have the ids
    of `apply_chat_template` for the conversation.

    A token of the whole conversation may span the end of the prompt, for example a line break that
    belongs to both the prompt and the answer. No server can have that token in its prompt. The
    prompt then keeps its own ids, and the response is tokenized after a text with which it does
    not merge.

    Text in data never becomes a control token. If an example contains the text of a control token,
    it is tokenized as plain text. Added tokens that the tokenizer does not mark as special, such as
    a model's `<think>`, keep their own ids, except for the one that ends the template's answers.

    Args:
        tokenizer: Tokenizer, whose chat template is used unchanged, anchored or not.
        max_length: Maximum length of an example in tokens, or None for no limit.
        context: Longest sequence that the model can read, in tokens, or None for no limit.
        too_long: `refuse` or `truncate` (the response loses its end and its end-of-turn token).

    Raises:
        ModelError: The chat template cannot be used, or there is no token that ends an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        context: int | None = None,
        too_long: Literal["refuse", "truncate"] = "refuse",
    ) -> None:
        self.tokenizer = tokenizer
        self._longest = min((n for n in (max_length, context) if n is not None), default=None)
        self._context = context
        self.too_long = too_long
        self.truncated: list[str] = []
        """Origins of truncated examples, for the caller to report."""
        self.unthought = 0
        """Number of examples without thinking whose prompt opens a thinking block, to report."""
        self._controls = ControlTokens(tokenizer)
        self._template = ChatTemplate(tokenizer, self._controls)
        self.control_tokens = self._controls.texts
        """Texts of the control tokens, such as `<|im_end|>`."""
        self._direct = _direct(tokenizer)
        self.end_ids = self._end_of_turn()
        [self._header_ids] = self._ids_of([self._template.header])

    @property
    def stop_ids(self) -> set[int]:
        """Ids of the tokens that end generation."""
        eos = self.tokenizer.eos_token_id
        return {self.end_ids[-1]} | ({eos} if eos is not None else set())

    def prompts(self, examples: Iterable[Example]) -> list[list[int]]:
        """Return the token ids of each prompt, up to the start of the answer.

        Raises:
            DataError: The chat template refuses an example or drops a part of it.
        """
        chunks = (self._tokenize(self._template.prompts(chunk)) for chunk in _chunks(examples))
        return list(chain.from_iterable(chunks))

    def completions(self, examples: Iterable[Example]) -> list[list[int]]:
        """Return the token ids of each response, which are those that carry loss.

        Raises:
            DataError: The chat template refuses an example or drops a part of it.
        """
        chunks = (self._pairs(self._template.render(chunk))[1] for chunk in _chunks(examples))
        return list(chain.from_iterable(chunks))

    def encode(self, examples: Iterable[Example]) -> EncodedSet:
        """Encode examples, in order, into memory.

        Raises:
            DataError: An example is too long and `too_long` is `refuse`; or its
                prompt leaves no room for a response; or the chat template refuses the example or
                drops a part of it.
        """
        return EncodedSet.joined(list(self.encode_parts(examples)))

    def refusals(self, examples: Sequence[Example]) -> dict[int, str]:
        """Return the reasons why examples cannot be encoded, by index of the example.

        Examples with the same problem have the same reason. Lengths are not checked.
        """
        found = {}
        for i, example in enumerate(examples):
            try:
                self._pairs(self._template.render([example]))
            except TemplateError as error:
                found[i] = error.reason
            except DataError as error:
                found[i] = str(error)
        return found

    def encode_parts(self, examples: Iterable[Example]) -> Iterator[EncodedSet]:
        """Encode in chunks. One chunk is tokenized while the next is read and rendered."""
        refused = _Refused(self._longest, self._context, self.too_long)
        seen = 0
        waiting: list[tuple[list[Example], Future[_Pairs]]] = []
        with ThreadPoolExecutor(1) as tokenizer:
            for chunk in chain(_chunks(examples), [[]]):
                rendered = self._template.render(chunk)
                self.unthought += sum(example.unthought for example in rendered)
                waiting.append((chunk, tokenizer.submit(self._pairs, rendered)))
                if len(waiting) == 1:
                    continue
                read, tokenized = waiting.pop(0)
                yield self._part(read, *tokenized.result(), seen, refused)
                seen += len(read)
        refused.check()

    def texts(self, answers: Iterable[list[int]]) -> list[str]:
        """Decode generated ids without control tokens; `answer` removes the thinking.

        Decoding drops control tokens. A control token may close the thinking or end the text that
        the template writes before an answer (gpt-oss: `<|channel|>final<|message|>`). Everything
        up to such a token is therefore removed here.
        """
        texts = []
        for ids in answers:
            start = self._answer_start(ids)
            text = str(self.tokenizer.decode(ids[start:], skip_special_tokens=True))
            texts.append(text.lstrip() if start else text)
        return texts

    def answer(self, text: str) -> str:
        """Return generated text, or a completion, without the thinking before it."""
        return self._template.tags.answer(text, opened=self._template.opened)

    def answer_so_far(self, ids: list[int]) -> str:
        """Return the part of an unfinished answer that later tokens do not change.

        It has no thinking, and is empty until the thinking is over.
        """
        text = self.texts([ids])[0]
        if self._before_answers and not self._answer_start(ids):
            return ""
        if self._template.tags.pending(text, opened=self._template.opened):
            return ""
        if self.tokenizer.clean_up_tokenization_spaces:
            # The space before the last word may still be removed.
            text = text.rpartition(" ")[0]
        # A character may be spread over several tokens.
        return self.answer(text).rstrip("\ufffd")

    def _answer_start(self, ids: list[int]) -> int:
        """Return the index after the last control token before the answer, or 0."""
        starts = [0]
        for mark in self._before_answers:
            places = range(len(ids) - len(mark) + 1)
            starts += [i + len(mark) for i in places if ids[i : i + len(mark)] == mark]
        return max(starts)

    @cached_property
    def _before_answers(self) -> list[list[int]]:
        """Token ids of texts that precede an answer and end in a control token."""
        texts = (self._template.tags.close, self._template.lead)
        ids = self._ids_of([text for text in texts if text])
        return [mark for mark in ids if mark[-1] in self._controls.ids]

    def _part(
        self,
        examples: list[Example],
        prompts: list[list[int]],
        responses: list[list[int]],
        start: int,
        refused: _Refused,
    ) -> EncodedSet:
        """Return the set of one chunk with limited lengths; its first example has index `start`."""
        for i, example in enumerate(examples):
            limit, length = self._longest, len(prompts[i]) + len(responses[i])
            if limit is None or length <= limit:
                continue
            if self.too_long == "truncate" and len(prompts[i]) < limit:
                responses[i] = responses[i][: limit - len(prompts[i])]
                self.truncated.append(example.origin)
            else:
                refused.add(example.origin or f"example {start + i}", length)
        return EncodedSet.of(prompts, responses)

    def _pairs(self, rendered: list[Rendered]) -> _Pairs:
        """Return the token ids of prompts and of responses.

        Text before a control token does not change the ids after it. A response is therefore
        tokenized after the last control token of its prompt. The whole prompt would double the
        time.
        """
        header = self._template.header
        leads = [header if header and r.prompt.endswith(header) else r.prompt for r in rendered]
        ids = self._tokenize(
            [r.prompt for r in rendered]
            + [lead + r.answer for lead, r in zip(leads, rendered, strict=True)]
        )
        prompts, read = ids[: len(rendered)], ids[len(rendered) :]
        responses = []
        for r, lead, prompt, both in zip(rendered, leads, prompts, read, strict=True):
            before = self._header_ids if lead == header else prompt
            if both[: len(before)] == before and prompt[-len(before) :] == before:
                response = both[len(before) :]
            else:
                [whole] = self._tokenize([r.prompt + r.answer])
                response = (
                    whole[len(prompt) :]
                    if whole[: len(prompt)] == prompt
                    else self._tokenize_shielded(r.answer, first=False)
                )
            responses.append(response if self._template.end else response + self.end_ids)
        return prompts, responses

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Return token ids. Only text outside of marks can be a control token."""
        ids = self._ids_of(texts)
        for i, text in enumerate(texts):
            if self._controls.is_shielded(text):
                ids[i] = self._tokenize_shielded(text)
        return ids

    def _ids_of(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        if not self._direct:
            return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        # A regular call resets settings of earlier calls, such as truncation.
        self.tokenizer([""], add_special_tokens=False)
        encodings = self._direct.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _tokenize_shielded(self, text: str, *, first: bool = True) -> list[int]:
        """Return the ids of a text with marks; `first` is False if another text precedes it."""
        ids: list[int] = []
        for position, part in enumerate(MARKED.split(text)):
            # Odd parts are the texts between marks.
            plain = position % 2 == 1
            row = self._tokenize_part(part, plain=plain, first=first and position == 0)
            if plain and self._controls.ids.intersection(row):
                raise DataError(
                    f"the data contain {part!r}, which this tokenizer always reads as a control "
                    "token; remove it from the data."
                )
            ids += row
        return ids

    def _tokenize_part(self, part: str, *, plain: bool, first: bool) -> list[int]:
        """Return the ids of a part of a text, without the space that some tokenizers prepend."""

        def read(text: str) -> list[int]:
            row = self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)
            return list(row["input_ids"])

        for lead in () if first else _LEADS:
            before, both = read(lead), read(lead + part)
            if both[: len(before)] == before:
                return both[len(before) :]
        return read(part)

    def _end_of_turn(self) -> list[int]:
        """Return the ids that end an answer: up to the template's control token, or EOS."""
        if self._template.end:
            return self._ids_of([self._template.end])[0]
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                f"{self._template.name} writes no token after an answer, and the tokenizer has no "
                "`eos_token`, so answers cannot end; set `eos_token` in its tokenizer_config.json, "
                "or `model.chat_template` to a template that ends answers with a token of its own."
            )
        return [self.tokenizer.eos_token_id]


class _Refused:
    """Counter of examples that are too long, with the locations of the first."""

    def __init__(self, limit: int | None, context: int | None, too_long: str) -> None:
        self._limit, self._context, self._count = limit, context, 0
        self._too_long = too_long
        self._named: list[str] = []

    def add(self, origin: str, length: int) -> None:
        self._count += 1
        if len(self._named) < _NAMED:
            self._named.append(f"{origin} ({length} tokens)")

    def check(self) -> None:
        """Raise `DataError` if there are any."""
        if not self._count:
            return
        more = f" and {self._count - _NAMED} more" if self._count > _NAMED else ""
        limit, remedy = f"training.max_length = {self._limit}", "raise it, "
        if self._limit == self._context:
            limit, remedy = f"the model's context of {self._limit} tokens", ""
        if self._too_long == "truncate":
            remedy += "shorten the prompts (training.too_long: truncate cuts"
        else:
            remedy += "shorten the examples, or set training.too_long: truncate (which cuts"
        raise DataError(
            f"longer than {limit}: {', '.join(self._named)}{more}; {remedy} responses, never "
            "prompts)."
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
    """Return the Rust tokenizer if calling it directly gives the same ids, else None.

    Direct calls are about 20% faster. They are safe if the tokenizer's class does not override how
    transformers encodes a text.
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
# Prefixes for tokenizing a later part of a text; at least one does not merge with it.
_LEADS = ("\n", ".", "a")
