"""Data given in Python: rows in lists, frames and data sets of `datasets`.

Frames are recognized by the Arrow protocol, which pandas, Polars, pyarrow and DuckDB implement, so
that none of them is imported. A recipe names data by path. The rows are therefore written to a file
in the cache whose name depends on the rows alone, and a run can be resumed or verified later.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from telltune.data.files import Split, split_of
from telltune.data.parquet import as_spelled, table_rows
from telltune.data.parsed_row import Fault, ParsedRow, StopReadingError
from telltune.data.writing import json_line
from telltune.errors import DataError, shown
from telltune.recipe import AnyRecipe, Recipe, as_recipe
from telltune.storage import cache_folder, write_text

_FOLDER = "given_in_python"
_DATA = ("train", "dev", "test", "unlabeled")
"""Recipe keys in `task` that name data."""
_INDEX = re.compile(r"__index_level_\d+__")
"""Column that pandas adds for an index without a name."""
_TAKEN = (
    "a path, a list of dicts, a frame (pandas, Polars, Arrow), a data set of `datasets`, or a dict "
    "of these by split (train, dev, test)"
)


@runtime_checkable
class Frame(Protocol):
    """Frame with the Arrow protocol, such as those of pandas and Polars."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the contents as an Arrow stream."""
        ...


class HubData(Protocol):
    """Data set of `datasets`, which is no frame by itself."""

    @property
    def features(self) -> Any:
        """Types of the columns."""
        ...

    def with_format(self, type: str) -> Any:  # noqa: A002 - the name in `datasets`
        """Return the data set with rows in another format."""
        ...


Row: TypeAlias = Mapping[str, object] | Sequence[Mapping[str, object]]
"""Values by column, or a conversation as a list of messages."""
Rows: TypeAlias = Sequence[Row] | Frame | HubData
Files: TypeAlias = str | Path | Sequence[str | Path]
AnyData: TypeAlias = Files | Rows | Mapping[str, Files | Rows]
"""Data argument of the API: files, rows, or either of them by split."""


class GivenRows(NamedTuple):
    """Rows given in Python.

    Attributes:
        name: Name in messages: `list`, `frame` or `dataset`. `frame:12` is row 12 of the frame,
            counted from 1.
        rows: Values of each row by column.
    """

    name: str
    rows: list[dict[str, object]]

    def parsed(self) -> Iterator[ParsedRow]:
        """Yield the rows as from a file, numbered from 1."""
        for number, row in enumerate(self.rows, start=1):
            yield ParsedRow(number, row)

    def path(self) -> str:
        """Return the path of a file in the cache with these rows."""
        text = "".join(f"{json_line(row)}\n" for row in self.rows)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = cache_folder(_FOLDER, digest) / f"{self.name}.jsonl"
        if not path.exists():
            write_text(path, text)
        return str(path)


def is_given(path: str | Path) -> bool:
    """Return whether a file has rows that were given in Python."""
    return Path(path).parent.parent.name == _FOLDER


def named(path: Path) -> str:
    """Return the name of a file in messages; for rows given in Python, `list` or `frame`."""
    return path.stem if is_given(path) else str(path)


def is_conversation(data: object) -> bool:
    """Return whether this is one conversation: a list of messages with role and content."""
    return (
        isinstance(data, Sequence)
        and not isinstance(data, str)
        and len(data) > 0
        and all(isinstance(turn, Mapping) and {"role", "content"} <= turn.keys() for turn in data)
    )


def is_column(data: object) -> bool:
    """Return whether this is an array with one axis, or a column of a frame."""
    return len(getattr(data, "shape", ())) == 1


def is_by_split(data: object) -> bool:
    """Return whether this is a dictionary whose keys are names of splits, such as "train"."""
    if not isinstance(data, Mapping) or not data:
        return False
    return all(isinstance(name, str) and split_of(name) is not None for name in data)


def files_of_data(data: AnyData) -> list[str] | dict[Split, list[str]]:
    """Return the paths of files with the data, by split if the data are given by split.

    Raises:
        DataError: See `rows_of`.
    """
    if not is_by_split(data):
        return _files(data)
    assert isinstance(data, Mapping)
    found: dict[Split, list[str]] = {}
    for name, part in data.items():
        split = split_of(name)
        assert split is not None
        found.setdefault(split, []).extend(_files(part))
    return found


def _files(data: Any) -> list[str]:
    if isinstance(data, str | Path):
        return [str(data)]
    if isinstance(data, list | tuple) and data and all(isinstance(p, str | Path) for p in data):
        return [str(path) for path in data]
    return [rows_of(data).path()]


