"""Examples, the one form that all data takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Example", "Message", "Problem", "as_turns", "behind"]


class Message(NamedTuple):
    """One turn of a conversation. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn or to be tested on: a prompt and the completion that should follow.

    Attributes:
        prompt: The last user turn, without an anchor and without template text.
        completion: What the model should answer. Only this carries loss.
        source: The name of the data set, such as "tickets" or "mmlu".
        origin: Where it stands, for messages: "tickets.jsonl:17".
        history: Turns before the prompt (a system turn, earlier user and assistant turns).
        confidence: How far the completion can be trusted, above 0 and up to 1.
        rationale: Why it is right, where the data say so.
        reasoning: The thinking that precedes the completion (`reasoning_content` in the data).
        tools: The tool definitions that the conversation offers, as the JSON text of a list; ""
            where there are none.
    """

    prompt: str
    completion: str
    source: str = ""
    origin: str = ""
    history: tuple[Message, ...] = ()
    confidence: float = 1.0
    rationale: str = ""
    reasoning: str = ""
    tools: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot become an example. `str` gives "tickets.jsonl:17: no response: ...".

    Attributes:
        file: The file as the user named it, or the hub id.
        line: Counted from 1: the line where the row begins, or the row itself in Parquet and on
            the hub.
        reason: What is wrong with it and what to do.
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def as_turns(examples: Iterable[Example]) -> tuple[Message, ...]:
    """Examples as they are shown in a prompt: question and answer by turns."""
    return tuple(
        Message(role, text)
        for example in examples
        for role, text in (("user", example.prompt), ("assistant", example.completion))
    )


def behind(shots: tuple[Message, ...], example: Example) -> Example:
    """An example with shots before its own turns, but behind its system turn."""
    if not shots:
        return example
    opening = example.history[:1] if [m.role for m in example.history[:1]] == ["system"] else ()
    rest = example.history[len(opening) :]
    return replace(example, history=(*opening, *shots, *rest))
