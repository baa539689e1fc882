"""The anchor: a fixed text added to every task example, in training and at inference.

TELL (arXiv 2404.00914) opens each query with a fixed instruction and each response with a fixed
line. Here the anchor is written into the tokenizer's chat template. Training encodes task data
with the anchored template, and the adapter folder contains it. Any later call of
`apply_chat_template` therefore applies the same anchor without telltune.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from telltune.data.chat_template import ChatTemplate
from telltune.data.control_tokens import ControlTokens
from telltune.data.examples import Example, Message
from telltune.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from telltune.recipe import AnchorSpec

GAP = "\n\n"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A two-sided anchor.

    Attributes:
        prompt: Text at the start of the user turn, or in the system turn.
        response: Text at the start of the answer ("" for none). It is part of the generation
            prompt, so the model never has to generate it.
        place: Turn that contains the prompt side.
    """

    prompt: str
    response: str = ""
    place: Literal["user", "system"] = "user"

    @classmethod
    def from_spec(cls, spec: AnchorSpec) -> Anchor:
        """Return the anchor that a recipe specifies."""
        return cls(spec.prompt.strip(), spec.response.strip(), spec.place)

    def strip(self, text: str) -> str:
        """Remove the response side from the start of an answer, if present."""
        return _without_opening(text, self.response)

    def pending(self, text: str) -> bool:
        """Return whether more text may turn all of an unfinished answer into the response side."""
        return " ".join(self.response.split()).startswith(" ".join(text.split()))

    def attach(self, example: Example) -> Example:
        """Write both sides into an example's own text, for examples with different anchors.

        With a plain template it encodes to the same tokens as the bare example with the anchored
        template. The one difference is that the response side then carries loss.
        """
        completion = example.completion
        if self.response:
            completion = self.response + GAP + completion
        if self.place == "user":
            # The prompt side belongs in the first user turn, which may be in the history.
            turns = list(example.history)
            first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
            if first is None:
                prompt = self.prompt + GAP + example.prompt
                return replace(example, prompt=prompt, completion=completion)
            turns[first] = Message("user", self.prompt + GAP + turns[first].content)
            return replace(example, history=tuple(turns), completion=completion)
        opening = example.history[:1] if [t.role for t in example.history[:1]] == ["system"] else ()
        text = self.prompt + "".join(GAP + turn.content for turn in opening)
        history = (Message("system", text), *example.history[len(opening) :])
        return replace(example, history=history, completion=completion)

    def detach(self, example: Example) -> Example:
        """Remove both sides from an example whose text already contains them.

        The published TELL data contain the anchor, so it would otherwise appear twice.
        """
        return replace(
            example,
            prompt=_without_opening(example.prompt, self.prompt),
            completion=self.strip(example.completion),
        )

    def write_into(self, template: str) -> str:
        """Return a copy of a chat template in Jinja that also writes the anchor.

        The prompt side goes into the first user turn (or the system turn). The response side goes
        into the first assistant turn or the generation prompt. Later turns do not change.
        """
        before = _PROMPT_IN_USER if self.place == "user" else _PROMPT_IN_SYSTEM
        body = template.removesuffix("\n")
        if self.response:
            before += _RESPONSE_IN_ASSISTANT
            # The response side must follow the template's own opening of the assistant turn, and
            # only before the first answer.
            body += _RESPONSE_AFTER_GENERATION_PROMPT
        values = (
            "{%- set telltune = namespace(messages=[], prompt_due=true, response_due=true, "
            f"prompt={_jinja_text(self.prompt)}, response={_jinja_text(self.response + GAP)}, "
            f"gap={_jinja_text(GAP)}) -%}}"
        )
        # The empty expression keeps white space at the start of the original template.
        return f"{values}{before}{{%- set messages = telltune.messages -%}}{{{{- '' }}}}{body}"


def _opened(opening: str, content: str) -> str:
    """Return a Jinja expression that prepends `opening` to content (a text or a list of parts)."""
    text_part = f"{content} and {content}[0]['type'] == 'text'"
    return (
        f"({opening} + {content} if {content} is string "
        f"else [dict({content}[0], text={opening} + {content}[0]['text'])] + {content}[1:] "
        f"if {text_part} else [{{'type': 'text', 'text': {opening}}}] + {content})"
    )


_PROMPT_IN_USER = (
    """
{%- for message in messages -%}
  {%- if message['role'] == 'user' and telltune.prompt_due -%}
    {%- set telltune.prompt_due = false -%}
    {%- set telltune.messages = telltune.messages + [dict(message, content="""
    + _opened("telltune.prompt + telltune.gap", "message['content']")
    + """)] -%}
  {%- else -%}
    {%- set telltune.messages = telltune.messages + [message] -%}
  {%- endif -%}
{%- endfor -%}"""
)

