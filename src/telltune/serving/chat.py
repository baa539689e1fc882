"""A conversation in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from telltune.data.examples import Example, Message
from telltune.errors import DataError
from telltune.serving.models import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from telltune.serving.models import ServedModel


def chat(
    model: ServedModel,
    lines: Iterable[str],
    write: Callable[[str], object],
    *,
    system: str | None = None,
    max_new_tokens: int | None = None,
) -> None:
    """Answer lines of a user until `/exit` or their end; `/reset` begins a new conversation.

    Args:
        model: Model that answers.
        lines: Lines of the user.
        write: Function that prints a text without a line break after it.
        system: System turn; None for none.
        max_new_tokens: Longest answer in tokens; None for the adapter's own limit.
    """
    opening = () if system is None else (Message("system", system),)
    history: tuple[Message, ...] = opening
    for line in lines:
        prompt = line.strip()
        if prompt == "/exit":
            return
        if prompt == "/reset":
            history = opening
            continue
        if not prompt:
            continue
        said = ""
        try:
            for piece in _answer(model, Example(prompt, "", history=history), max_new_tokens):
                write(piece)
                said += piece
        except DataError as error:
            write(f"error: {error} `/reset` begins a new conversation.")
        else:
            history = (*history, Message("user", prompt), Message("assistant", said))
        write("\n")


def _answer(model: ServedModel, example: Example, max_new_tokens: int | None) -> Iterator[str]:
    """Yield the answer to a prompt in pieces.

    Raises:
        DataError: See `ServedModel.job`.
    """
    job = model.job(example, Sampling(max_new_tokens))
    writing = model.writing()
    model.lane.add(job)
    with model.lane.ready():
        while not job.done:
            model.lane.step()
            if job.row is None or writing is None:
                yield job.label or ""
            else:
                yield writing.piece(job.row.answer, ended=job.done)
