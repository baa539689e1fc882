"""Log compression: remove progress bars, metrics, repeated lines and lines of healthy runs.

A line's template is the line with numbers, paths and addresses replaced by placeholders. Templates
from logs of successful runs are added to a file of filters and removed from later logs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from telltune.masking import masked
from telltune.storage import cache_folder, read_cached_json, write_json

_FILE = "filters.json"
_OFTEN = 3
"""Number of first lines kept per template, besides the last one."""
_LONGEST = 400
"""Maximum number of characters kept per line; printed data and weights are longer."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_PARTS = (
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b\d\d:\d\d:\d\d(?:[.,]\d+)?\b"), "<time>"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "<hex>"),
    (re.compile(r"\b[0-9a-f]{12,}\b"), "<hex>"),
    (re.compile(r"(?:/[\w.@+-]+){2,}/?"), "<path>"),
    (re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"), "<n>"),
)
# Progress bars of tqdm and rich, and metrics that trainers print as JSON or Python dictionaries.
_PROGRESS = re.compile(
    r"\d+%\s*\|.*\|\s*[\d.,?]+[kMG]?/|[━╸╺]{5,}|^\s*\{['\"](?:loss|step|epoch|train_loss|grad_norm)\b"
)


@dataclass(frozen=True)
class Line:
    """A line that is kept.

    Attributes:
        number: Line number in the log, from 1.
        text: Text without color codes and with secrets masked, truncated to 400 characters.
    """

    number: int
    text: str


class Filters:
    """Line templates of healthy runs, stored in telltune's cache."""

    def __init__(self) -> None:
        found = read_cached_json(self._path())
        self._known: set[str] = set(found) if isinstance(found, list) else set()

    def learn(self, log: Iterable[str]) -> int:
        """Add the templates of a healthy run's log and return the number of new ones."""
        before = len(self._known)
        self._known.update(template(text) for _, text in _lines(log))
        write_json(self._path(), sorted(self._known))
        return len(self._known) - before

    def hide(self, text: str) -> bool:
        """Return whether healthy runs also print this line."""
        return template(text) in self._known

    @staticmethod
    def _path() -> Path:
        return cache_folder("diagnosis") / _FILE


def template(text: str) -> str:
    """Return a line with numbers, times, paths and addresses replaced by placeholders."""
    for pattern, name in _PARTS:
        text = pattern.sub(name, text)
    return " ".join(text.split())


def compress(log: Iterable[str], filters: Filters | None = None) -> list[Line]:
    """Return the lines that may explain why a run failed, in order.

    Args:
        log: Lines of the log.
        filters: Filters of healthy runs, or None.
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
        # The last line of a template is kept too: if many ranks fail alike, rules compare the
        # position of their last message with that of other causes.
        if seen[shape] <= _OFTEN or seen[shape] == times[shape]:
            kept.append(Line(number, text))
    return kept


def _lines(log: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield numbered, truncated lines without secrets, blank lines, colors and progress bars."""
    for number, raw in enumerate(log, start=1):
        # A progress bar overwrites its line; only the text after the last "\r" stays visible.
        text = _ESCAPES.sub("", raw.rstrip("\n")).rstrip("\r").rpartition("\r")[2]
        # What is kept is shown, stored and sent. Half a secret would not be recognized, so lines
        # are cut afterwards, but before the other patterns, which may take quadratic time.
        text = masked(text)[:_LONGEST].rstrip()
        if text.strip() and not _PROGRESS.search(text):
            yield number, text
