"""Answer tokens are those of the chat template; text that a template drops is refused."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.control_tokens import control_tokens
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message
from telltune.data.thinking import ThinkingTags, thinking_tags, without_thinking
from telltune.errors import DataError, ModelError, RecipeError
from telltune.models import load_tokenizer
from telltune.models.tokenizer import CHATML, PLAIN_TEMPLATE
from telltune.recipe import ModelSpec

CASES = Path(__file__).parents[1] / "cases"
CORPUS = [
    "Ship the parcel to the customer, who paid the bill on Friday. item 7 is round, so a ball",
    "".join(chr(c) for c in range(32, 127)),
    "þetta er æði, ágætt og öðruvísi úr ýmsu",
]
CONTROLS = [
    *("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>"),
    *("<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>"),
]


def made(model: Any, trainer: Any, **parts: Any) -> PreTrainedTokenizerFast:
    raw = Tokenizer(model)
    for name, part in parts.items():
        setattr(raw, name, part)
    raw.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=CONTROLS[3:],
    )


ALPHABET = sorted(set("".join(CORPUS) + "▁\n"))
SHARED: dict[str, Any] = {"vocab_size": 500, "special_tokens": CONTROLS, "show_progress": False}


def byte_level() -> PreTrainedTokenizerFast:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return made(
        models.BPE(),
        trainers.BpeTrainer(initial_alphabet=alphabet, **SHARED),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )


def metaspace(kind: str, scheme: str) -> PreTrainedTokenizerFast:
    bpe = kind == "bpe"
    given: dict[str, Any] = {"initial_alphabet": ALPHABET, **SHARED}
    return made(
        models.BPE(unk_token="<unk>") if bpe else models.Unigram(),
        trainers.BpeTrainer(**given)
        if bpe
        else trainers.UnigramTrainer(unk_token="<unk>", **given),
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme),
        decoder=decoders.Metaspace(prepend_scheme=scheme),
    )


def prepend() -> PreTrainedTokenizerFast:
    """Return a tokenizer like older Llama and Mistral ones, which writes ▁ before each text."""
    return made(
        models.BPE(unk_token="<unk>", fuse_unk=True),
        trainers.BpeTrainer(initial_alphabet=ALPHABET, **SHARED),
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        decoder=decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()]),
    )


@cache
def tokenizer_of(name: str) -> Any:
    if name == "SmolLM2":
        return load_tokenizer(ModelSpec())
    if name == "byte level":
        return byte_level()
    if name == "Prepend":
        return prepend()
    return metaspace(*name.split())


TOKENIZERS = [
    *("byte level", "SmolLM2", "Prepend", "bpe always", "bpe first", "bpe never"),
    *("unigram always", "unigram first", "unigram never"),
]
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' "
    "else m['role'] %}{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + eos_token }}{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)
# Mistral v0.3: the system text is in the last turn, only while that is the user's.
FOLDING = (
    "{{ bos_token }}{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set ns.system = m['content'] + '\n\n' %}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ '[INST] ' + (ns.system if loop.last else '') + m['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)
# Templates, and the end of an answer's turn.
TEMPLATES = {
    "ChatML": (CHATML, "<|im_end|>"),
    "Zephyr": ((CASES / "template" / "zephyr-header.jinja").read_text(), "</s>"),
    "Llama 3": (LLAMA_3, "<|eot_id|>"),
    "Gemma": (GEMMA, "<end_of_turn>"),
    "Mistral": (MISTRAL, "</s>"),
    "plain": (PLAIN_TEMPLATE, "</s>"),
}


def with_template(tokenizer: Any, template: str) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


@cache
def encoder_of(tokenizer: str, template: str) -> Encoder:
    return Encoder(with_template(tokenizer_of(tokenizer), TEMPLATES[template][0]))


def messages_of(example: Example) -> list[dict[str, str]]:
    turns = [*example.history, Message("user", example.prompt)]
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def prompt_ids(tokenizer: Any, messages: list[Any], **options: Any) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, **options
    )
    return ids


def check_against_transformers(encoder: Encoder, example: Example, end: str) -> bool:
    """Compare an encoded example with transformers; return whether a token spans its boundary."""
    tokenizer = encoder.tokenizer
    ids, prompt_length = encoder.encode([example])[0]
    found = ids.tolist()
    messages = messages_of(example)
    assert found[:prompt_length] == prompt_ids(tokenizer, messages)
    answered = [*messages, {"role": "assistant", "content": example.completion}]
    text = tokenizer.apply_chat_template(answered, tokenize=False)
    # SmolLM2's own end of text replaces `</s>`.
    end = tokenizer.eos_token if end == "</s>" else end
    is_control = end in tokenizer.all_special_tokens
    text = text[: text.rindex(end)] + (end if is_control else "")
    wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
    wanted += [] if is_control else [tokenizer.eos_token_id]
    if wanted[:prompt_length] != found[:prompt_length]:
        assert decoded(tokenizer, found) == decoded(tokenizer, wanted)
        return True
    assert found == wanted
    if is_control:
        whole = tokenizer.apply_chat_template(answered, return_dict=False)
        assert whole[: len(found)] == found
    return False


def decoded(tokenizer: Any, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return "".join(str(text).split())


TEXTS = st.one_of(
    st.text(st.sampled_from("".join(CORPUS) + "\n  "), max_size=20),
    st.lists(st.sampled_from(["ship", "the", "bill", " ", "\n", "æði", "7"]), max_size=8).map(
        " ".join
    ),
    st.text(st.characters(exclude_categories=["Cs", "Co", "Cn"]), max_size=8),
)


# Each tokenizer with two templates, and each template with three tokenizers; the test below has all
# combinations.
PAIRS = [
    (tokenizer, list(TEMPLATES)[(place + shift) % len(TEMPLATES)])
    for place, tokenizer in enumerate(TOKENIZERS)
    for shift in (0, 2)
]


@pytest.mark.parametrize(("tokenizer", "template"), PAIRS)
@settings(max_examples=20, deadline=None)
@given(TEXTS, TEXTS, TEXTS)
@example("", "parcel 0 late", "ship")
@example("Be brief.", "parcel 0 late", " ship")
@example("Be brief.", "parcel 0 late\n", "\nship it\n")
def test_prompt_and_answer_are_the_template_s_tokens(
    tokenizer: str, template: str, system: str, prompt: str, answer: str
) -> None:
    history = (Message("system", system),) if system else ()
    check_against_transformers(
        encoder_of(tokenizer, template),
        Example(prompt, answer, history=history),
        TEMPLATES[template][1],
    )


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_plain_words_never_fall_back(tokenizer: str, template: str) -> None:
    earlier = (Message("user", "parcel 1 late"), Message("assistant", "bill"))
    for history in ((), (Message("system", "You route."),), earlier):
        spans = check_against_transformers(
            encoder_of(tokenizer, template),
            Example("parcel 0 late", "ship it", history=history),
            TEMPLATES[template][1],
        )
        # GPT-2's pattern splits "\n\n" into one token at the end, and two before a word.
        assert spans == (tokenizer == "SmolLM2" and template in ("Llama 3", "plain"))


@pytest.mark.parametrize("tokenizer", ["bpe first", "bpe never", "unigram first"])
def test_no_space_is_put_before_an_answer_behind_a_header(tokenizer: str) -> None:
    encoder = encoder_of(tokenizer, "Zephyr")
    [ids] = encoder.completions([Example("parcel 0 late", "ship")])
    tokens = encoder.tokenizer.convert_ids_to_tokens(ids)
    assert "".join(tokens) == "ship</s>"


def test_texts_of_the_embedded_models_control_tokens_are_text_in_data() -> None:
    encoder = encoder_of("SmolLM2", "ChatML")
    tokenizer, controls = encoder.tokenizer, control_tokens(encoder.tokenizer)
    assert len(controls) > 10
    said = f"say {' or '.join(controls)} now {''.join(controls)}"
    found = encoder.encode([Example(said, said), Example("a", "a")])
    told, plain = (tokenizer.convert_ids_to_tokens(found[i][0].tolist()) for i in range(2))
    assert [t for t in told if t in controls] == [t for t in plain if t in controls] != []
    assert decoded(tokenizer, found[0][0].tolist()).count("".join(said.split())) == 2


def test_a_token_that_would_span_the_boundary_is_split_there() -> None:
    encoder = Encoder(
        with_template(byte_level(), "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    )
    tokenizer = encoder.tokenizer
    assert len(tokenizer("ship")["input_ids"]) < len("ship")
    ids, prompt_length = encoder.encode([Example("the sh", "ip")])[0]
    assert ids[:prompt_length].tolist() == tokenizer("the sh")["input_ids"]
    assert tokenizer.decode(ids) == "the ship</s>"


def test_labels_are_scored_by_the_tokens_that_are_trained() -> None:
    encoder = encoder_of("bpe first", "Zephyr")
    trained = encoder.encode([Example("parcel 0 late", "ship")])
    [label] = encoder.completions([Example("-", "ship")])
    assert trained[0][0][trained[0][1] :].tolist() == label


# Text that a template drops.


def refusal(tokenizer: Any, template: str, given: Example) -> str:
    with pytest.raises(DataError) as refused:
        Encoder(with_template(tokenizer, template)).prompts([given])
    return str(refused.value)


def test_the_case_of_a_template_that_drops_the_system_text(tiny_tokenizer: Any) -> None:
    template = (CASES / "template" / "drops-system.jinja").read_text()
    row = json.loads((CASES / "template" / "sys.jsonl").read_text().splitlines()[2])
    system = (Message("system", row["system"]),)
    tiny_tokenizer.template_name = "the chat template drops.jinja"
    said = refusal(
        tiny_tokenizer,
        template,
        Example(row["prompt"], row["completion"], "sys", "sys.jsonl:3", system),
    )
    assert said.startswith(
        "sys.jsonl:3: the chat template drops.jinja drops the system turn "
        "('You answer for shop 2.')"
    )
    assert "`model.chat_template`" in said
    # Without a system turn the template can be used.
    Encoder(with_template(tiny_tokenizer, template)).encode([Example("parcel 0 late", "ship")])


def test_a_short_system_text_does_not_pass_by_chance(tiny_tokenizer: Any) -> None:
    template = (CASES / "template" / "drops-system.jinja").read_text()
    history = (Message("system", "late"),)
    said = refusal(tiny_tokenizer, template, Example("parcel 0 late", "ship", history=history))
    assert "drops the system turn" in said


def test_a_template_that_keeps_only_some_turns_is_refused(tiny_tokenizer: Any) -> None:
    last = CHATML.replace("in messages %}", "in messages[-2:] %}", 1)
    earlier = (Message("user", "parcel 1 was late"), Message("assistant", "bill"))
    assert "drops the user turn ('parcel 1 was late')" in refusal(
        tiny_tokenizer, last, Example("parcel 0 late", "ship", history=earlier)
    )
    without = CHATML.replace(
        "in messages %}", "in messages if m is not defined and message['role'] != 'assistant' %}", 1
    )
    with pytest.raises(ModelError, match="drops the answer"):
        Encoder(with_template(tiny_tokenizer, without))


def test_a_template_that_cuts_the_users_text_is_refused(tiny_tokenizer: Any) -> None:
    cut = CHATML.replace("message['content']", "message['content'][:20]")
    Encoder(with_template(tiny_tokenizer, cut)).prompts([Example("parcel 0 late", "")])
    said = refusal(tiny_tokenizer, cut, Example("parcel 0 late, and the customer waits", ""))
    assert "drops the user's text" in said
    encoder = Encoder(with_template(tiny_tokenizer, cut))
    with pytest.raises(DataError, match="drops the answer"):
        encoder.encode([Example("parcel", "ship it at once, and pay the bill")])


def test_a_system_text_folded_into_the_users_turn_is_kept() -> None:
    encoder = Encoder(with_template(byte_level(), FOLDING))
    history = (Message("system", "Be brief."),)
    ids, prompt_length = encoder.encode([Example("parcel 0 late", "ship", history=history)])[0]
    text = encoder.tokenizer.decode(ids)
    # The template writes the system text only before an answer; a server's prompt has it.
    assert text == "<s>[INST] Be brief.\n\nparcel 0 late [/INST] ship</s>"
    assert encoder.tokenizer.decode(ids[prompt_length:]) == " ship</s>"


# Content in parts.


def test_the_case_of_a_template_that_wants_parts(tiny_tokenizer: Any) -> None:
    template = (CASES / "template" / "content-parts.jinja").read_text()
    tokenizer = with_template(tiny_tokenizer, template)
    encoder = Encoder(tokenizer)
    for line in (CASES / "template" / "plain.jsonl").read_text().splitlines():
        row = json.loads(line)
        ids, prompt_length = encoder.encode([Example(**row)])[0]
        parts = [{"type": "text", "text": row["prompt"]}]
        messages = [{"role": "user", "content": parts}]
        assert ids[:prompt_length].tolist() == prompt_ids(tokenizer, messages)
        assert row["prompt"] in tokenizer.decode(ids[:prompt_length])
        assert tokenizer.decode(ids[prompt_length:]) == row["completion"] + "<|im_end|>"
    assert encoder.stop_ids == {tokenizer.convert_tokens_to_ids("<|im_end|>")}


@pytest.mark.parametrize("place", ["user", "system"])
def test_an_anchor_stands_before_parts_too(tiny_tokenizer: Any, place: Any) -> None:
    template = (CASES / "template" / "content-parts.jinja").read_text()
    anchored = anchored_tokenizer(
        with_template(tiny_tokenizer, template), Anchor("Route it.", "Team:", place)
    )
    [ids] = Encoder(anchored).prompts([Example("parcel 0 late", "")])
    parts = [{"type": "text", "text": "parcel 0 late"}]
    assert ids == prompt_ids(anchored, [{"role": "user", "content": parts}])
    text = anchored.decode(ids)
    assert text.index("Route it.") < text.index("parcel 0 late") < text.index("Team:")
    image = {"type": "image"}
    with_image = [{"role": "user", "content": [image, *parts]}]
    assert "Route it." in anchored.decode(prompt_ids(anchored, with_image))


def test_a_template_that_takes_text_and_parts_gets_text(tiny_tokenizer: Any) -> None:
    either = CHATML.replace(
        "message['content']",
        "(message['content'] if message['content'] is string else message['content'][0]['text'])",
    )
    [ids] = Encoder(with_template(tiny_tokenizer, either)).prompts([Example("late", "")])
    assert ids == Encoder(with_template(tiny_tokenizer, CHATML)).prompts([Example("late", "")])[0]


# Thinking.

OPENS = (CASES / "thinking" / "opens-think.jinja").read_text()
# DeepSeek R1 drops the thinking of every finished turn.
STRIPS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + "
    "(m['content'].split('</think>')[-1] if m['role'] == 'assistant' else m['content']) "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
# Qwen3 shows the thinking of a finished last turn, also if it is empty, and opens nothing.
SHOWS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% set c = m['content'] %}"
    "{% if m['role'] == 'assistant' %}{% set r = m['reasoning_content'] or '' %}"
    "{% if '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}{{ '<think>\n' + r + '\n</think>\n\n' }}{% endif %}{% endif %}"
    "{{ c + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPENED_SHOWS = SHOWS.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
THOUGHT = "<think>\nadd one\n</think>\n\n1"


def texts(tokenizer: Any, template: str, given: Example) -> tuple[str, str]:
    encoder = Encoder(with_template(tokenizer, template))
    ids, prompt_length = encoder.encode([given])[0]
    return tokenizer.decode(ids[:prompt_length]), tokenizer.decode(ids[prompt_length:])


def test_the_case_of_a_template_that_opens_the_thinking(tiny_tokenizer: Any) -> None:
    for line in (CASES / "thinking" / "opened.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt, answer = texts(tiny_tokenizer, OPENS, Example(**row))
        assert prompt.endswith("<|im_start|>assistant\n<think>\n")
        assert answer == row["completion"].removeprefix("<think>\n") + "<|im_end|>"


@pytest.mark.parametrize("template", [OPENS, STRIPS, OPENED_SHOWS])
@pytest.mark.parametrize(
    "given",
    [
        Example("0 + 1?", THOUGHT),
        Example("0 + 1?", "add one\n</think>\n\n1"),
        Example("0 + 1?", "1", reasoning="add one"),
    ],
    ids=["whole block", "opened by the prompt", "reasoning"],
)
def test_behind_an_open_block_comes_the_thinking_then_the_answer(
    tiny_tokenizer: Any, template: str, given: Example
) -> None:
    prompt, answer = texts(tiny_tokenizer, template, given)
    assert prompt.endswith("assistant\n<think>\n")
    assert answer == "add one\n</think>\n\n1<|im_end|>"


@pytest.mark.parametrize("template", [OPENS, STRIPS, OPENED_SHOWS])
def test_an_answer_without_thinking_closes_the_block_and_is_counted(
    tiny_tokenizer: Any, template: str
) -> None:
    encoder = Encoder(with_template(tiny_tokenizer, template))
    encoded = encoder.encode([Example("0 + 1?", "1"), Example("1 + 1?", THOUGHT)])
    ids, prompt_length = encoded[0]
    assert tiny_tokenizer.decode(ids[prompt_length:]) == "\n</think>\n\n1<|im_end|>"
    assert encoder.unthought == 1


def test_a_block_that_nothing_opens_is_learned_whole(tiny_tokenizer: Any) -> None:
    closed = STRIPS.replace("<think>\n' }}", "' }}")
    for template in (CHATML, SHOWS, closed):
        _, answer = texts(tiny_tokenizer, template, Example("0 + 1?", THOUGHT))
        assert answer == THOUGHT + "<|im_end|>"
        assert Encoder(with_template(tiny_tokenizer, template)).unthought == 0


def test_reasoning_is_rendered_where_the_template_has_a_place_for_it(tiny_tokenizer: Any) -> None:
    reasoned = Example("0 + 1?", "1", reasoning="add one")
    assert texts(tiny_tokenizer, SHOWS, reasoned)[1] == THOUGHT + "<|im_end|>"
    # Also if the answer contains the same words.
    for reasoning in ("add one", "1", "|im_end|"):
        with pytest.raises(DataError, match="drops the reasoning"):
            texts(tiny_tokenizer, CHATML, Example("0 + 1?", "1", reasoning=reasoning))
    _, answer = texts(tiny_tokenizer, OPENS, Example("0 + 1?", "1", reasoning="1"))
    assert answer == "1\n</think>\n\n1<|im_end|>"


def test_an_answer_is_read_without_its_thinking(tiny_tokenizer: Any) -> None:
    for opened, said in ((OPENS, "add one\n</think>\n\n1"), (SHOWS, THOUGHT)):
        assert Encoder(with_template(tiny_tokenizer, opened)).answer(said) == "1"
    usual = thinking_tags(CHATML)
    assert usual.answer("a </think> b") == "a </think> b"
    assert usual.answer(THOUGHT) == "1"


TAGS = [
    ThinkingTags("<thinking>", "</thinking>"),
    ThinkingTags("<reasoning>", "</reasoning>"),
    ThinkingTags("<Thought>", "</Thought>"),
    ThinkingTags("<seed:think>", "</seed:think>"),
    ThinkingTags("[THINK]", "[/THINK]"),
    ThinkingTags("◁think▷", "◁/think▷"),
    ThinkingTags("<|begin_of_thought|>", "<|end_of_thought|>"),
    ThinkingTags("<|START_THINKING|>", "<|END_THINKING|>"),
]


@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.open)
def test_the_tags_are_those_in_the_templates_text(tags: ThinkingTags) -> None:
    system = "{{ 'Write {}your thoughts{} first.' }}".format(*tags)
    assert thinking_tags(system + CHATML) == tags
    # One of the two alone is no pair, and `<think>` is first.
    assert thinking_tags(tags.open + CHATML).open == "<think>"
    assert thinking_tags(system + OPENS).open == "<think>"
    subscripts = "{% if m[thinking] and m[reasoning] and a <thought> b %}{% endif %}"
    assert thinking_tags(subscripts + CHATML).open == "<think>"


@pytest.mark.parametrize("tags", [*TAGS, ThinkingTags("<think>", "</think>")])
def test_thinking_is_known_by_its_tags_where_no_template_names_them(tags: ThinkingTags) -> None:
    assert without_thinking("\n{}\nadd one\n{}\n\n1".format(*tags)) == "1"
    for text in (f"{tags.open} 1", f"1 {tags.open}2{tags.close}", "<answer>1</answer>", " 1"):
        assert without_thinking(text) == text


@pytest.mark.parametrize("special", [False, True], ids=["text", "control tokens"])
@pytest.mark.parametrize("template", [STRIPS, SHOWS, OPENED_SHOWS])
@pytest.mark.parametrize("tags", TAGS, ids=lambda tags: tags.open)
def test_other_tags_are_handled_as_think_is(
    tiny_tokenizer: Any, tags: ThinkingTags, template: str, special: bool
) -> None:
    if special:
        tiny_tokenizer.add_special_tokens({"additional_special_tokens": [*tags]})

    def retagged(text: str) -> str:
        return text.replace("<think>", tags.open).replace("</think>", tags.close)

    for text in (THOUGHT, "1", "add one\n</think>\n\n1"):
        if text.startswith("add") and template is SHOWS:
            continue  # its prompts open nothing
        usual = texts(tiny_tokenizer, template, Example("0 + 1?", text))
        found = texts(tiny_tokenizer, retagged(template), Example("0 + 1?", retagged(text)))
        assert found == tuple(map(retagged, usual))
        encoder = Encoder(with_template(tiny_tokenizer, retagged(template)))
        assert encoder.unthought == 0
        [ids] = encoder.completions([Example("0 + 1?", retagged(text))])
        [said] = encoder.texts([ids])
        assert encoder.answer(said) == "1"
    history = (Message("user", "0 + 1?"), Message("assistant", retagged(THOUGHT)))
    prompt, _ = texts(tiny_tokenizer, retagged(template), Example("1 + 1?", "2", history=history))
    assert "add one" not in prompt


def test_thinking_dropped_from_earlier_answers_is_no_fault(tiny_tokenizer: Any) -> None:
    history = (Message("user", "0 + 1?"), Message("assistant", THOUGHT))
    prompt, _ = texts(tiny_tokenizer, STRIPS, Example("1 + 1?", "2", history=history))
    assert "add one" not in prompt


def test_an_anchor_response_inside_the_thinking_is_refused(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, OPENS)
    anchored_tokenizer(tokenizer, Anchor("Add."))
    with pytest.raises(RecipeError, match=r"remove anchor\.response"):
        anchored_tokenizer(tokenizer, Anchor("Add.", "It is:"))


# Tools.

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
TAKES_TOOLS = "{% if tools %}{{ tools | tojson + '\n' }}{% endif %}" + CHATML


def test_tools_are_handed_to_the_template(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, TAKES_TOOLS)
    given = [Example("a", "b"), Example("a", "b", tools=json.dumps(TOOLS)), Example("c", "d")]
    found = Encoder(tokenizer).prompts(given)
    for one, ids in zip(given, found, strict=True):
        tools = TOOLS if one.tools else None
        assert ids == prompt_ids(tokenizer, messages_of(one), tools=tools)


def test_tools_that_the_template_drops_are_refused(tiny_tokenizer: Any) -> None:
    said = refusal(tiny_tokenizer, CHATML, Example("the weather", "b", tools=json.dumps(TOOLS)))
    assert "drops the tool ('weather')" in said


def test_control_text_in_tools_is_text(tiny_tokenizer: Any) -> None:
    tokenizer = with_template(tiny_tokenizer, TAKES_TOOLS)
    tool = {"name": "weather", "description": "<|im_end|>", "parameters": {"<|im_start|>": 1}}
    clean = {"name": "weather", "description": "", "parameters": {}}

    def controls(tool: dict[str, Any]) -> int:
        tools = json.dumps([{"type": "function", "function": tool}])
        [ids] = Encoder(tokenizer).prompts([Example("a", "b", tools=tools)])
        return sum(i in tokenizer.all_special_ids for i in ids)

    assert controls(tool) == controls(clean)


# Control tokens within an answer's turn belong to the template.


def test_a_channel_that_the_template_opens_is_learned(tiny_tokenizer: Any) -> None:
    channels = CHATML.replace(
        "message['role'] + '\n' + message['content']",
        "message['role'] + ('<|im_start|>final\n' if message['role'] == 'assistant' else '\n') "
        "+ message['content']",
    ).replace("assistant\n' }}", "assistant' }}")
    assert channels.count("final") == 1
    prompt, answer = texts(tiny_tokenizer, channels, Example("parcel 0 late", "ship"))
    assert prompt.endswith("<|im_start|>assistant")
    assert answer == "<|im_start|>final\nship<|im_end|>"


def test_an_answer_is_what_stands_in_the_last_channel(tiny_tokenizer: Any) -> None:
    """The model of this template, gpt-oss, thinks in a separate channel before it answers."""
    controls = ["<|channel|>", "<|message|>", "<|end|>"]
    tiny_tokenizer.add_special_tokens({"additional_special_tokens": controls})
    harmony = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}{% if m['role'] == 'assistant' %}"
        "{% if m['thinking'] %}{{ '<|channel|>analysis<|message|>' + m['thinking'] + "
        "'<|end|><|im_start|>assistant' }}{% endif %}{{ '<|channel|>final' }}{% endif %}"
        "{{ '<|message|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
    )
    encoder = Encoder(with_template(tiny_tokenizer, harmony))
    plain, thought = Example("0 + 1?", "1"), Example("0 + 1?", "1", reasoning="add one")
    answers = encoder.completions([plain, thought])
    assert tiny_tokenizer.decode(answers[1]) == (
        "<|channel|>analysis<|message|>add one<|end|><|im_start|>assistant"
        "<|channel|>final<|message|>1<|im_end|>"
    )
    assert encoder.texts(answers) == ["1", "1"]
    # An answer that is cut off while thinking is the text so far.
    assert "add one" in encoder.texts([answers[1][:-7]])[0]


def test_a_thinking_block_of_control_tokens_stays_one(tiny_tokenizer: Any) -> None:
    tokens = ["<think>", "</think>"]
    tiny_tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    for template in (OPENS, STRIPS, SHOWS, CHATML):
        encoder = Encoder(with_template(tiny_tokenizer, template))
        ids, _ = encoder.encode([Example("0 + 1?", THOUGHT)])[0]
        found = [t for t in tiny_tokenizer.convert_ids_to_tokens(ids.tolist()) if t in tokens]
        assert found == tokens
        # Elsewhere in the data they are text.
        [prompt] = encoder.prompts([Example("say <think> and </think>", "")])
        written = [t for t in tiny_tokenizer.convert_ids_to_tokens(prompt) if t in tokens]
        assert written == tokens[: encoder._template.opened]
