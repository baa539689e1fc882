"""Past failures with known causes: the nearest one suggests the cause of a new failure.

Compressed logs are compared by the cosine of their TF-IDF vectors, fitted on all past failures and
the new log. Past failures are stored in telltune's cache, or in a file that a team shares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from telltune.errors import DataError
from telltune.research.diagnosis.compression import Line, template
from telltune.storage import cache_folder, jsonl_lines, write_text

_NEAR = 0.45
"""Minimum cosine at which a past failure counts as the same."""
_WORD = re.compile(r"[A-Za-z_]{3,}")
_LINES = 40
"""Number of lines compared, from the end of the compressed log, where the run failed."""


@dataclass(frozen=True)
class Remembered:
    """The nearest past failure.

    Attributes:
        cause: Name of its cause.
        likeness: Cosine similarity to the new log, 0 to 1.
    """

    cause: str
    likeness: float


def past_file() -> Path:
    """Return the default file of past failures."""
    return cache_folder("diagnosis") / "past.jsonl"


class Past:
    """Past failures in a JSONL file: `cause` and compressed `log` on each line.

    Args:
        path: The file; created when the first failure is added.

    Raises:
        DataError: A line is not a past failure.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[tuple[str, str]] = []
        if not path.exists():
            return
        for number, line in enumerate(jsonl_lines(path), start=1):
            try:
                row = json.loads(line)
                self._rows.append((row["cause"], row["log"]))
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{path}:{number}: not a past failure (`cause` and `log`); remove the line."
                ) from None

    def add(self, lines: Sequence[Line], cause: str) -> None:
        """Store a failure whose cause is known."""
        self._rows.append((cause, _words(lines)))
        rows = (json.dumps({"cause": c, "log": log}, ensure_ascii=False) for c, log in self._rows)
        write_text(self._path, "".join(f"{row}\n" for row in rows))

    def nearest(self, lines: Sequence[Line]) -> Remembered | None:
        """Return the past failure nearest to a log, or None if none is near enough."""
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
