"""Rendering of examples with a chat template, and detection of content that it drops.

A prompt is the result of `apply_chat_template(..., add_generation_prompt=True)`. An answer is the
part of the rendered conversation after the prompt, up to the end of the turn. White space, headers
and thinking blocks around an answer are therefore those of the template.
"""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from telltune.data.thinking import thinking_tags
from telltune.errors import DataError, ModelError, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from telltune.data.control_tokens import ControlTokens
    from telltune.data.examples import Example

_SYSTEM, _EARLIER, _SAID, _USER, _ANSWER, _TOOL = (
    f"PROBE{name}" for name in ("system", "earlier", "said", "user", "answer", "tool")
)
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": _TOOL,
            "description": "",
            "parameters": {"type": "object", "properties": {}},
        },
    }
]


class _Said(NamedTuple):
    """Parts of a completion, which is their concatenation. `thinking` and `answer` are shielded."""

    open: str
    thinking: str
    close: str
    answer: str


class Rendered(NamedTuple):
    """An example rendered with the chat template.

    Attributes:
        answer: Answer with the end of the turn.
        unthought: True if the prompt opens a thinking block and the example has no thinking.
    """

    prompt: str
    answer: str
    unthought: bool


class TemplateError(DataError):
    """Raised if a chat template refuses an example or drops a part of it.

    Attributes:
        reason: Problem without the example's location and text, so that examples with the same
            problem have the same reason.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChatTemplate:
    """The chat template of a tokenizer, applied to examples.

    Texts from data are shielded in its results (see `ControlTokens.shield`). Content is passed as
    a string, or as `[{"type": "text", "text": ...}]` if the template only writes the latter. The
    token that ends an answer is added to `controls`.

    Attributes:
        name: Name of the template in error messages.
        header: Text before every answer, from the last control token on; "" if the template
            writes no control token after the user's text.
        end: Text after every answer, up to and including the first control token; "" if the
            template writes no control token after an answer.
        tags: Tags around thinking.
        opened: True if prompts end in an open thinking block, in which the answer starts.
        lead: Text that the template writes between a prompt and the answer.

    Raises:
        ModelError: The template cannot be used, or drops the user's text or the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, controls: ControlTokens) -> None:
        self.name: str = getattr(tokenizer, "template_name", "the model's chat template")
        self._tokenizer, self._controls = tokenizer, controls
        self.tags = thinking_tags(str(tokenizer.chat_template))
        self._opens = self.tags.open in str(tokenizer.chat_template)
        self._parts = False
        prompt, whole = self._take_probe()
        opening, self._tail = prompt.rpartition(_USER)[2], whole.rpartition(_ANSWER)[2]
        controls.add_end(self._tail)
        found = [match.start() for match in controls.written.finditer(opening)]
        self.header = opening[found[-1] :] if found else ""
        end = controls.written.search(self._tail)
        self.end = self._tail[: end.end()] if end else ""
        self.opened = self.opens_thinking(prompt)
        self.lead = self._behind(whole, prompt).partition(_ANSWER)[0]

    def opens_thinking(self, prompt: str) -> bool:
        """Return whether a rendered prompt ends in an open thinking block."""
        return self._opens and prompt[-64:].rstrip().endswith(self.tags.open)

    def text(self, turns: Sequence[tuple[str, str]], *, ask: bool = True) -> str:
        """Render (role, text) turns, with the generation prompt if `ask`."""
        return self._text([self._message(role, text) for role, text in turns], ask=ask)

    def sample(self) -> str:
        """Return sample prompts as rendered now. They may contain the date."""
        found = []
        for roles, tools in ((("user",), None), (("system", "user"), None), (("user",), _TOOLS)):
            with suppress(Exception):  # a template may not support all of them
                messages = [self._message(role, _USER) for role in roles]
                found.append(self._text(messages, ask=True, tools=tools))
        return "\n".join(found)

    def prompts(self, examples: Sequence[Example]) -> list[str]:
        """Render each example up to the start of its answer.

        Raises:
            TemplateError: The template refuses an example or drops a part of it.
        """
        return self._prompts(examples, [self._asked(example) for example in examples])

    def render(self, examples: Sequence[Example]) -> list[Rendered]:
        """Render the prompt and the answer of each example.

        Raises:
            TemplateError: The template refuses an example or drops a part of it.
        """
        asked = [self._asked(example) for example in examples]
        prompts = self._prompts(examples, asked)
        said = [self._said(e, prompt) for e, prompt in zip(examples, prompts, strict=True)]
        whole = self._apply(
            examples,
            [
                [*turns, self._answered(example, parts)]
                for example, turns, parts in zip(examples, asked, said, strict=True)
            ],
            ask=False,
        )
        return [self._split(*row) for row in zip(examples, said, prompts, whole, strict=True)]

    def _prompts(self, examples: Sequence[Example], asked: list[list[dict[str, Any]]]) -> list[str]:
        texts = self._apply(examples, asked, ask=True)
        for example, text in zip(examples, texts, strict=True):
            self._check(example, text)
        return texts

    def _asked(self, example: Example) -> list[dict[str, Any]]:
        turns = [*example.history, ("user", example.prompt)]
        return [self._message(role, self._controls.shield(text)) for role, text in turns]

    def _message(self, role: str, text: str) -> dict[str, Any]:
        content: Any = [{"type": "text", "text": text}] if self._parts else text
        return {"role": role, "content": content}

    def _said(self, example: Example, prompt: str) -> _Said:
        shield, text = self._controls.shield, example.completion
        block = self.tags.match(text, opened=self.opens_thinking(prompt))
        if block is None:
            return _Said("", "", "", shield(text))
        return _Said(
            block["open"], shield(block["thinking"]), block["close"], shield(text[block.end() :])
        )

    def _answered(self, example: Example, said: _Said) -> dict[str, Any]:
        message = self._message("assistant", "".join(said))
        if example.reasoning:
            # Templates read the reasoning from one of these keys.
            thinking = self._controls.shield(example.reasoning)
            message |= {"reasoning_content": thinking, "thinking": thinking}
        return message

    def _split(self, example: Example, said: _Said, prompt: str, whole: str) -> Rendered:
        """Extract the answer from the rendered conversation."""
        opened = self.opens_thinking(prompt)
        reasoning = self._controls.shield(example.reasoning).strip()
        thinking, answer = said.thinking.strip(), said.answer.strip()
        unthought = opened and not (reasoning or thinking)
        rest = self._behind(whole, prompt)
        body = (rest or whole).removesuffix(self._tail)
        if answer not in body:
            raise self._drops(example, "the answer", example.completion)
        before = body[: body.rfind(answer)]  # the answer may contain the same words
        closed = not opened or (
            self.tags.close in before and not rest.lstrip().startswith(self.tags.open)
        )
        if rest and reasoning in before and thinking in before and closed:
            return Rendered(prompt, self._until_end(rest, answer), unthought)
        # The template starts the answer differently here than in the prompt, or drops the thinking,
        # as many templates do in earlier turns. The answer is then built to follow the prompt.
        if opened:
            return Rendered(prompt, self._thought(prompt, reasoning, said) + self.end, unthought)
        if reasoning:
            raise self._drops(example, "the reasoning", example.reasoning)
        if said.close:
            lead = "" if self.tags.close in self.lead else self.lead
            return Rendered(prompt, lead + "".join(said) + self.end, unthought)
        rest = self.lead + whole[whole.rfind(answer) :]
        return Rendered(prompt, self._until_end(rest, answer), unthought)

    def _thought(self, prompt: str, reasoning: str, said: _Said) -> str:
        """Return thinking and answer for a prompt that already opened the thinking block."""
        opening = prompt[prompt.rindex(self.tags.open) :]
        if said.close and not reasoning:
            text = "".join(said)
            return text[len(opening) if text.startswith(opening) else len(said.open) :]
        if reasoning:
            return f"{reasoning}\n{self.tags.close}\n\n{said.answer}"
        empty = f"{self.tags.open}\n\n{self.tags.close}\n\n"
        return empty.removeprefix(opening) + said.answer

    def _until_end(self, rest: str, answer: str) -> str:
        """Cut a rendered text after the end of the answer's turn."""
        if rest.endswith(self._tail):
            return rest.removesuffix(self._tail) + self.end
        at = rest.rfind(answer) + len(answer)
        end = self._controls.written.search(rest, at)
        return rest[: end.end() if end else at]

    @staticmethod
    def _behind(whole: str, prompt: str) -> str:
        """Return the text after the prompt, or "" if `whole` does not start with the prompt."""
        return whole[len(prompt) :] if whole.startswith(prompt) else ""

    def _check(self, example: Example, text: str) -> None:
        """Raise if the rendered prompt does not contain every part of an example."""
        shield = self._controls.shield
        for role, said in example.history:
            kept = said if role != "assistant" else self.tags.answer(said)
            if role in self._dropped or shield(kept).strip() not in text:
                raise self._drops(example, f"the {role} turn", said)
        if shield(example.prompt).strip() not in text:
            raise self._drops(example, "the user's text", example.prompt)
        if example.tools:
            for name in _tool_names(json.loads(example.tools)):
                if not self._takes_tools or shield(name) not in text:
                    raise self._drops(example, "the tool", name)

    @cached_property
    def _dropped(self) -> frozenset[str]:
        """Roles of earlier turns that the template always drops."""
        earlier = (("user", _EARLIER), ("assistant", _SAID), ("user", _USER))
        for turns in ((("system", _SYSTEM), *earlier), earlier):
            try:
                text = self.text(turns)
            except Exception:  # noqa: S112 - examples with such turns are refused later
                continue
            return frozenset(role for role, said in turns if said not in text)
        return frozenset()

    @cached_property
    def _takes_tools(self) -> bool:
        try:
            return _TOOL in self._text([self._message("user", _USER)], ask=True, tools=_TOOLS)
        except Exception:
            return True  # the template uses tools; rendering an example shows how

    def _drops(self, example: Example, what: str, text: str) -> TemplateError:
        dropped = f"{self.name} drops {what}"
        rest = (
            ", so the model would never see it; choose a template that includes it "
            "(`model.chat_template`), or remove it from the data"
        )
        return TemplateError(
            f"{example.origin or 'an example'}: {dropped} ({one_line(text, _SHOWN)!r}){rest}.",
            dropped + rest,
        )

    def _text(self, messages: list[dict[str, Any]], *, ask: bool, tools: Any = None) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=ask
            )
        )

    def _take_probe(self) -> tuple[str, str]:
        """Render a prompt and a conversation, and detect the supported form of content."""
        problem = ""
        for self._parts in (False, True):
            try:
                prompt = self.text([("user", _USER)])
                whole = self.text([("user", _USER), ("assistant", _ANSWER)], ask=False)
            except Exception as error:  # templates may raise any exception
                problem = problem or f"cannot be used: {error}"
                continue
            if _USER in prompt and _ANSWER in whole:
                return prompt, whole
            what = "answer" if _USER in prompt else "user's text"
            problem = problem or f"drops the {what}; choose another as `model.chat_template`"
        raise ModelError(f"{self.name} {problem.removesuffix('.')}.")

    def _apply(
        self, examples: Sequence[Example], conversations: list[list[dict[str, Any]]], *, ask: bool
    ) -> list[str]:
        """Render conversations. Those with the same tools share one call, which is faster."""
        places: dict[str, list[int]] = defaultdict(list)
        for i, example in enumerate(examples):
            places[example.tools].append(i)
        found = [""] * len(examples)
        for text, group in places.items():
            tools = _shielded(json.loads(text), self._controls) if text else None
            given = [conversations[i] for i in group]
            try:
                rendered: Any = self._tokenizer.apply_chat_template(
                    given, tools=tools, tokenize=False, add_generation_prompt=ask
                )
            except Exception:  # templates may raise any exception
                # Rendering them one by one identifies the failing example.
                rendered = [
                    self._apply_to_one(examples[i], conversations[i], tools, ask=ask) for i in group
                ]
            for i, one in zip(group, rendered, strict=True):
                found[i] = one
        return found

    def _apply_to_one(
        self, example: Example, messages: list[dict[str, Any]], tools: Any, *, ask: bool
    ) -> str:
        try:
            return self._text(messages, ask=ask, tools=tools)
        except Exception as error:  # templates may raise any exception
            reason = f"{self.name} refuses this example: {error}"
            raise TemplateError(f"{example.origin or 'an example'}: {reason}", reason) from None


def _tool_names(tools: Any) -> list[str]:
    functions = [tool.get("function", tool) for tool in tools if isinstance(tool, dict)]
    return [str(f["name"]) for f in functions if isinstance(f, dict) and f.get("name")]


def _shielded(value: Any, controls: ControlTokens) -> Any:
    """Shield every text in a JSON value."""
    if isinstance(value, str):
        return controls.shield(value)
    if isinstance(value, list):
        return [_shielded(item, controls) for item in value]
    if isinstance(value, dict):
        return {controls.shield(k): _shielded(item, controls) for k, item in value.items()}
    return value


_SHOWN = 60
"""Maximum length of a quoted text in errors, in characters."""
