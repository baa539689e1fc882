"""The anchor: one fixed text that goes with every task example, in training and at inference.

TELL (arXiv 2404.00914) opens each query with a fixed instruction and each response with a fixed
line. Here the anchor lives in one place only, the tokenizer's chat template: training encodes task
data with the anchored template, and the adapter folder carries it, so that whoever calls
`apply_chat_template` applies the same anchor without knowing of telltune.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from telltune.data.chat_template import ChatTemplate
from telltune.data.control_tokens import ControlTokens, control_tokens
from telltune.data.examples import Message
from telltune.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from telltune.data.examples import Example
    from telltune.recipe import AnchorSpec

__all__ = ["Anchor", "anchored_tokenizer"]

GAP = "\n\n"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A two-sided anchor.

    Attributes:
        prompt: Opens the user turn, or stands in the system turn.
        response: Opens the answer ("" for none). It is given to the model with the generation
            prompt, so that no answer token is spent on it and none can get it wrong.
        place: Where the prompt side goes.
    """

    prompt: str
    response: str = ""
    place: Literal["user", "system"] = "user"

    @classmethod
    def from_spec(cls, spec: AnchorSpec) -> Anchor:
        """The anchor that a recipe writes."""
        return cls(spec.prompt.strip(), spec.response.strip(), spec.place)

    def strip(self, text: str) -> str:
        """Take the response side off an answer, if it is there."""
        return _without_opening(text, self.response)

    def attach(self, example: Example) -> Example:
        """Write both sides into an example's own text, where not all have the same anchor.

        Encoded with a plain template it is token for token what the bare example is with the
        anchored one; only the response side then carries loss.
        """
        completion = example.completion
        if self.response:
            completion = self.response + GAP + completion
        if self.place == "user":
            # The first user turn is in the history, if there was one before.
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
        """Take both sides off an example whose data already carries them.

        The published TELL data does; attaching the anchor a second time would teach it twice.
        """
        return replace(
            example,
            prompt=_without_opening(example.prompt, self.prompt),
            completion=self.strip(example.completion),
        )

    def write_into(self, template: str) -> str:
        """A chat template that does what `template` does, and carries the anchor.

        The first user turn (or the system turn) gets the prompt side, the first assistant turn or
        the generation prompt the response side. Later turns stay as they are.

        Args:
            template: A Jinja chat template as Hugging Face tokenizers have it.
        """
        before = _PROMPT_IN_USER if self.place == "user" else _PROMPT_IN_SYSTEM
        body = template.removesuffix("\n")
        if self.response:
            before += _RESPONSE_IN_ASSISTANT
            # A template decides itself when it opens the assistant's turn; the response side must
            # follow that opening, and only before the first answer.
            body += _RESPONSE_AFTER_GENERATION_PROMPT
        values = (
            "{%- set telltune = namespace(messages=[], prompt_due=true, response_due=true, "
            f"prompt={_jinja_text(self.prompt)}, response={_jinja_text(self.response + GAP)}, "
            f"gap={_jinja_text(GAP)}) -%}}"
        )
        # The empty expression at the end keeps white space that opens the original template.
        return f"{values}{before}{{%- set messages = telltune.messages -%}}{{{{- '' }}}}{body}"


def _opened(opening: str, content: str) -> str:
    """A Jinja expression: content, a text or a list of parts, that begins with `opening`."""
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
    """A copy of a tokenizer whose chat template carries the anchor.

    Args:
        tokenizer: With the model's own template.
        anchor: None gives the tokenizer back as it is.

    Raises:
        ModelError: The template loses the anchor (no system turn, say), or changes it.
        RecipeError: The anchor is empty, or holds a control token, which a template cannot write
            as plain text.
    """
    if anchor is None:
        return tokenizer
    if not anchor.prompt:
        raise RecipeError("anchor.prompt is empty; write one, or leave `anchor` out.")
    for control in control_tokens(tokenizer):
        if control in anchor.prompt or control in anchor.response:
            raise RecipeError(
                f"the anchor holds the control token {control!r}, which a chat template cannot "
                "carry as plain text; take it out."
            )
    anchored = copy.deepcopy(tokenizer)
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise ModelError("the tokenizer has several named chat templates; telltune needs one.")
    anchored.chat_template = anchor.write_into(template)
    _verify(tokenizer, anchored, anchor)
    return anchored


def _verify(plain: PreTrainedTokenizerBase, anchored: PreTrainedTokenizerBase, a: Anchor) -> None:
    """Check on a probe that the anchored template writes what it should, where it should."""
    probe = ("user", "PROBE")
    asked = {"user": [("user", a.prompt + GAP + "PROBE")], "system": [("system", a.prompt), probe]}
    other = "system" if a.place == "user" else "user"
    controls = ControlTokens(plain)
    try:
        template = ChatTemplate(plain, controls)
        wanted = template.text(asked[a.place])
        got = ChatTemplate(anchored, controls).text([probe])
    except Exception as error:  # a template may raise whatever it likes
        raise ModelError(
            f"the model's chat template cannot carry an anchor in the {a.place} turn: {error}; "
            f"set anchor.place to {other}."
        ) from None
    if a.response:
        if template.opened:
            raise RecipeError(
                f"{template.name} opens `{template.tags.open}` before each answer, and "
                "anchor.response would stand inside the thinking; leave anchor.response out."
            )
        wanted += a.response + GAP
    if got != wanted or a.prompt not in got or "PROBE" not in got:
        raise ModelError(
            f"the model's chat template does not carry an anchor in the {a.place} turn (it drops "
            f"or changes that text); set anchor.place to {other}."
        )


def _without_opening(text: str, opening: str) -> str:
    """Take `opening` off the start of a text; white space around and inside it may differ."""
    if not opening:
        return text
    words = r"\s+".join(re.escape(word) for word in opening.split())
    # "Team" does not open "Teamwork".
    edge = r"(?!\w)" if opening[-1].isalnum() else ""
    pattern = rf"\s*{words}{edge}\s*"
    match = re.match(pattern, text)
    return text[match.end() :] if match else text


def _jinja_text(text: str) -> str:
    """A text as a Jinja string literal."""
    for raw, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(raw, escaped)
    return f'"{text}"'
