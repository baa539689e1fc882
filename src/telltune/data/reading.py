"""From what a recipe names (a file, a folder, a hub id) to examples."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from telltune.data.examples import Example, Problem
from telltune.data.readers import SUFFIXES, Row, format_of, read_rows, stem_of
from telltune.data.schemas import RowRefusedError, Schema, find_schema
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from telltune.recipe import Columns, DataSpec

__all__ = ["read_examples", "scan"]

SHOWN_PROBLEMS = 5

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class _Table(NamedTuple):
    """Rows under one name: a file or a hub data set."""

    name: str
    source: str
    rows: Iterator[Row | Problem]


def read_examples(specs: Sequence[DataSpec]) -> list[Example]:
    """All examples that the specs name, in order, or an error: a row is never skipped.

    Raises:
        DataError: A file is missing or unreadable, a row is no example, or nothing is there.
    """
    if not specs:
        raise DataError("no data is named: give at least one file, folder or hub id.")
    found = [list(scan(spec)) for spec in specs]
    problems = [item for items in found for item in items if isinstance(item, Problem)]
    if problems:
        raise DataError(_summary(problems))
    examples: list[Example] = []
    for spec, items in zip(specs, found, strict=True):
        start, stop = spec.rows or (0, len(items))
        if stop > len(items):
            raise DataError(
                f"{spec.path} holds {len(items)} examples, and `rows` asks for {start} to {stop}."
            )
        examples += [item for item in items[start:stop] if isinstance(item, Example)]
    return examples


def scan(spec: DataSpec) -> Iterator[Example | Problem]:
    """Every row of one data set as examples, or as a `Problem` that says what is wrong with it.

    The schema is found once a file: a later row that lacks a key is told which, rather than that
    it fits no schema. A data set without a row is one `Problem`.

    Raises:
        DataError: There is no such file, folder or hub data set, or it cannot be opened.
    """
    empty = True
    for table in _tables(spec):
        for item in _examples(table, spec.columns):
            empty = False
            yield item
    if empty:
        yield Problem(spec.path, 1, "holds no rows: give at least one example")


def _examples(table: _Table, columns: Columns | None) -> Iterator[Example | Problem]:
    schema: Schema | None = None
    for row in table.rows:
        if isinstance(row, Problem):
            yield row
            continue
        try:
            schema = schema or find_schema(row.values, columns)
            yield from schema.examples(
                row.values, source=table.source, origin=f"{table.name}:{row.line}"
            )
        except RowRefusedError as refusal:
            yield Problem(table.name, row.line, str(refusal))


def _tables(spec: DataSpec) -> Iterator[_Table]:
    path = Path(spec.path).expanduser()
    if not spec.path.strip() or "\0" in spec.path:
        raise DataError(f"{spec.path!r} is not a path: name a file, a folder or a hub data set.")
    try:
        files = _files(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if files is None and _HUB_ID.fullmatch(spec.path) and format_of(path) is None:
        yield _Table(spec.path, spec.path, _hub_rows(spec))
        return
    if files is None:
        raise DataError(f"no file or folder {path}{_suggestion(path)}: check the path.")
    for key in ("config", "split"):
        if getattr(spec, key) is not None:
            raise DataError(
                f"{path} is on disk, and `{key}` is only for hub data sets: take `{key}` out."
            )
    for file in files:
        yield _Table(str(file), stem_of(file), read_rows(file))


def _files(path: Path) -> list[Path] | None:
    """The data files that `path` stands for; None where nothing is there."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if format_of(file) and not file.is_dir())
        if not files:
            raise DataError(f"the folder {path} has no data files in it ({', '.join(SUFFIXES)}).")
        return files
    return [path] if path.exists() else None


def _suggestion(path: Path) -> str:
    try:
        neighbours = [file.name for file in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, neighbours, n=1)
    return f" (did you mean {path.parent / near[0]}?)" if near else ""


def _hub_rows(spec: DataSpec) -> Iterator[Row | Problem]:
    try:
        import datasets

        rows: Iterable[dict[str, object]] = datasets.load_dataset(
            spec.path, name=spec.config, split=spec.split or "train"
        )
        for number, values in enumerate(rows, start=1):
            yield Row(number, values)
    # The hub client raises dozens of kinds, its own and those of the HTTP libraries below it.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{spec.path} is no file or folder here{_suggestion(Path(spec.path))}, and as a hub "
            f"data set it cannot be loaded ({reason}): check the name and the connection."
        ) from error


def _summary(problems: Sequence[Problem]) -> str:
    shown = "; ".join(map(str, problems[:SHOWN_PROBLEMS]))
    more = len(problems) - SHOWN_PROBLEMS
    files = {problem.file for problem in problems}
    file = files.pop() if len(files) == 1 else "FILE"
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return (
        f"{count} in the data: {shown}{f'; and {more} more' if more > 0 else ''}. "
        f"`tell check {file}` lists them all."
    )
