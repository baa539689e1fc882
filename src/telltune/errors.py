"""What a user sees in place of a traceback.

Every message is one clear sentence that says what is wrong, where (file, line or key) and what to
do about it. The command line prints it and exits with code 2.
"""

from __future__ import annotations

from telltune.masking import masked

__all__ = ["DataError", "ModelError", "RecipeError", "StorageError", "TellError", "shown"]

SHOWN_CHARACTERS = 40


def shown(name: str) -> str:
    """A key fit for a message: short, on one line and printable whatever a file holds."""
    short = name if len(name) <= SHOWN_CHARACTERS else f"{name[:SHOWN_CHARACTERS]}…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


class TellError(Exception):
    """Something the user can mend. The base of every error that telltune raises on purpose.

    Messages quote what others say, the hub's client among them: secrets in them are masked.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(message))


class RecipeError(TellError):
    """A recipe that cannot be run: an unknown key, a wrong value, settings that contradict."""


class DataError(TellError):
    """Data that cannot be used: missing, unreadable, malformed, empty, too long, too little."""


class ModelError(TellError):
    """A model, tokenizer or adapter that cannot be used."""


class StorageError(TellError):
    """A place that cannot be written to: no space, no permission, a folder of another run."""
