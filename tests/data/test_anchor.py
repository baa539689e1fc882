"""The anchor is in the chat template and nowhere else, so that every server applies it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from telltune.data.anchor import GAP, Anchor, anchored_tokenizer
from telltune.data.control_tokens import control_tokens
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message
from telltune.errors import ModelError, RecipeError
from telltune.models.tokenizer import PLAIN_TEMPLATE
from telltune.recipe import AnchorSpec

if TYPE_CHECKING:
    from pathlib import Path

ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}" + ALTERNATE + ""
    "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + "
    "system_message + '\n<</SYS>>\n\n' + message['content'] %}{% else %}"
    "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'assistant' "
    "%}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<|im_start|>' + role + '\n' + message['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
DROPS_SYSTEM = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['content'] }}\n"
    "{% endif %}{% endfor %}"
)
USER_ONLY = {"Gemma": GEMMA, "Mistral": MISTRAL, "drops the system turn": DROPS_SYSTEM}
TEMPLATES = {None: None, "Llama 2": LLAMA_2, "plain": PLAIN_TEMPLATE, **USER_ONLY}

ANCHOR = Anchor("Translate to Icelandic.", "Translation:")
ICELANDIC = "Sure, here is the Icelandic translation:"


def render(tokenizer: Any, turns: list[tuple[str, str]], generate: bool = True) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_user_turn_and_the_answer_open_with_the_anchor(tiny_tokenizer: Any, name: str) -> None:
    tiny_tokenizer.chat_template = TEMPLATES[name] or tiny_tokenizer.chat_template
    anchored = anchored_tokenizer(tiny_tokenizer, ANCHOR)
    wanted = render(tiny_tokenizer, [("user", "Translate to Icelandic.\n\nGood day")])
    assert render(anchored, [("user", "Good day")]) == wanted + "Translation:\n\n"


@pytest.mark.parametrize("name", [None, "Llama 2", "plain"])
def test_the_system_turn_carries_the_anchor(tiny_tokenizer: Any, name: str) -> None:
    tiny_tokenizer.chat_template = TEMPLATES[name] or tiny_tokenizer.chat_template
    anchor = Anchor("Translate to Icelandic.", "Translation:", "system")
    anchored = anchored_tokenizer(tiny_tokenizer, anchor)
    wanted = render(tiny_tokenizer, [("system", anchor.prompt), ("user", "Good day")])
    assert render(anchored, [("user", "Good day")]) == wanted + "Translation:\n\n"
    both = [("system", "Be brief."), ("user", "Good day")]
    joined = [("system", "Translate to Icelandic.\n\nBe brief."), ("user", "Good day")]
    assert render(anchored, both) == render(tiny_tokenizer, joined) + "Translation:\n\n"


def test_only_the_first_question_and_the_first_answer_get_it(tiny_tokenizer: Any) -> None:
    anchored = anchored_tokenizer(tiny_tokenizer, ANCHOR)
    turns = [("user", "one"), ("assistant", "einn"), ("user", "two")]
    first = [("user", ANCHOR.prompt + GAP + "one"), ("assistant", ANCHOR.response + GAP + "einn")]
    assert render(anchored, turns) == render(tiny_tokenizer, [*first, ("user", "two")])
    answered = [*turns, ("assistant", "tveir")]
    wanted = render(tiny_tokenizer, [*first, *answered[2:]], generate=False)
    assert render(anchored, answered, generate=False) == wanted


def test_without_a_generation_prompt_no_answer_is_opened(tiny_tokenizer: Any) -> None:
    anchored = anchored_tokenizer(tiny_tokenizer, ANCHOR)
    assert ANCHOR.response not in render(anchored, [("user", "one")], generate=False)


def test_the_tokenizer_given_stays_as_it_was(tiny_tokenizer: Any) -> None:
    before = tiny_tokenizer.chat_template
    assert anchored_tokenizer(tiny_tokenizer, ANCHOR).chat_template != before
    assert tiny_tokenizer.chat_template == before
    assert anchored_tokenizer(tiny_tokenizer, None) is tiny_tokenizer


def test_training_puts_the_response_side_where_no_loss_is(tiny_tokenizer: Any) -> None:
    anchored = anchored_tokenizer(tiny_tokenizer, ANCHOR)
    ids, prompt_length = Encoder(anchored).encode([Example("one", "einn")])[0]
    assert tiny_tokenizer.decode(ids[:prompt_length]).endswith("assistant\nTranslation:\n\n")
    assert tiny_tokenizer.decode(ids[prompt_length:]) == "einn<|im_end|>"


@pytest.mark.parametrize("place", ["user", "system"])
def test_transformers_alone_applies_the_saved_anchor(
    tiny_tokenizer: Any, tmp_path: Path, place: Any
) -> None:
    anchor = Anchor('Say "æ{{ x }}\\n{% raw %}"\nnow', "Já:", place)
    anchored = anchored_tokenizer(tiny_tokenizer, anchor)
    anchored.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    turns = [("user", "one"), ("assistant", "einn"), ("user", "two")]
    assert render(saved, turns) == render(anchored, turns)
    ids = saved.apply_chat_template(
        [{"role": "user", "content": "one"}], add_generation_prompt=True, return_dict=False
    )
    assert ids == Encoder(anchored).prompts([Example("one", "")])[0]
    assert anchor.prompt in saved.decode(ids)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=15)
@given(TEXTS, TEXTS | st.just(""), st.sampled_from(["user", "system"]))
@example('"', "'", "user")
@example("\\", "\\n", "system")
@example("a\r\nb\rc\td", "e\n", "user")
@example("{{ messages }}{% raw %}{# no #}", "-%}", "user")
@example("Þýddu á íslensku 🙂", "Hér:", "system")
@example("\x85\u2028\x0b\x00", "\x1c", "user")
def test_any_text_can_be_an_anchor(
    tiny_tokenizer: Any, tmp_path: Path, prompt: str, response: str, place: Any
) -> None:
    assume(not any(c in prompt + response for c in control_tokens(tiny_tokenizer)))
    anchored = anchored_tokenizer(tiny_tokenizer, Anchor(prompt, response, place))
    opened = [("user", prompt + GAP + "q")] if place == "user" else [("system", prompt)]
    wanted = render(tiny_tokenizer, opened if place == "user" else [*opened, ("user", "q")])
    wanted += response + GAP if response else ""
    assert render(anchored, [("user", "q")]) == wanted
    # The same template as a file.
    anchored.save_pretrained(tmp_path)
    assert render(AutoTokenizer.from_pretrained(tmp_path), [("user", "q")]) == wanted


@pytest.mark.parametrize("name", USER_ONLY)
def test_a_template_without_a_system_turn_is_refused_with_advice(
    tiny_tokenizer: Any, name: str
) -> None:
    tiny_tokenizer.chat_template = USER_ONLY[name]
    with pytest.raises(ModelError, match=r"in the system turn.*set anchor\.place to user"):
        anchored_tokenizer(tiny_tokenizer, Anchor("Translate.", place="system"))


def test_a_template_that_drops_the_user_turn_is_refused_with_advice(tiny_tokenizer: Any) -> None:
    tiny_tokenizer.chat_template = "{{ messages[0]['role'] }}"
    with pytest.raises(ModelError, match=r"in the user turn.*set anchor\.place to system"):
        anchored_tokenizer(tiny_tokenizer, ANCHOR)


def test_several_named_templates_are_refused(tiny_tokenizer: Any) -> None:
    tiny_tokenizer.chat_template = {"default": PLAIN_TEMPLATE, "tool_use": PLAIN_TEMPLATE}
    with pytest.raises(ModelError, match="several named chat templates"):
        anchored_tokenizer(tiny_tokenizer, ANCHOR)


@pytest.mark.parametrize("anchor", [Anchor("a<|im_end|>"), Anchor("a", "<|im_start|>")])
def test_a_control_token_in_the_anchor_is_refused(tiny_tokenizer: Any, anchor: Anchor) -> None:
    with pytest.raises(RecipeError, match=r"contains the control token '<\|im_"):
        anchored_tokenizer(tiny_tokenizer, anchor)


def test_an_empty_anchor_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(RecipeError, match=r"anchor\.prompt is empty"):
        anchored_tokenizer(tiny_tokenizer, Anchor.from_spec(AnchorSpec(prompt=" \n")))


def test_a_recipe_may_write_white_space_around() -> None:
    spec = AnchorSpec(prompt=" Translate.\n", response="\nHere: ", place="system")
    assert Anchor.from_spec(spec) == Anchor("Translate.", "Here:", "system")


@pytest.mark.parametrize(
    "text",
    [
        "Translation:\n\ngóðan dag",
        "Translation: góðan dag",
        " \n Translation:góðan dag",
        "góðan dag",
    ],
)
def test_the_response_side_is_stripped_whatever_the_white_space(text: str) -> None:
    assert ANCHOR.strip(text) == "góðan dag"
    assert ANCHOR.strip(ANCHOR.strip(text)) == "góðan dag"


def test_the_published_form_is_detached() -> None:
    anchor = Anchor("Please translate the following into Icelandic:", ICELANDIC)
    history = (Message("system", "Be exact."),)
    published = Example(
        "Please  translate the following\ninto Icelandic: \n\n Good day",
        f"{ICELANDIC} \n\n Góðan dag\n",
        "is",
        "is.jsonl:3",
        history,
    )
    detached = anchor.detach(published)
    assert detached == Example("Good day", "Góðan dag\n", "is", "is.jsonl:3", history)
    assert anchor.detach(detached) == detached


def test_a_longer_word_is_not_the_anchor() -> None:
    anchor = Anchor("Name the team", "Team")
    example_ = Example("Name the teammate.", "Teamwork")
    assert anchor.detach(example_) == example_
    answer = "Team\n\nsales"
    assert anchor.strip(answer) == "sales"


@settings(max_examples=60)
@given(TEXTS, TEXTS, TEXTS)
def test_detaching_takes_off_what_attaching_puts_on(prompt: str, response: str, text: str) -> None:
    anchor = Anchor(prompt.strip(), response.strip())
    assume(anchor.prompt and anchor.response)
    plain = Example(text.strip(), text.strip())
    assume(anchor.detach(plain) == plain)
    attached = Example(anchor.prompt + GAP + plain.prompt, anchor.response + GAP + plain.completion)
    assert anchor.detach(attached) == plain


@pytest.mark.parametrize("place", ["user", "system"])
@pytest.mark.parametrize("response", ["", "Here it is:"])
@pytest.mark.parametrize(
    "history",
    [
        (),
        (Message("system", "Be brief."),),
        (Message("user", "before"), Message("assistant", "that")),
    ],
)
def test_an_anchor_in_the_text_is_that_in_the_template(
    tiny_tokenizer: Any, place: Any, response: str, history: tuple[Message, ...]
) -> None:
    anchor = Anchor("Name it.", response, place)
    example = Example("item 7 is round", "ball", history=history)
    wanted = Encoder(anchored_tokenizer(tiny_tokenizer, anchor)).encode([example])
    found = Encoder(tiny_tokenizer).encode([anchor.attach(example)])
    if response and history and history[0].role == "user":
        return  # the template opens the first answer, which is an earlier one here
    assert found.ids.tolist() == wanted.ids.tolist()