def rows_of(data: Rows) -> GivenRows:
    """Return rows that were given in Python: in a list, as one conversation, frame or data set.

    Raises:
        DataError: The data are of another kind, empty, have no columns of one type, or contain
            objects that are neither text nor numbers.
    """
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        several = [data] if is_conversation(data) else data
        found = GivenRows("list", [_row(n, row) for n, row in enumerate(several, start=1)])
    elif isinstance(data, Frame) and not is_column(data):
        found = GivenRows("frame", _of_arrow(data, "frame"))
    elif type(data).__module__.startswith("datasets.") and not isinstance(data, Mapping):
        found = GivenRows("dataset", _of_dataset(data))  # type: ignore[arg-type]
    else:
        raise DataError(f"data of type {type(data).__name__} cannot be read: give {_TAKEN}.")
    if not found.rows:
        raise DataError(f"the {found.name} is empty: give at least one example.")
    for number, row in enumerate(found.rows, start=1):
        for key, value in row.items():
            if (kind := _no_data(value)) is not None:
                raise DataError(
                    f"{found.name}:{number}: `{shown(key)}` is or contains a value of type {kind}: "
                    "give text, numbers, lists and dicts."
                )
    return found


def _row(number: int, row: object) -> dict[str, object]:
    if is_conversation(row):
        row = {"messages": row}
    if not isinstance(row, Mapping):
        raise DataError(
            f"list:{number}: the row is of type {type(row).__name__}: give a dict such as "
            '{"prompt": ..., "completion": ...}, or a list of messages.'
        )
    return {str(key): as_spelled(_plain(value)) for key, value in row.items()}


def _no_data(value: object) -> str | None:
    """Return the name of a type, at any depth of a value, that files cannot contain; else None."""
    if value is None or isinstance(value, str | bool):
        return None
    if isinstance(value, list | dict):
        parts = value.values() if isinstance(value, dict) else value
        return next(filter(None, map(_no_data, parts)), None)
    return type(value).__name__


def _plain(value: object) -> object:
    """Return a value with lists and dicts in place of other sequences, and without NumPy types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.tolist() if type(value).__module__ == "numpy" else value  # type: ignore[attr-defined]


def _of_dataset(data: HubData) -> list[dict[str, object]]:
    if not hasattr(data, "__len__"):
        raise DataError("a streamed data set has no end: give `list(data.take(1000))` instead.")
    table = data.with_format("arrow")[:]
    # The metadata have the names of classes.
    return _of_arrow(table.replace_schema_metadata(data.features.arrow_schema.metadata), "dataset")


def _of_arrow(data: Frame, name: str) -> list[dict[str, object]]:
    import pyarrow as pa

    try:
        table = pa.table(data)
    except (pa.ArrowException, TypeError, ValueError) as error:
        reason = " ".join(map(str, error.args)).partition("\n")[0]
        raise DataError(
            f"the {name} cannot be read ({reason}): give each column values of one type."
        ) from error
    table = table.drop_columns([key for key in table.column_names if _INDEX.fullmatch(key)])
    rows = []
    try:
        for row in table_rows(table, f"the {name}"):
            if isinstance(row, Fault):
                raise StopReadingError(*row)
            rows.append(dict(row.values))
    except StopReadingError as stop:
        raise DataError(f"{name}:{stop.fault.line}: {stop.fault.reason}.") from stop
    return rows


def given_recipe(recipe: AnyRecipe) -> Recipe:
    """Return a recipe from a file, a recipe, or a dictionary, also one with rows as data.

    Raises:
        DataError: The rows cannot be read; see `rows_of`.
        RecipeError: The recipe is invalid.
    """
    return as_recipe(with_paths(recipe) if isinstance(recipe, Mapping) else recipe)


def with_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's keys with the path of a file in place of rows that are given in Python."""
    values = {key: _path(value) if key == "general" else value for key, value in values.items()}
    if isinstance(values.get("task"), Mapping):
        task = values["task"].items()
        values["task"] = {key: _path(value) if key in _DATA else value for key, value in task}
    return values


def _path(value: Any) -> Any:
    """Return the path of rows, and paths and settings of data sets as they are."""
    if isinstance(value, list):
        are_rows = any(not isinstance(one, str) and "path" not in one for one in value)
        return rows_of(value).path() if value and are_rows else value
    is_data = isinstance(value, Frame) or type(value).__module__.startswith("datasets.")
    return rows_of(value).path() if is_data else value
