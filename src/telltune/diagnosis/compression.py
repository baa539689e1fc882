"""A log without what every healthy run says too: progress, metrics, and lines that come over again.

A line's template is what is left when numbers, paths and addresses are taken out. Templates that
come in logs of runs that went well are filtered out ever after; the filters are a file, and grow.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.storage import cache_folder, read_cached_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["Filters", "Line", "compress", "template"]

_FILE = "filters.json"
_OFTEN = 3
"""A line of one template is kept so many times, and the last; others tell nothing new."""
_LONGEST = 400
"""Characters of a line that are kept: data and weights printed whole tell nothing either."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_PARTS = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b"), "<time>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "<hex>"),
    (re.compile(r"\b[0-9a-f]{12,}\b"), "<hex>"),
    (re.compile(r"(?:/[\w.@+-]+){2,}/?"), "<path>"),
    (re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"), "<n>"),
)
# Bars of tqdm and rich, and the metrics that trainers print as JSON or Python dictionaries.
_PROGRESS = re.compile(
    r"\d+%\s*\|.*\|\s*[\d.,?]+[kMG]?/|[━╸╺]{5,}|^\s*\{['\"](?:loss|step|epoch|train_loss|grad_norm)\b"
)


@dataclass(frozen=True)
class Line:
    """A line that is kept.

    Attributes:
        number: In the log, from 1.
        text: Without colours, and cut where it is very long.
    """

    number: int
    text: str


class Filters:
    """Templates that healthy runs print, in telltune's cache."""

    def __init__(self) -> None:
        found = read_cached_json(self._path())
        self._known: set[str] = set(found) if isinstance(found, list) else set()

    def learn(self, log: Iterable[str]) -> int:
        """Take a healthy run's log into account; how many templates are new."""
        before = len(self._known)
        self._known.update(template(text) for _, text in _lines(log))
        write_json(self._path(), sorted(self._known))
        return len(self._known) - before

    def hide(self, text: str) -> bool:
        """Whether healthy runs say this too."""
        return template(text) in self._known

    @staticmethod
    def _path() -> Path:
        return cache_folder("diagnosis") / _FILE


def template(text: str) -> str:
    """A line with its numbers, times, paths and addresses taken out."""
    for pattern, name in _PARTS:
        text = pattern.sub(name, text)
    return " ".join(text.split())


def compress(log: Iterable[str], filters: Filters | None = None) -> list[Line]:
    """The lines that may tell why a run failed, in their order.

    Args:
        log: Its lines.
        filters: Of healthy runs, or None.
    """
    lines = [
        (number, text, template(text))
        for number, text in _lines(log)
        if filters is None or not filters.hide(text)
    ]
    times = Counter(shape for *_, shape in lines)
    seen: Counter[str] = Counter()
    kept = []
    for number, text, shape in lines:
        seen[shape] += 1
        # The last: where many ranks fail alike, what ended the run stands behind all of theirs.
        if seen[shape] <= _OFTEN or seen[shape] == times[shape]:
            kept.append(Line(number, text[:_LONGEST]))
    return kept


def _lines(log: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without blanks, colours and progress."""
    for number, raw in enumerate(log, start=1):
        # A bar is drawn over itself: what stands last is what was left to see.
        text = _ESCAPES.sub("", raw.rstrip("\n")).rstrip("\r").rpartition("\r")[2].rstrip()
        if text.strip() and not _PROGRESS.search(text):
            yield number, text
