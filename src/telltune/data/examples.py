"""Examples, the common form of all data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from telltune.data.thinking import without_thinking


class Message(NamedTuple):
    """One turn of a conversation. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One training or test item: a prompt and the completion that should follow.

    Attributes:
        prompt: Last user turn, without an anchor and without template text.
        completion: Expected answer of the model. Only this carries loss.
        source: Name of the data set, such as "tickets" or "mmlu".
        origin: Location for messages, such as "tickets.jsonl:17".
        history: Turns before the prompt (a system turn, earlier user and assistant turns).
        confidence: Confidence that the completion is correct, in (0, 1].
        rationale: Explanation of why the completion is correct, if the data contain one.
        reasoning: Thinking that precedes the completion (`reasoning_content` in the data).
        tools: Tool definitions of the conversation as the JSON text of a list, or "".
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

    @property
    def answer(self) -> str:
        """Completion without thinking at its start (`<think>...</think>`) and outer white space."""
        return without_thinking(self.completion).strip()


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot become an example. `str` returns "tickets.jsonl:17: no response: ...".

    Attributes:
        file: File as the user named it, or the hub id.
        line: First line of the row, counted from 1. In Parquet and on the hub, the row number.
        reason: Description of the problem and its fix.
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


def as_turns(examples: Iterable[Example]) -> tuple[Message, ...]:
    """Return examples as alternating user and assistant turns, for use as shots in a prompt."""
    return tuple(
        Message(role, text)
        for example in examples
        for role, text in (("user", example.prompt), ("assistant", example.completion))
    )


def prepend_shots(shots: tuple[Message, ...], example: Example) -> Example:
    """Return an example with shots inserted after its system turn and before its other turns."""
    if not shots:
        return example
    opening = example.history[:1] if [m.role for m in example.history[:1]] == ["system"] else ()
    rest = example.history[len(opening) :]
    return replace(example, history=(*opening, *shots, *rest))
