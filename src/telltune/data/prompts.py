"""Readers of rows without responses: prompts to answer, and unlabeled inputs of a task."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import filterfalse
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from telltune.data.checks import Groups
from telltune.data.examples import Example, Problem
from telltune.data.fields import Fields, RowRefusedError, is_blank, listed
from telltune.data.formats import format_of, read_rows, stem_of
from telltune.data.loaders import Table, tables
from telltune.data.parsed_row import (
    TOO_LONG,
    ParsedRow,
    Place,
    StopReadingError,
    lines_of,
    parse_row,
    utf8_text,
)
from telltune.data.report import is_bookkeeping
from telltune.data.schemas import READ_BESIDE, SCHEMAS, UNKNOWN, Schema, find_schema
from telltune.data.turns import asks
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from telltune.data.files import Split
    from telltune.data.report import ReadReport
    from telltune.recipe import Columns, DataSpec


def read_prompts(
    path: Path,
    *,
    columns: Columns | None = None,
    trained_on: Sequence[DataSpec] = (),
    report: ReadReport | None = None,
) -> list[tuple[dict[str, Any], Example]]:
    """Read a file of prompts to answer.

    The schemas are those of training data, with or without the response. A conversation is
    answered at its end. If it already ends with an answer, that answer is predicted again.

    Args:
        path: Data file.
        columns: Names of the prompt and system columns.
        trained_on: Data sets that the model was trained on. Without `columns`, their columns are
            used if the file has them. Their `quoting` is used if the format is the same.
        report: Report that receives the keys that are not read. Bookkeeping such as an id is not
            counted, and nothing is if columns are used.

    Returns:
        Pairs of the row's values in the file and its prompt as an example.

    Raises:
        DataError: The file cannot be read or is empty, or rows have no prompt; gives their number.
    """
    try:
        missing = not path.exists()
    except OSError as error:  # raised for a name that is too long, for example
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if missing:
        raise DataError(f"no file {path}: check the path.")
    alike = [spec for spec in trained_on if format_of(Path(spec.path)) == format_of(path)]
    table = Table(str(path), stem_of(path), read_rows(path, alike[0].quoting if alike else "auto"))
    return prompts_of(table, columns=columns, trained_on=trained_on, report=report)


def prompts_of(
    table: Table,
    *,
    columns: Columns | None = None,
    trained_on: Sequence[DataSpec] = (),
    report: ReadReport | None = None,
) -> list[tuple[dict[str, Any], Example]]:
    """Return the prompts of a table's rows; see `read_prompts`."""
    found: list[tuple[dict[str, Any], Example]] = []
    problems: Groups[Problem] = Groups()
    for item in _prompts(table, columns, trained_on):
        if isinstance(item, Problem):
            problems.add(item)
            continue
        found.append((dict(item.row.values), item.examples[-1]))
        if report is not None and not item.named:
            content = filterfalse(is_bookkeeping, item.unread)
            report.count(table.name, item.row.line, content, [])
    if problems.total:
        told = "; ".join(map(str, problems))
        raise DataError(told if told.endswith("?") else f"{told}.")
    if not found:
        raise DataError(f"{table.name} contains no rows: add at least one prompt.")
    return found


def table_of_lines(stream: BinaryIO, name: str, key: str = "prompt") -> Table:
    """Return the rows of a stream: JSON objects, or texts of one column, one on a line."""

    def rows() -> Iterator[ParsedRow | Problem]:
        try:
            for number, line in lines_of(stream):
                text = (line or b"").strip()
                if line is None:
                    yield Problem(name, number, TOO_LONG)
                elif text.startswith(b"{"):
                    row = parse_row(text, Place(number))
                    yield row if isinstance(row, ParsedRow) else Problem(name, *row)
                elif text:
                    yield ParsedRow(number, {key: utf8_text(text, Place(number))})
        except StopReadingError as stop:
            yield Problem(name, *stop.fault)

    return Table(name, name, rows())


def scan_unlabeled(
    spec: DataSpec,
    report: ReadReport,
    *,
    split: Split = "train",
    trained_on: Sequence[DataSpec] = (),
) -> Iterator[Example | Problem]:
    """Read every prompt of one data set and discard the answers.

    Yields:
        Prompts as examples with empty completions, or a `Problem` for an invalid row.

    Raises:
        DataError: The file, folder or hub data set does not exist or cannot be opened.
    """
    empty = True
    for table in tables(spec, split):
        for item in _prompts(table, spec.columns, trained_on):
            empty = False
            if isinstance(item, Problem):
                yield item
                continue
            ignored = ["its answer is ignored: this is unlabeled data"] if item.answered else []
            report.count(table.name, item.row.line, item.unread, ignored)
            for example in item.examples:
                yield replace(example, completion="", reasoning="", rationale="", confidence=1.0)
    if empty:
        yield Problem(spec.path, 1, "contains no rows: add at least one input")


class _Prompts(NamedTuple):
    """Prompts of one row: several if a conversation has several answers."""

    row: ParsedRow
    examples: list[Example]
    answered: bool
    unread: set[str]
    named: bool
    """Whether the row was read by columns."""


