"""The values of one row, and which of them were read: what nobody reads is counted and named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING

from telltune.data.row import Number
from telltune.errors import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

__all__ = ["Fields", "RowRefusedError", "Values", "is_blank", "is_number", "listed"]

Values = Mapping[str, object]

SHOWN_KEYS = 12


class RowRefusedError(ValueError):
    """A row that is no example; the message is the reason."""


class Fields:
    """The values of a row, or of one turn in it.

    Args:
        values: By key.
        prefix: What stands before the keys in reports, such as "messages[].".

    Attributes:
        values: As given.
        filled: Those that hold anything.
        left_out: Why answers of this row are not learned, one sentence for each.
    """

    __slots__ = ("_inner", "_left", "_prefix", "_read", "filled", "left_out", "values")

    def __init__(self, values: Values, prefix: str = "") -> None:
        self.values = values
        self.filled = {key: value for key, value in values.items() if not is_blank(value)}
        self.left_out: list[str] = []
        self._prefix = prefix
        self._read: set[str] = set()
        self._left: set[str] = set()
        self._inner: list[Fields] = []

    def has(self, key: str) -> bool:
        """Whether a key holds anything. Looking is not reading."""
        return key in self.filled

    def first(self, keys: Iterable[str]) -> str | None:
        """The first of some keys that holds anything."""
        return next(filter(self.filled.__contains__, keys), None)

    def take(self, key: str) -> object:
        """The value of a key, which counts as read; None where it holds nothing."""
        self._read.add(key)
        return self.filled.get(key)

    def text(self, key: str, what: str) -> str:
        """The text of a key. Numbers and truth values become text as JSON spells them.

        Args:
            key: Which.
            what: What it is, for messages.

        Raises:
            RowRefusedError: There is none, or it is no text.
        """
        if key not in self.values:
            raise RowRefusedError(f"no {what}: key `{shown(key)}` is missing")
        value = self.take(key)
        if value is None:
            raise RowRefusedError(f"no {what}: key `{shown(key)}` is empty")
        return _as_text(value, key, what)

    def optional_text(self, key: str, what: str) -> str:
        """As `text`, and "" where the key is missing or empty."""
        return self.text(key, what) if self.has(key) else ""

    def flag(self, key: str) -> bool | None:
        """A key that says yes or no, as true, false, 1 or 0; None where it is missing or empty.

        Raises:
            RowRefusedError: It says something else.
        """
        if key not in self.filled:
            return None
        said = self.text(key, "yes or no").strip().lower()
        if said not in _FLAGS:
            raise RowRefusedError(
                f"key `{shown(key)}` is `{shown(said)}`, and telltune reads 0 and 1 (or false and "
                "true) there: write one of them, or rename the key"
            )
        return _FLAGS[said]

    def inner(self, key: str, values: Values) -> Fields:
        """The fields of one object in the list under a key."""
        inner = Fields(values, f"{self._prefix}{key}[].")
        self._inner.append(inner)
        return inner

    def leave(self, part: str) -> None:
        """Count a part of a value as not read, such as "answers[1:]"."""
        self._left.add(part)

    def unread(self) -> set[str]:
        """Keys that hold something and were not read, those of inner objects included."""
        keys = self._left | {self._prefix + key for key in self.filled.keys() - self._read}
        for inner in self._inner:
            keys |= inner.unread()
        return keys


def is_blank(value: object) -> bool:
    """Whether a value says nothing: null, NaN, or empty."""
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, (list, dict, bytes)) and not value)


def is_number(value: object) -> bool:
    """Whether the file has a number here, and no text that looks like one."""
    return isinstance(value, int | float | Decimal | Number) and not isinstance(value, bool)


def listed(keys: Collection[str]) -> str:
    """Keys for a message, at most `SHOWN_KEYS` of them."""
    names = [f"`{shown(key)}`" for key in islice(keys, SHOWN_KEYS)]
    more = len(keys) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _as_text(value: object, key: str, what: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return str(value)
    if not isinstance(value, str):
        kind = {"list": "a list", "dict": "an object"}.get(type(value).__name__, "binary or a date")
        raise RowRefusedError(f"no {what}: key `{shown(key)}` holds {kind}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowRefusedError(
            f"the {what} in key `{shown(key)}` has half a character (a lone surrogate) at "
            f"character {error.start + 1}: write the whole one"
        ) from error
    return str(value)


_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
