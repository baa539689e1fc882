"""Failures that were diagnosed before: the nearest of them says what a new one may be.

Logs are compared by the words of what is left of them after compression, TF-IDF over all that is
known, by cosine. Past failures are a file in telltune's cache, or one that a team shares.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.diagnosis.compression import template
from telltune.errors import DataError
from telltune.storage import cache_folder, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.diagnosis.compression import Line

__all__ = ["Past", "Remembered", "past_file"]

_NEAR = 0.45
"""Cosine from which on a past failure counts as the same."""
_WORD = re.compile(r"[A-Za-z_]{3,}")
_LINES = 40
"""Of the end of a log: where it failed."""


@dataclass(frozen=True)
class Remembered:
    """The nearest past failure.

    Attributes:
        cause: What it was.
        likeness: Cosine, 0 to 1.
    """

    cause: str
    likeness: float


def past_file() -> Path:
    """Where past failures are kept if nobody names another file."""
    return cache_folder("diagnosis") / "past.jsonl"


class Past:
    """Past failures, a line of JSON each: `cause` and the `log` as it was compressed.

    Args:
        path: The file; made with the first failure.

    Raises:
        DataError: A line of it is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[tuple[str, str]] = []
        if not path.exists():
            return
        for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                self._rows.append((row["cause"], row["log"]))
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{path}:{number}: no past failure (`cause` and `log`); remove the line."
                ) from None

    def add(self, lines: Sequence[Line], cause: str) -> None:
        """Keep a failure whose cause is known."""
        self._rows.append((cause, _words(lines)))
        rows = (json.dumps({"cause": c, "log": log}, ensure_ascii=False) for c, log in self._rows)
        write_text(self._path, "".join(f"{row}\n" for row in rows))

    def nearest(self, lines: Sequence[Line]) -> Remembered | None:
        """The past failure most like a log; None where none is like it."""
        words = _words(lines)
        if not self._rows or not words:
            return None
        from sklearn.feature_extraction.text import TfidfVectorizer

        split = TfidfVectorizer(sublinear_tf=True, analyzer=_WORD.findall)
        vectors = split.fit_transform([*(log for _, log in self._rows), words])
        likeness = (vectors[:-1] @ vectors[-1].T).toarray().ravel()
        best = int(likeness.argmax())
        if likeness[best] < _NEAR:
            return None
        return Remembered(self._rows[best][0], round(float(likeness[best]), 3))


def _words(lines: Sequence[Line]) -> str:
    return "\n".join(template(line.text) for line in lines[-_LINES:])
