"""Rendering of examples with a chat template, and the content that a template leaves out.

A prompt is what `apply_chat_template(..., add_generation_prompt=True)` writes. An answer is what
the rendering of the whole conversation holds behind the prompt, up to the end of the turn. So
white space, headers and thinking blocks around an answer are those of the template.
"""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from telltune.data.thinking import thinking_tags
from telltune.errors import DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from telltune.data.control_tokens import ControlTokens
    from telltune.data.examples import Example

__all__ = ["ChatTemplate", "Rendered", "TemplateError"]

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
    """A completion by parts; `thinking` and `answer` are shielded. Joined, they are all of it."""

    open: str
    thinking: str
    close: str
    answer: str


class Rendered(NamedTuple):
    """An example as the chat template writes it.

    Attributes:
        prompt: All that stands before the answer.
        answer: The answer with what ends the turn.
        unthought: Whether the prompt opens a thinking block and the example has no thinking.
    """

    prompt: str
    answer: str
    unthought: bool


class TemplateError(DataError):
    """An example that a chat template refuses, or of which it leaves out a part.

    Attributes:
        reason: The problem, without the example's place and text, so that examples with the same
            problem have the same reason.

    Args:
        message: The problem with the example's place and text.
        reason: The problem alone.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ChatTemplate:
    """The chat template of a tokenizer, applied to examples.

    Texts from data are shielded in what it returns (see `ControlTokens.shield`). Content is handed
    over as a text, or as `[{"type": "text", "text": ...}]` where only that is written.

    Attributes:
        name: What errors call the template.
        header: What stands before every answer, from the last control token on; "" where the
            template writes no control token behind the user's text.
        end: What ends every answer, up to and with the first control token; "" where the template
            writes no control token behind an answer.
        tags: The tags around thinking.
        opened: Whether its prompts open a thinking block that the answer goes on in.
        lead: Text that the template writes between a prompt and the answer.

    Args:
        tokenizer: Whose template, as it is.
        controls: Its control tokens.

    Raises:
        ModelError: The template cannot be used, or writes no user text or no answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, controls: ControlTokens) -> None:
        self.name: str = getattr(tokenizer, "template_name", "the model's chat template")
        self._tokenizer, self._controls = tokenizer, controls
        self.tags = thinking_tags(str(tokenizer.chat_template))
        self._opens = self.tags.open in str(tokenizer.chat_template)
        self._parts = False
        prompt, whole = self._take_probe()
        opening, self._tail = prompt.rpartition(_USER)[2], whole.rpartition(_ANSWER)[2]
        found = [match.start() for match in controls.written.finditer(opening)]
        self.header = opening[found[-1] :] if found else ""
        end = controls.written.search(self._tail)
        self.end = self._tail[: end.end()] if end else ""
        self.opened = self.opens_thinking(prompt)
        self.lead = self._behind(whole, prompt).partition(_ANSWER)[0]

    def opens_thinking(self, prompt: str) -> bool:
        """Return whether a rendered prompt leaves a thinking block open for the answer."""
        return self._opens and prompt[-64:].rstrip().endswith(self.tags.open)

    def text(self, turns: Sequence[tuple[str, str]], *, ask: bool = True) -> str:
        """Render a conversation of (role, text), with the opening of an answer if `ask`."""
        return self._text([self._message(role, text) for role, text in turns], ask=ask)

    def sample(self) -> str:
        """Return prompts as the template writes them now, which may hold the date."""
        found = []
        for roles, tools in ((("user",), None), (("system", "user"), None), (("user",), _TOOLS)):
            with suppress(Exception):  # a template need not take them all
                messages = [self._message(role, _USER) for role in roles]
                found.append(self._text(messages, ask=True, tools=tools))
        return "\n".join(found)

    def prompts(self, examples: Sequence[Example]) -> list[str]:
        """Render each example up to where its answer starts.

        Raises:
            TemplateError: The template refuses an example, or leaves a part of it out.
        """
        return self._prompts(examples, [self._asked(example) for example in examples])

    def render(self, examples: Sequence[Example]) -> list[Rendered]:
        """Render each example, prompt and answer.

        Raises:
            TemplateError: The template refuses an example, or leaves a part of it out.
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
            # Templates read it under one of these names.
            thinking = self._controls.shield(example.reasoning)
            message |= {"reasoning_content": thinking, "thinking": thinking}
        return message

    def _split(self, example: Example, said: _Said, prompt: str, whole: str) -> Rendered:
        """Take the answer out of the rendering of the whole conversation."""
        opened = self.opens_thinking(prompt)
        reasoning = self._controls.shield(example.reasoning).strip()
        thinking, answer = said.thinking.strip(), said.answer.strip()
        unthought = opened and not (reasoning or thinking)
        rest = self._behind(whole, prompt)
        body = (rest or whole).removesuffix(self._tail)
        if answer not in body:
            raise self._drops(example, "the answer", example.completion)
        before = body[: body.rfind(answer)]  # the answer may hold the same words
        closed = not opened or (
            self.tags.close in before and not rest.lstrip().startswith(self.tags.open)
        )
        if rest and reasoning in before and thinking in before and closed:
            return Rendered(prompt, self._until_end(rest, answer), unthought)
        # The template writes another beginning of the answer here than in the prompt, or leaves
        # out the thinking, as many do to save room in earlier turns: the answer follows the prompt.
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
        """Thinking and answer behind a prompt that has opened the thinking already."""
        opening = prompt[prompt.rindex(self.tags.open) :]
        if said.close and not reasoning:
            text = "".join(said)
            return text[len(opening) if text.startswith(opening) else len(said.open) :]
        if reasoning:
            return f"{reasoning}\n{self.tags.close}\n\n{said.answer}"
        empty = f"{self.tags.open}\n\n{self.tags.close}\n\n"
        return empty.removeprefix(opening) + said.answer

    def _until_end(self, rest: str, answer: str) -> str:
        """Cut a rendering behind the end of the answer's turn."""
        if rest.endswith(self._tail):
            return rest.removesuffix(self._tail) + self.end
        at = rest.rfind(answer) + len(answer)
        end = self._controls.written.search(rest, at)
        return rest[: end.end() if end else at]

    @staticmethod
    def _behind(whole: str, prompt: str) -> str:
        """Return what stands behind the prompt; "" where the whole does not begin with it."""
        return whole[len(prompt) :] if whole.startswith(prompt) else ""

    def _check(self, example: Example, text: str) -> None:
        """Refuse an example of which something is not in its rendered prompt."""
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
        """Roles of earlier turns that the template leaves out, however they read."""
        earlier = (("user", _EARLIER), ("assistant", _SAID), ("user", _USER))
        for turns in ((("system", _SYSTEM), *earlier), earlier):
            try:
                text = self.text(turns)
            except Exception:  # noqa: S112 - what it does not take, it refuses in an example too
                continue
            return frozenset(role for role, said in turns if said not in text)
        return frozenset()

    @cached_property
    def _takes_tools(self) -> bool:
        try:
            return _TOOL in self._text([self._message("user", _USER)], ask=True, tools=_TOOLS)
        except Exception:
            return True  # it does something with tools; an example will tell what

    def _drops(self, example: Example, what: str, text: str) -> TemplateError:
        line = " ".join(text.split())
        shown = line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
        dropped = f"{self.name} drops {what}"
        rest = (
            ", so the model would never see it; choose a template that writes it "
            "(`model.chat_template`), or take it out of the data"
        )
        return TemplateError(
            f"{example.origin or 'an example'}: {dropped} ({shown!r}){rest}.", dropped + rest
        )

    def _text(self, messages: list[dict[str, Any]], *, ask: bool, tools: Any = None) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=ask
            )
        )

    def _take_probe(self) -> tuple[str, str]:
        """Render a prompt and a whole conversation; find out in which form content is taken."""
        problem = ""
        for self._parts in (False, True):
            try:
                prompt = self.text([("user", _USER)])
                whole = self.text([("user", _USER), ("assistant", _ANSWER)], ask=False)
            except Exception as error:  # a template may raise whatever it likes
                problem = problem or f"cannot be used: {error}"
                continue
            if _USER in prompt and _ANSWER in whole:
                return prompt, whole
            what = "answer" if _USER in prompt else "user's text"
            problem = problem or f"drops the {what}; name another as `model.chat_template`"
        raise ModelError(f"{self.name} {problem.removesuffix('.')}.")

    def _apply(
        self, examples: Sequence[Example], conversations: list[list[dict[str, Any]]], *, ask: bool
    ) -> list[str]:
        """Render conversations, all that offer the same tools in one call, which is quicker."""
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
            except Exception:  # a template may raise whatever it likes
                # Only applying it to one after the other tells which example it was.
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
        except Exception as error:  # a template may raise whatever it likes
            reason = f"{self.name} refuses it: {error}"
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
"""Longest text that an error quotes, in characters."""
