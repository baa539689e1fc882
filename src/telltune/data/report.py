"""Counts of keys that are not read, answers that are left out, and labels without names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from telltune.data.checks import Finding, Group, Groups, Kind
from telltune.data.examples import Problem
from telltune.errors import shown

SHOWN_KEYS = 12
SHOWN_REASONS = 3
MAX_KEYS = 1000

# Keys with the origin of a row, which are not part of its content.
_BOOKKEEPING = re.compile(
    r"(.*\W)?(.*_)?_*(id|ids|idx|index|uid|uuid|guid|hash|url|timestamp)"
    r"|__index_level_\d+__|unnamed: \d+"
    r"|source|data_?source|dataset|split|license|created(_at)?|updated_at|meta|metadata",
    re.IGNORECASE,
)


def is_bookkeeping(key: str) -> bool:
    """Return whether a key tells the origin of a row, and nothing about its content."""
    return bool(_BOOKKEEPING.fullmatch(key))


class ReadReport:
    """Counts of what is not read, in memory that does not grow with the number of rows.

    Attributes:
        rows: Number of valid rows, including those that are left out.
        left_out: Answers and rows that are not trained on, by reason.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.left_out: Groups[Problem] = Groups()
        self._keys: dict[str, Group[Problem]] = {}
        self._numbers: Group[Problem] | None = None
        self._unlabeled = 0

    @property
    def unread(self) -> dict[str, int]:
        """Number of rows by key, for keys that have a value and are not read."""
        return {key: group.count for key, group in self._keys.items()}

    def count(self, file: str, line: int, unread: Iterable[str], left_out: Iterable[str]) -> None:
        """Count one row, its unread keys, and the reasons why its answers are left out."""
        self.rows += 1
        for key in sorted(unread):
            if key in self._keys:
                self._keys[key].count += 1
            elif len(self._keys) < MAX_KEYS:
                self._keys[key] = Group(Problem(file, line, ""))
        for reason in left_out:
            self.left_out.add(Problem(file, line, reason))

    def count_number(self, file: str, line: int, label: str) -> None:
        """Count a label that is a number and may lack a class name."""
        if self._numbers is None:
            self._numbers = Group(Problem(file, line, label))
        else:
            self._numbers.count += 1
        self._unlabeled += float(label) == -1

    def findings(self) -> list[Finding]:
        """Return the findings that `tell check` lists as warnings."""
        found = [
            _finding(self._keys[key], "unread", f"{self._counted([key])} is not read: {_HINT}")
            for key in self._content
        ]
        if self._bookkeeping:
            first = self._keys[self._bookkeeping[0]]
            found.append(_finding(first, "unread", self._bookkeeping_text()))
        if self._numbers is not None:
            found.append(_finding(self._numbers, "unnamed_label", self._numbers_text()))
        found += [_finding(one, "left_out", f"left out: {one.reason}") for one in self.left_out]
        return found

    def warnings(self, name: str) -> tuple[str, ...]:
        """Return the warnings of `tell plan` and `tell fit`, one sentence per kind."""
        found = []
        if self._content:
            found.append(f"not read: {self._counted(self._content)}; {_HINT}")
        if self._bookkeeping:
            found.append(self._bookkeeping_text())
        if self._numbers is not None:
            found.append(self._numbers_text())
        if self.left_out.total:
            groups = list(self.left_out)
            more = "; ..." if len(groups) > SHOWN_REASONS else ""
            reasons = "; ".join(map(str, groups[:SHOWN_REASONS]))
            found.append(f"{self.left_out.total:,} left out: {reasons}{more}")
        return tuple(f"{name}: {text}." for text in found)

    @property
    def _content(self) -> list[str]:
        return [key for key in self._keys if not is_bookkeeping(key)]

    @property
    def _bookkeeping(self) -> list[str]:
        return [key for key in self._keys if is_bookkeeping(key)]

    def _counted(self, keys: list[str]) -> str:
        named = [f"`{shown(key)}` ({self._rows(self._keys[key])})" for key in keys[:SHOWN_KEYS]]
        more = len(keys) - len(named)
        least = "at least " if len(self._keys) == MAX_KEYS else ""
        return ", ".join(named) + (f" and {least}{more} more keys" if more else "")

    def _bookkeeping_text(self) -> str:
        return f"not read (bookkeeping): {self._counted(self._bookkeeping)}"

    def _numbers_text(self) -> str:
        if self._numbers is None:
            return ""
        hidden = (
            f"; {self._unlabeled:,} of them are -1, which often marks a row without a label"
            if self._unlabeled
            else ""
        )
        return (
            f"labels are numbers without names, such as `{self._numbers.first.reason}` "
            f"({self._rows(self._numbers)}){hidden}; add their names to the recipe: "
            "`labels: [name of 0, name of 1, ...]`"
        )

    def _rows(self, group: Group[Problem]) -> str:
        return f"{group.count:,} of {self.rows:,} rows"


def _finding(group: Group[Problem], kind: Kind, reason: str) -> Finding:
    return Finding(group.first.file, group.first.line, reason, kind, refused=False)


_HINT = "put the content into the prompt, or set the columns to read in the recipe's `columns`"
