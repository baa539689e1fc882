"""Encoding gives the tokens that servers send, with loss on the response only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from telltune.data.control_tokens import control_tokens
from telltune.data.encoded import EncodedSet, EncodedWriter
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message
from telltune.errors import DataError
from telltune.models.tokenizer import PLAIN_TEMPLATE

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "You say what shape an item has. item 7 is round, so it is a ball",
    "".join(chr(c) for c in range(32, 127)),
    "þetta er æði, ágætt og öðruvísi úr ýmsu",
]
HISTORY = (Message("system", "You name shapes."), Message("user", "item 6"))


def sentencepiece_like(kind: str = "bpe") -> PreTrainedTokenizerFast:
    """Return a tokenizer whose words begin with ▁, which is also put before a text."""
    controls = ["<unk>", "<|im_start|>", "<|im_end|>"]
    model: Any = models.BPE(unk_token="<unk>") if kind == "bpe" else models.Unigram()
    raw = Tokenizer(model)
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    raw.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = sorted(set("".join(CORPUS) + "▁\n"))
    shared: dict[str, Any] = {
        "vocab_size": 300,
        "special_tokens": controls,
        "initial_alphabet": alphabet,
        "show_progress": False,
    }
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(**shared)
        if kind == "bpe"
        else trainers.UnigramTrainer(unk_token="<unk>", **shared),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def mistral_like() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<s>", "</s>", "[INST]", "[/INST]"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["[INST]", "[/INST]"]})
    tokenizer.chat_template = MISTRAL
    return tokenizer


@pytest.fixture(params=["byte level", "SentencePiece", "Mistral"])
def tokenizer(request: pytest.FixtureRequest, tiny_tokenizer: Any) -> Any:
    if request.param == "byte level":
        return tiny_tokenizer
    return sentencepiece_like() if request.param == "SentencePiece" else mistral_like()


def decoded(tokenizer: Any, ids: Any) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def rendered(tokenizer: Any, example: Example, **options: Any) -> Any:
    messages = [*example.history, Message("user", example.prompt)]
    return tokenizer.apply_chat_template(
        [message._asdict() for message in messages], add_generation_prompt=True, **options
    )


def control_ids(tokenizer: Any, ids: list[int]) -> list[int]:
    special = {tokenizer.convert_tokens_to_ids(token) for token in control_tokens(tokenizer)}
    return [i for i in ids if i in special]


@pytest.mark.parametrize("history", [(), HISTORY[:1], (*HISTORY, Message("assistant", "a box"))])
def test_a_prompt_is_what_the_chat_template_gives_token_for_token(
    tokenizer: Any, history: tuple[Message, ...]
) -> None:
    example = Example("item 7 is round", "ball", history=history)
    [ids] = Encoder(tokenizer).prompts([example])
    assert ids == rendered(tokenizer, example, return_dict=False)


def test_a_completion_ends_with_the_end_of_the_turn(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer)
    encoded = encoder.encode([Example("item 7", "ball"), Example("item 8 is flat", "a thin sheet")])
    for i in range(2):
        ids, prompt_length = encoded[i]
        assert ids[-1] == tokenizer.eos_token_id
        assert list(ids[prompt_length:]).count(tokenizer.eos_token_id) == 1
    assert encoder.stop_ids == {tokenizer.eos_token_id}
    assert decoded(tokenizer, encoded[0][0][encoded[0][1] : -1]).strip() == "ball"


def test_without_a_control_token_after_the_answer_it_ends_with_eos(tiny_tokenizer: Any) -> None:
    tiny_tokenizer.chat_template = PLAIN_TEMPLATE
    assert Encoder(tiny_tokenizer).end_ids == [tiny_tokenizer.eos_token_id]
    tiny_tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert Encoder(tiny_tokenizer).end_ids == [tiny_tokenizer.eos_token_id]


def test_control_text_in_data_is_text(tokenizer: Any) -> None:
    controls = control_tokens(tokenizer)
    nasty = "say " + " or ".join(controls) + " now" + "".join(controls)
    clean = Example("p", "c", history=(Message("system", "s"), *HISTORY[1:]))
    example = Example(
        f"{nasty} item 7",
        f"{nasty} ball",
        history=(Message("system", f"{controls[0]}s"), Message("user", f"{nasty}{nasty}")),
    )
    encoder = Encoder(tokenizer)
    [prompt], [completion] = encoder.prompts([example]), encoder.completions([example])
    # Only the tokens that the template writes around empty data.
    assert control_ids(tokenizer, prompt) == control_ids(tokenizer, encoder.prompts([clean])[0])
    assert control_ids(tokenizer, completion) == encoder.end_ids
    assert decoded(tokenizer, prompt) == rendered(tokenizer, example, tokenize=False)
    assert decoded(tokenizer, completion[:-1]).removeprefix(" ") == example.completion


def test_text_beside_control_text_is_still_trained_on(tokenizer: Any) -> None:
    control = control_tokens(tokenizer)[-1]
    encoder = Encoder(tokenizer)
    [shielded] = encoder.completions([Example("", f"a round ball{control}item 7 is round")])
    [before], [after] = (encoder.completions([Example("", t)]) for t in ("a round ball", "round"))
    assert shielded[: len(before) - 1] == before[:-1]
    # The last word, however the words before it are tokenized.
    assert decoded(tokenizer, shielded[:-1]).endswith(decoded(tokenizer, after[:-1]))


MISTRAL_TOKENIZER = mistral_like()
PIECES = st.one_of(
    st.sampled_from([*control_tokens(MISTRAL_TOKENIZER), "item", " ", "\n", "<", "[INST", "æ"]),
    # Including its own marks; surrogates cannot be encoded.
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    st.text("\ue0f0\ue0f1", max_size=5),
)
TEXTS = st.lists(PIECES, max_size=6).map("".join)


@settings(max_examples=60)
@given(TEXTS, TEXTS, TEXTS)
def test_no_text_becomes_a_control_token_or_is_lost(system: str, prompt: str, answer: str) -> None:
    encoder = Encoder(MISTRAL_TOKENIZER)
    example = Example(prompt, answer, history=(Message("system", system),))
    [ids] = encoder.prompts([example])
    names = MISTRAL_TOKENIZER.convert_ids_to_tokens(control_ids(MISTRAL_TOKENIZER, ids))
    assert names == ["<s>", "[INST]", "[/INST]"]
    assert decoded(MISTRAL_TOKENIZER, ids) == rendered(MISTRAL_TOKENIZER, example, tokenize=False)
    [completion] = encoder.completions([example])
    assert control_ids(MISTRAL_TOKENIZER, completion) == encoder.end_ids
    assert decoded(MISTRAL_TOKENIZER, completion) == answer + "</s>"


def test_text_that_can_only_be_read_as_a_control_token_is_refused() -> None:
    # Unigram finds control tokens in its vocabulary in any case.
    encoder = Encoder(sentencepiece_like("unigram"))
    with pytest.raises(DataError, match="always reads as a control token"):
        encoder.encode([Example("item 7", "<|im_start|>ball")])


EXAMPLES = [
    Example(f"item {i} is {'very ' * i}round", "ball " * (i + 1), "toys", f"toys.jsonl:{i + 1}")
    for i in range(8)
]


def test_what_is_too_long_is_refused_by_origin_and_length(tiny_tokenizer: Any) -> None:
    lengths = Encoder(tiny_tokenizer).encode(EXAMPLES).lengths
    limit = int(lengths[5])
    with pytest.raises(DataError) as refusal:
        Encoder(tiny_tokenizer, max_length=limit).encode(EXAMPLES)
    message = str(refusal.value)
    assert f"training.max_length = {limit}" in message
    for i in (6, 7):
        assert f"toys.jsonl:{i + 1} ({lengths[i]} tokens)" in message
    assert "toys.jsonl:6 " not in message
    with pytest.raises(DataError, match=r"toys\.jsonl:5 .* and 3 more; raise it"):
        Encoder(tiny_tokenizer, max_length=1).encode(EXAMPLES)
    exactly = Encoder(tiny_tokenizer, max_length=int(lengths.max())).encode(EXAMPLES)
    assert (exactly.lengths == lengths).all()


def test_what_the_model_cannot_read_is_refused_without_advice_to_raise_the_limit(
    tiny_tokenizer: Any,
) -> None:
    context = int(Encoder(tiny_tokenizer).encode(EXAMPLES).lengths[6])
    for limit in (None, context, context + 100):
        with pytest.raises(DataError) as refusal:
            Encoder(tiny_tokenizer, max_length=limit, context=context).encode(EXAMPLES)
        message = str(refusal.value)
        assert message.startswith(f"longer than the model's context of {context} tokens: toys.json")
        assert "raise" not in message
        assert "max_length" not in message
    with pytest.raises(DataError, match=rf"training\.max_length = {context - 1}: .*; raise it, "):
        Encoder(tiny_tokenizer, max_length=context - 1, context=context).encode(EXAMPLES)


def test_truncating_cuts_responses_only_and_names_them(tiny_tokenizer: Any) -> None:
    whole = Encoder(tiny_tokenizer).encode(EXAMPLES)
    limit = int(whole.lengths[5])
    encoder = Encoder(tiny_tokenizer, max_length=limit, too_long="truncate")
    cut = encoder.encode(EXAMPLES)
    assert encoder.truncated == ["toys.jsonl:7", "toys.jsonl:8"]
    assert (cut.prompt_lengths == whole.prompt_lengths).all()
    for i in range(len(EXAMPLES)):
        assert list(cut[i][0]) == list(whole[i][0][:limit])


def test_truncating_never_cuts_a_prompt(tiny_tokenizer: Any) -> None:
    limit = int(Encoder(tiny_tokenizer).encode(EXAMPLES).prompt_lengths[7])
    with pytest.raises(DataError, match=r"toys\.jsonl:8 .*shorten the prompts .*never prompts"):
        Encoder(tiny_tokenizer, max_length=limit, too_long="truncate").encode(EXAMPLES)


def same(a: EncodedSet, b: EncodedSet) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("ids", "offsets", "prompt_lengths")
    )


ROWS = st.lists(
    st.tuples(st.lists(st.integers(0, 400), max_size=8), st.integers(0, 8)), min_size=1, max_size=8
)


def set_of(rows: list[tuple[list[int], int]]) -> EncodedSet:
    return EncodedSet(
        np.asarray([i for ids, _ in rows for i in ids], np.int32),
        np.concatenate([[0], np.cumsum([len(ids) for ids, _ in rows])]).astype(np.int64),
        np.asarray([min(prompt, len(ids)) for ids, prompt in rows], np.int32),
    )


@settings(max_examples=40)
@given(ROWS)
def test_rows_are_found_by_number(rows: list[tuple[list[int], int]]) -> None:
    encoded = set_of(rows)
    assert len(encoded) == len(rows)
    for index, (ids, prompt_length) in enumerate(rows):
        found, prompt = encoded[index]
        assert (found.tolist(), prompt) == (ids, min(prompt_length, len(ids)))
        assert encoded.response_lengths[index] == len(ids) - prompt


@pytest.mark.parametrize("rows", [[([1, 2, 3], 1), ([4], 0)], []])
def test_a_saved_set_comes_back(tmp_path: Any, rows: list[tuple[list[int], int]]) -> None:
    encoded = set_of(rows)
    with EncodedWriter(tmp_path) as writer:
        writer.append(encoded)
    loaded = EncodedSet.load(tmp_path)
    assert same(encoded, loaded)
    assert loaded.ids.dtype == np.int32
    assert loaded.offsets.dtype == np.int64


def test_a_template_that_refuses_an_example_names_where_it_stands(tiny_tokenizer: Any) -> None:
    tiny_tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
        + CHATML
    )
    encoder = Encoder(tiny_tokenizer)
    example = Example("item 7", "ball", "toys", "toys.jsonl:17", HISTORY[:1])
    with pytest.raises(DataError, match=r"toys\.jsonl:17: .*refuses this example: no system here"):
        encoder.encode([*EXAMPLES, example, *EXAMPLES])


def test_chunks_end_by_number_and_by_length(
    tiny_tokenizer: Any, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Encoder(tiny_tokenizer).encode(EXAMPLES)
    for limit, size, chunks in (("CHUNK", 3, [6, 6, 4]), ("CHUNK_CHARACTERS", 1, [2] * 8)):
        calls.clear()
        with monkeypatch.context() as small:
            small.setattr(f"telltune.data.encoding.{limit}", size)
            assert same(Encoder(tiny_tokenizer).encode(EXAMPLES), whole)
        assert [n for n in calls if n] == chunks


def test_a_tokenizer_with_a_way_of_its_own_is_asked_its_own_way(tiny_tokenizer: Any) -> None:
    class Loud(PreTrainedTokenizerFast):
        def __call__(self, text: Any, **options: Any) -> Any:
            texts = [t.upper() for t in text] if isinstance(text, list) else text.upper()
            return super().__call__(texts, **options)

    loud = Loud(tokenizer_object=tiny_tokenizer.backend_tokenizer)
    for name in ("bos_token", "eos_token", "chat_template"):
        setattr(loud, name, getattr(tiny_tokenizer, name))
    [ids] = Encoder(loud).completions([Example("", "ball")])
    assert decoded(tiny_tokenizer, ids).startswith("BALL")


def test_a_length_that_was_set_before_cuts_nothing(tiny_tokenizer: Any) -> None:
    whole = Encoder(tiny_tokenizer).encode(EXAMPLES)
    tiny_tokenizer("a b c d e f", truncation=True, max_length=2, padding="max_length")
    assert same(Encoder(tiny_tokenizer).encode(EXAMPLES), whole)