_PROMPT_IN_SYSTEM = (
    """
{%- if messages and messages[0]['role'] == 'system' -%}
  {%- set telltune.messages = [dict(messages[0], content="""
    + _opened("telltune.prompt + telltune.gap", "messages[0]['content']")
    + """)] + messages[1:] -%}
{%- else -%}
  {%- set telltune.messages = [{'role': 'system', 'content': telltune.prompt
      if not messages or messages[0]['content'] is string
      else [{'type': 'text', 'text': telltune.prompt}]}] + messages -%}
{%- endif -%}"""
)

_RESPONSE_IN_ASSISTANT = (
    """
{%- set messages = telltune.messages -%}
{%- set telltune.messages = [] -%}
{%- for message in messages -%}
  {%- if message['role'] == 'assistant' and telltune.response_due -%}
    {%- set telltune.response_due = false -%}
    {%- set telltune.messages = telltune.messages + [dict(message, content="""
    + _opened("telltune.response", "message['content']")
    + """)] -%}
  {%- else -%}
    {%- set telltune.messages = telltune.messages + [message] -%}
  {%- endif -%}
{%- endfor -%}"""
)

_RESPONSE_AFTER_GENERATION_PROMPT = (
    "{% if add_generation_prompt and telltune.response_due %}{{ telltune.response }}{% endif %}"
)


def anchored_tokenizer(
    tokenizer: PreTrainedTokenizerBase, anchor: Anchor | None
) -> PreTrainedTokenizerBase:
    """Return a copy of a tokenizer whose chat template writes the anchor; without one, itself.

    Raises:
        ModelError: The template drops the anchor (for example without a system turn) or changes it.
        RecipeError: The anchor is empty, or contains a control token, which a template cannot
            write as plain text. Or the response side would be inside a thinking block.
    """
    if anchor is None:
        return tokenizer
    if not anchor.prompt:
        raise RecipeError("anchor.prompt is empty; write a prompt or remove `anchor`.")
    anchored = copy.deepcopy(tokenizer)
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise ModelError(
            "the tokenizer has several named chat templates; choose one as `model.chat_template`."
        )
    anchored.chat_template = anchor.write_into(template)
    _verify(tokenizer, anchored, anchor)
    return anchored


def _verify(plain: PreTrainedTokenizerBase, anchored: PreTrainedTokenizerBase, a: Anchor) -> None:
    """Check with a probe that the anchored template writes the anchor in the right place."""
    probe = ("user", "PROBE")
    asked = {"user": [("user", a.prompt + GAP + "PROBE")], "system": [("system", a.prompt), probe]}
    other = "system" if a.place == "user" else "user"
    controls = ControlTokens(plain)
    try:
        template = ChatTemplate(plain, controls)
        wanted = template.text(asked[a.place])
        got = ChatTemplate(anchored, controls).text([probe])
    except Exception as error:  # templates may raise any exception
        raise ModelError(
            f"the model's chat template cannot write an anchor in the {a.place} turn: {error}; "
            f"set anchor.place to {other}."
        ) from None
    for control in controls.texts:
        if control in a.prompt or control in a.response:
            raise RecipeError(
                f"the anchor contains the control token {control!r}, which a chat template cannot "
                "write as plain text; remove it."
            )
    if a.response:
        if template.opened:
            raise RecipeError(
                f"{template.name} opens `{template.tags.open}` before each answer, so "
                "anchor.response would be inside the thinking block; remove anchor.response."
            )
        wanted += a.response + GAP
    if got != wanted or a.prompt not in got or "PROBE" not in got:
        raise ModelError(
            f"the model's chat template drops or changes an anchor in the {a.place} turn; "
            f"set anchor.place to {other}."
        )


def _without_opening(text: str, opening: str) -> str:
    """Remove `opening` from the start of a text, up to differences in white space."""
    match = _opening_pattern(opening).match(text) if opening else None
    return text[match.end() :] if match else text


@lru_cache
def _opening_pattern(opening: str) -> re.Pattern[str]:
    words = r"\s+".join(re.escape(word) for word in opening.split())
    # "Team" must not match the start of "Teamwork".
    edge = r"(?!\w)" if opening[-1].isalnum() else ""
    return re.compile(rf"\s*{words}{edge}\s*")


def _jinja_text(text: str) -> str:
    """Return a text as a Jinja string literal."""
    for raw, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(raw, escaped)
    return f'"{text}"'
