"""What a user sees in place of a traceback.

Every message is one clear sentence that says what is wrong, where (file, line or key) and what to
do about it. The command line prints it and exits with code 2.
"""

from __future__ import annotations

__all__ = ["DataError", "ModelError", "RecipeError", "StorageError", "TellError"]


class TellError(Exception):
    """Something the user can mend. The base of every error that telltune raises on purpose."""


class RecipeError(TellError):
    """A recipe that cannot be run: an unknown key, a wrong value, settings that contradict."""


class DataError(TellError):
    """Data that cannot be used: missing, unreadable, malformed, empty, too long, too little."""


class ModelError(TellError):
    """A model, tokenizer or adapter that cannot be used."""


class StorageError(TellError):
    """A place that cannot be written to: no space, no permission, a folder of another run."""
