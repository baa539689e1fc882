"""Errors whose messages are shown to the user instead of a traceback.

Every message is one clear sentence: what is wrong, where (file, line or key), and what to do. The
command line prints it and exits with code 2.
"""

from __future__ import annotations

from typing import SupportsIndex

from telltune.masking import masked

SHOWN_CHARACTERS = 40


def shown(name: str) -> str:
    """Return a key in a form fit for a message: short, on one line and printable."""
    short = name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def one_line(text: str, longest: int) -> str:
    """Return a text on one line, cut to a number of characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


class TellError(Exception):
    """Base class of the errors that telltune raises on purpose and that the user can fix.

    Secrets in the message are masked, because messages quote other programs such as the hub client.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(message))


class RecipeError(TellError):
    """A recipe that cannot be run: an unknown key, a wrong value, contradictory settings."""


class DataError(TellError):
    """Data that cannot be used: missing, unreadable, malformed, empty, too long, too little."""


class ModelError(TellError):
    """A model, tokenizer or adapter that cannot be used."""


class StorageError(TellError):
    """A path that cannot be written to: no space, no permission, a folder of another run."""


def check_count(name: str, value: SupportsIndex | None, *, least: int = 1) -> None:
    """Refuse an argument that is no whole number of at least `least`; None is allowed.

    Raises:
        RecipeError: The value is another one.
    """
    if value is None or (isinstance(value, SupportsIndex) and value.__index__() >= least):
        return
    raise RecipeError(f"{name} is {value!r}; give a whole number of at least {least}.")
