"""Values of one row, with a record of which keys were read and which were not."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from itertools import islice

from telltune.data.parsed_row import Number
from telltune.errors import shown

Values = Mapping[str, object]

SHOWN_KEYS = 12


class RowRefusedError(ValueError):
    """Raised for a row that is not a valid example. The message is the reason."""


class Fields:
    """Values of a row, or of one turn in it.

    Args:
        values: Values by key.
        prefix: Prefix of the keys in reports, such as "messages[].".

    Attributes:
        filled: Values that are not blank.
        left_out: Reasons why answers of this row are not trained on, one sentence each.
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
        """Return whether a key has a value. This does not mark the key as read."""
        return key in self.filled

    def first(self, keys: Iterable[str]) -> str | None:
        """Return the first of the given keys that has a value."""
        return next(filter(self.filled.__contains__, keys), None)

    def take(self, key: str) -> object:
        """Mark a key as read and return its value, or None if it is blank or missing."""
        self._read.add(key)
        return self.filled.get(key)

    def text(self, key: str, what: str) -> str:
        """Return the text of a key, which errors call `what`. Numbers become text as in JSON.

        Raises:
            RowRefusedError: The key is missing or blank, or its value is not text.
        """
        if key not in self.values:
            raise RowRefusedError(f"no {what}: key `{shown(key)}` is missing")
        value = self.take(key)
        if value is None:
            raise RowRefusedError(f"no {what}: key `{shown(key)}` is empty")
        return _as_text(value, key, what)

    def flag(self, key: str) -> bool | None:
        """Return a boolean written as true, false, 1 or 0; None if the key is missing or empty.

        Raises:
            RowRefusedError: The key has another value.
        """
        if key not in self.filled:
            return None
        said = self.text(key, "yes or no").strip().lower()
        if said not in _FLAGS:
            raise RowRefusedError(
                f"key `{shown(key)}` is `{shown(said)}`, but must be 0 or 1 (or false or true): "
                "change the value or rename the key"
            )
        return _FLAGS[said]

    def inner(self, key: str, values: Values) -> Fields:
        """Return the fields of one object in the list under a key."""
        inner = Fields(values, f"{self._prefix}{key}[].")
        self._inner.append(inner)
        return inner

    def leave(self, part: str) -> None:
        """Mark a part of a value, such as "answers[1:]", as not read."""
        self._left.add(part)

    def unread(self) -> set[str]:
        """Return the keys that have a value and were not read, including keys of inner objects."""
        keys = self._left | {self._prefix + key for key in self.filled.keys() - self._read}
        for inner in self._inner:
            keys |= inner.unread()
        return keys


def is_blank(value: object) -> bool:
    """Return whether a value is null, NaN, white space or empty."""
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, (list, dict, bytes)) and not value)


def is_number(value: object) -> bool:
    """Return whether a value is a number in the file, as opposed to text that looks like one."""
    return isinstance(value, int | float | Decimal | Number) and not isinstance(value, bool)


def listed(keys: Collection[str]) -> str:
    """Format at most `SHOWN_KEYS` keys for a message."""
    names = [f"`{shown(key)}`" for key in islice(keys, SHOWN_KEYS)]
    more = len(keys) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _as_text(value: object, key: str, what: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | Decimal):
        return str(value)
    if not isinstance(value, str):
        kind = {"list": "a list", "dict": "an object"}.get(type(value).__name__)
        advice = ": write it as a string, for example of JSON" if kind else ""
        raise RowRefusedError(
            f"no {what}: key `{shown(key)}` contains {kind or 'binary or a date'}, not text{advice}"
        )
    check_encodable(value, f"the {what} in key `{shown(key)}`")
    return str(value)


def check_encodable(text: str, what: str) -> None:
    """Refuse a text, which the error calls `what`, that has no UTF-8.

    Raises:
        RowRefusedError: It contains an unpaired surrogate, such as half of an emoji.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowRefusedError(
            f"{what} contains an unpaired surrogate at character {error.start + 1}: replace that "
            "character"
        ) from None


_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
