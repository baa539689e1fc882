"""Closed-book question answering, a task whose answers are not in the prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from telltune.data.embedded.rows import read_jsonl
from telltune.data.embedded.task import EmbeddedTask, split
from telltune.data.examples import Example

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["open_question"]

_LONGEST_ANSWER = 5


def open_question() -> EmbeddedTask:
    """Return the task of answering search questions from memory, in a few words."""
    return EmbeddedTask(
        "open_question",
        "A search question is answered from memory, in a few words.",
        *split(_questions()),
        anchor_prompt="You answer quiz questions from memory. Give the answer alone, no sentence.",
        anchor_response="",
        metrics=("token_f1", "exact_match"),
    )


def _questions() -> Iterator[Example]:
    for row in read_jsonl("NQ-open/combined.jsonl"):
        # Only the first right answer is used; the others are mostly spelling variants.
        answer = " ".join(str(row.fields["answer"][0]).split())
        question = row.text("question").rstrip("?")
        if answer not in ("", "N/A") and len(answer.split()) <= _LONGEST_ANSWER:
            yield Example(f"{question}?", answer, "nq_open", row.origin)
