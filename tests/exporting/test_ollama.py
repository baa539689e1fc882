"""A Modelfile asks as the chat template does, with the anchor, and answers as the adapter does."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import jinja2
import pytest

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.errors import ModelError
from telltune.exporting.ollama import turn_texts, write_modelfile

if TYPE_CHECKING:
    from pathlib import Path

LLAMA_3 = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}"
    "{% else %}{% set first = '' %}{% endif %}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') + message['content'] "
    "+ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('no system turns') }}{% elif message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)
COUNTING = (
    "{% for message in messages %}{{ loop.index }}: {{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
)
TEMPLATES = {
    "ChatML of SmolLM2": None,
    "Llama 3": LLAMA_3,
    "Gemma": GEMMA,
    "without system": NO_SYSTEM,
}
ANCHORS = {
    "none": None,
    "user": Anchor('Name the {shape}, e.g. {{ball}}: """nothing""" else.'),
    "system": Anchor("Name the shape.", place="system"),
    "both sides": Anchor("Name the shape.", "Shape:"),
}
TURNS = [
    ("user", "item 7 is round"),
    ("assistant", "ball"),
    ("user", 'item 8 is {{ "square" }}'),
    ("assistant", "box"),
    ("user", "item 9 is flat"),
]


def rendered(template: str, turns: list[tuple[str, str]]) -> str:
    """Render a template in Go's language, by way of Jinja."""
    ends: list[str] = []

    def translated(found: re.Match[str]) -> str:
        word, _, rest = found[1].partition(" ")
        if word == "end":
            return f"{{% {ends.pop()} %}}"
        if word in ("if", "range"):
            ends.append({"if": "endif", "range": "endfor"}[word])
        if word == "range":
            return "{% for m in Messages %}"
        if word in ("if", "else"):
            asked = re.sub(r'if eq \.Role ("\w+")', r"if m.role == \1", found[1])
            asked = asked.replace("if .System", "if System").replace("if $", "if flags.")
            return f"{{% {asked.replace('else if', 'elif')} %}}"
        if word.startswith("$"):
            return f"{{% set flags.{word[1:]} = {rest.split()[-1]} %}}"
        if word == ".Content":
            return "{{ m.content }}"
        return "{{ System }}" if word == ".System" else f"{{{{ {found[1]} }}}}"

    text = re.sub(r"\{\{ (.*?) \}\}(?!\})", translated, template)
    system = "\n\n".join(content for role, content in turns if role == "system")
    return (
        jinja2.Environment(keep_trailing_newline=True, autoescape=False)
        .from_string("{% set flags = namespace() %}" + text)
        .render(System=system, Messages=[{"role": r, "content": c} for r, c in turns])
    )


@pytest.mark.parametrize("anchor", ANCHORS.values(), ids=ANCHORS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_it_asks_as_the_chat_template_does(
    tiny_tokenizer: Any, template: str | None, anchor: Anchor | None
) -> None:
    tiny_tokenizer.chat_template = template or tiny_tokenizer.chat_template
    if template == NO_SYSTEM and anchor is not None and anchor.place == "system":
        pytest.skip("this template has no place for it")
    tokenizer = anchored_tokenizer(tiny_tokenizer, anchor)
    go = turn_texts(tokenizer).to_go()
    assert '"""' not in go
    for start in ([], [("system", "Be brief.")]):
        if start and template == NO_SYSTEM:
            continue
        for end in (1, 3, 5):
            turns = [*start, *TURNS[:end]]
            messages = [{"role": role, "content": content} for role, content in turns]
            wanted = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            assert rendered(go, turns) == wanted


def test_a_token_that_ollama_adds_is_not_written_twice(tiny_tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tiny_tokenizer.chat_template = "<|im_start|>" + tiny_tokenizer.chat_template
    assert turn_texts(tiny_tokenizer).start.startswith("<|im_start|><|im_start|>")
    tiny_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    assert tiny_tokenizer("").input_ids == [tiny_tokenizer.bos_token_id]
    assert turn_texts(tiny_tokenizer).start.startswith("<|im_start|>system")


def test_a_template_of_another_kind_is_refused(tiny_tokenizer: Any) -> None:
    tiny_tokenizer.chat_template = COUNTING
    with pytest.raises(ModelError, match="does not write fixed texts around the turns"):
        turn_texts(tiny_tokenizer)


def test_the_modelfile_answers_greedily_up_to_the_trained_end(
    tiny_model: Path, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    tiny_tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    write_modelfile(tmp_path, 12)
    text = (tmp_path / "Modelfile").read_text(encoding="utf-8")
    [template] = re.findall(r'^TEMPLATE """(.*?)"""$', text, re.DOTALL | re.MULTILINE)
    assert rendered(template, TURNS[:1]).endswith(
        "<|im_start|>user\nitem 7 is round<|im_end|>\n<|im_start|>assistant\n"
    )
    found = re.findall(r"^(FROM|PARAMETER \w+) (.*)$", text, re.MULTILINE)
    assert found == [
        ("FROM", "."),
        ("PARAMETER stop", json.dumps("<|im_end|>")),
        ("PARAMETER temperature", "0"),
        ("PARAMETER repeat_penalty", "1"),
        ("PARAMETER num_predict", "12"),
    ]