def _prompts(
    table: Table, columns: Columns | None, trained_on: Sequence[DataSpec]
) -> Iterator[_Prompts | Problem]:
    """Read rows with or without a response; see `read_prompts`."""
    known = [_for_prompts(spec.columns) for spec in trained_on if spec.columns]
    chosen = columns and _for_prompts(columns)
    is_chosen = columns is not None
    schema: Schema | None = None
    for row in table.rows:
        if isinstance(row, Problem):
            yield row
            continue
        try:
            if not is_chosen:
                # Chosen once per file, so that all of its rows are read in the same way.
                chosen, is_chosen = _columns_of(row.values, known), True
            values = _with_response(row.values, chosen, schema, trained_on)
            schema = find_schema(values, chosen, row.beside)
            read = partial(
                schema.read,
                source=table.source,
                origin=f"{table.name}:{row.line}",
                all_answers=True,
            )
            fields = Fields(values)
            try:
                examples = read(fields)
            except RowRefusedError:
                if schema.answer_key is None:
                    raise
                # The answer is not needed, and may be what is refused.
                fields = Fields({**values, schema.answer_key: UNKNOWN})
                examples = read(fields)
        except RowRefusedError as refusal:
            yield Problem(table.name, row.line, str(refusal))
            continue
        said = examples[-1].completion
        if chosen is not None and not is_blank(row.values.get(chosen.completion)):
            said = str(row.values[chosen.completion])
        unread = fields.unread().union(row.beside)
        yield _Prompts(row, examples, said != UNKNOWN, unread, chosen is not None)


def _for_prompts(columns: Columns) -> Columns:
    """Return columns without those that only training needs."""
    return columns.model_copy(update={"confidence": None, "rationale": None})


def _columns_of(values: Mapping[str, object], known: Sequence[Columns]) -> Columns | None:
    """Return the columns to read a file with, given its first row; None to detect the schema."""
    for columns in known:
        if columns.prompt in values:
            return columns
    try:
        find_schema(_with_response(values, None, None, ()))
    except RowRefusedError:
        return known[0] if known else None  # the error message then names these columns
    return None


def _with_response(
    values: Mapping[str, object],
    columns: Columns | None,
    before: Schema | None,
    trained_on: Sequence[DataSpec],
) -> dict[str, object]:
    """Return a row with a placeholder as its response if it has none.

    With `columns`, the placeholder also replaces an existing response. A row without the prompt's
    column is refused with the columns that it has, so it gets none. `before` is the schema of the
    rows before.
    """
    if columns is not None and columns.prompt not in values:
        return dict(values)
    if columns is not None:
        return {**values, columns.completion: UNKNOWN}
    filled = {key: value for key, value in values.items() if not is_blank(value)}
    flat = []
    for schema in SCHEMAS:
        turns = filled.get(schema.keys[0])
        if schema.answer_key is not None:
            flat.append(schema)
        elif isinstance(turns, list):
            if asks(turns[-1]):
                reply = {"role": "assistant", "content": UNKNOWN}
                filled[schema.keys[0]] = [*turns, reply]
            return filled
    if any(filled.keys() >= set(schema.keys) for schema in flat):
        return filled
    fitting = [schema for schema in flat if filled.keys() >= set(schema.keys[:-1])]
    if not fitting:
        return dict(values)  # The error then names the key that is empty.
    return filled | {_reading_most(filled, fitting, before, trained_on).keys[-1]: UNKNOWN}


def _reading_most(
    filled: Mapping[str, object],
    fitting: Sequence[Schema],
    before: Schema | None,
    trained_on: Sequence[DataSpec],
) -> Schema:
    """Return the schema that reads most keys of a row without a response.

    If others read as many but different keys, it is the schema of the rows before, or else of the
    training data.

    Raises:
        RowRefusedError: Neither is one of them.
    """
    read = [frozenset(filled).intersection((*schema.keys, *READ_BESIDE)) for schema in fitting]
    most = max(map(len, read))
    tied: dict[frozenset[str], Schema] = {}
    for keys, schema in zip(read, fitting, strict=True):
        if len(keys) == most:
            tied.setdefault(keys, schema)
    if len(tied) == 1:
        return next(iter(tied.values()))
    # The training data are read only for the first row of a file.
    known = before if before in fitting else _trained_schema(trained_on)
    if known is not None and known in fitting:
        return known
    names = " and ".join(schema.name for schema in tied.values())
    raise RowRefusedError(
        f"the keys {listed(filled)} match {names}: name the prompt's column, by `columns` in the "
        "recipe or by `--columns prompt=...`"
    )


def _trained_schema(specs: Sequence[DataSpec]) -> Schema | None:
    """Return the schema of the training data, or None if they cannot be read."""
    try:
        for spec in specs:
            for table in tables(spec, "train"):
                for row in table.rows:
                    if isinstance(row, ParsedRow):
                        return find_schema(row.values, spec.columns)
    except (DataError, RowRefusedError):
        pass
    return None
