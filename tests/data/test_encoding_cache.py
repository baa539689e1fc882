"""Encoded examples are cached on disk by tokenizer, anchor and text."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.data import tokenizer as module
from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.encoding_cache import EncodingCache
from telltune.data.examples import Example, Message
from telltune.data.tokenizer import KnownTokenizer
from telltune.errors import RecipeError

if TYPE_CHECKING:
    from telltune.data.encoded import EncodedSet

HISTORY = (Message("system", "You name shapes."),)
EXAMPLES = [Example(f"item {n}", "ball " * n, "toys", f"toys.jsonl:{n}") for n in range(1, 9)]


def same(a: EncodedSet, b: EncodedSet) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("ids", "offsets", "prompt_lengths")
    )


def test_the_same_examples_are_tokenized_once(tiny_tokenizer: Any, calls: list[int]) -> None:
    examples = [Example("only in this test", "yes"), *EXAMPLES]
    known = KnownTokenizer.of(tiny_tokenizer)
    first = EncodingCache(known).encode(examples)
    assert sum(calls) == 2 * len(examples)
    unloaded = replace(known, load=lambda: pytest.fail("loaded for nothing"))
    second = EncodingCache(unloaded).encode(examples)
    assert sum(calls) == 2 * len(examples)
    assert same(first, second)
    assert same(first, Encoder(tiny_tokenizer).encode(examples))


@pytest.mark.parametrize("change", ["prompt", "completion", "history", "limit"])
def test_what_changes_the_ids_is_tokenized_anew(
    tiny_tokenizer: Any, calls: list[int], change: str
) -> None:
    example = Example(f"before {change}", "ball", history=HISTORY)
    known = KnownTokenizer.of(tiny_tokenizer)
    EncodingCache(known).encode([example])
    changed, limit = example, None
    if change == "limit":
        limit = 200
    else:
        value = (Message("system", "Other."),) if change == "history" else "other"
        changed = replace(example, **{change: value})
    calls.clear()
    cached = EncodingCache(known, max_length=limit).encode([changed])
    assert calls
    assert same(cached, Encoder(tiny_tokenizer).encode([changed]))


@pytest.mark.parametrize("change", ["template", "vocabulary", "end of text", "code"])
def test_another_tokenizer_tokenizes_anew(
    tiny_tokenizer: Any, calls: list[int], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A template without control tokens, so that the answer ends with the end-of-text token.
    tiny_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    examples = [Example(f"before {change}", "ball")]
    before = EncodingCache(KnownTokenizer.of(tiny_tokenizer)).encode(examples)
    if change == "template":
        tiny_tokenizer.chat_template += "{{ ' ' }}"
    elif change == "vocabulary":
        tiny_tokenizer.add_tokens(["efore"])
    elif change == "end of text":
        tiny_tokenizer.eos_token = "<|endoftext|>"
    else:
        monkeypatch.setattr(module, "version_of", lambda _: "100.0")
    calls.clear()
    cached = EncodingCache(KnownTokenizer.of(tiny_tokenizer)).encode(examples)
    assert calls
    assert same(cached, Encoder(tiny_tokenizer).encode(examples))
    assert same(cached, before) == (change == "code")


def test_an_anchor_has_ids_of_its_own(tiny_tokenizer: Any, calls: list[int]) -> None:
    anchors = [None, Anchor("Name it."), Anchor("Name it.", "It is:"), Anchor("Name it", "It:")]
    known = KnownTokenizer.of(tiny_tokenizer)
    for anchor in anchors:
        calls.clear()
        cached = EncodingCache(known, anchor).encode(EXAMPLES[:2])
        assert calls
        anchored = anchored_tokenizer(tiny_tokenizer, anchor)
        assert same(cached, Encoder(anchored).encode(EXAMPLES[:2]))
        # The same as from a tokenizer whose template already has the anchor.
        calls.clear()
        assert same(cached, EncodingCache(KnownTokenizer.of(anchored)).encode(EXAMPLES[:2]))
        assert not calls


def test_an_anchor_that_cannot_be_carried_is_refused_every_time(tiny_tokenizer: Any) -> None:
    encodings = EncodingCache(KnownTokenizer.of(tiny_tokenizer), Anchor("Say <|im_end|>."))
    for _ in range(2):
        with pytest.raises(RecipeError, match=r"contains the control token '<\|im_end\|>'"):
            encodings.encode(EXAMPLES)


def test_what_was_cut_is_named_from_the_disk_too(tiny_tokenizer: Any) -> None:
    limit = int(Encoder(tiny_tokenizer).encode(EXAMPLES).lengths[5])
    for _ in range(2):
        encodings = EncodingCache(
            KnownTokenizer.of(tiny_tokenizer), max_length=limit, too_long="truncate"
        )
        assert encodings.encode(EXAMPLES).longest == limit
        assert encodings.truncated == ["toys.jsonl:7", "toys.jsonl:8"]


def test_what_a_template_writes_today_is_not_served_tomorrow(
    tiny_tokenizer: Any, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    day = "2026-11-27"
    monkeypatch.setattr(
        "transformers.utils.chat_template_utils.datetime",
        SimpleNamespace(now=lambda: SimpleNamespace(strftime=lambda _: day)),
    )
    dated = "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tiny_tokenizer.chat_template = dated
    known = KnownTokenizer.of(tiny_tokenizer)
    first = EncodingCache(known).encode(EXAMPLES)
    calls.clear()
    assert same(EncodingCache(known).encode(EXAMPLES), first)
    assert not calls
    day = "2026-11-28"
    second = EncodingCache(known).encode(EXAMPLES)
    assert calls
    assert not same(first, second)
    assert same(second, Encoder(tiny_tokenizer).encode(EXAMPLES))


def test_examples_without_thinking_are_counted_from_the_disk_too(tiny_tokenizer: Any) -> None:
    tiny_tokenizer.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    for _ in range(2):
        encodings = EncodingCache(KnownTokenizer.of(tiny_tokenizer))
        encodings.encode([*EXAMPLES, Example("item 9", "<think>\nround\n</think>\n\nball")])
        assert encodings.unthought == len(EXAMPLES)
