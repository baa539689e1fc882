"""Rows without responses: prompts to answer, and a task's unlabeled inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from telltune.data.checks import Groups
from telltune.data.examples import Example, Problem
from telltune.data.fields import Fields, is_blank
from telltune.data.readers import Row, format_of, read_rows, stem_of
from telltune.data.reading import Table, tables
from telltune.data.schemas import SCHEMAS, UNKNOWN, RowRefusedError, find_schema
from telltune.data.turns import asks
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from telltune.data.files import Split
    from telltune.data.report import ReadReport
    from telltune.recipe import Columns, DataSpec

__all__ = ["read_prompts", "scan_unlabeled"]


def read_prompts(
    path: Path, *, columns: Columns | None = None, trained_on: Sequence[DataSpec] = ()
) -> list[tuple[dict[str, Any], Example]]:
    """Read a file of rows to answer.

    The schemas are those of training data, with the response left out or not. A conversation is
    answered at its end; if it already ends with an answer, that answer is what is predicted again.

    Args:
        path: One data file.
        columns: Which columns hold the prompt and the system text.
        trained_on: What the model learned from. If `columns` is not given, the columns of these
            are used where the file has them, and their `quoting` where the format is the same.

    Returns:
        Each row as it stands in the file, and its prompt as an example.

    Raises:
        DataError: The file cannot be read, holds nothing, or rows have no prompt; says how many.
    """
    try:
        missing = not path.exists()
    except OSError as error:  # a name that is too long, say
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if missing:
        raise DataError(f"no file {path}: check the path.")
    alike = [spec for spec in trained_on if format_of(Path(spec.path)) == format_of(path)]
    table = Table(str(path), stem_of(path), read_rows(path, alike[0].quoting if alike else "auto"))
    found: list[tuple[dict[str, Any], Example]] = []
    problems: Groups[Problem] = Groups()
    for item in _prompts(table, columns, trained_on):
        if isinstance(item, Problem):
            problems.add(item)
        else:
            found.append((dict(item.row.values), item.examples[-1]))
    if problems.total:
        raise DataError(f"{'; '.join(map(str, problems))}.")
    if not found:
        raise DataError(f"{path} holds no rows: there is nothing to answer.")
    return found


def scan_unlabeled(
    spec: DataSpec,
    report: ReadReport,
    *,
    split: Split = "train",
    trained_on: Sequence[DataSpec] = (),
) -> Iterator[Example | Problem]:
    """Read every prompt of one data set, without its answer if it has one.

    Args:
        spec: The data set.
        report: Takes down what of the rows is not read, and the answers that are ignored.
        split: The split of a folder or hub data set that is read unless `spec.split` names another.
        trained_on: As for `read_prompts`.

    Yields:
        Each prompt as an example with an empty completion, or what is wrong with a row.

    Raises:
        DataError: There is no such file, folder or hub data set, or it cannot be opened.
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
        yield Problem(spec.path, 1, "holds no rows: give at least one input")


class _Prompts(NamedTuple):
    """The prompts of one row: more than one where a conversation has several answers."""

    row: Row
    examples: list[Example]
    answered: bool
    unread: set[str]


def _prompts(
    table: Table, columns: Columns | None, trained_on: Sequence[DataSpec]
) -> Iterator[_Prompts | Problem]:
    """Read rows with a response or without one; see `read_prompts`."""
    known = [_for_prompts(spec.columns) for spec in trained_on if spec.columns]
    chosen = columns and _for_prompts(columns)
    is_chosen = columns is not None
    for row in table.rows:
        if isinstance(row, Problem):
            yield row
            continue
        try:
            if not is_chosen:
                # Once a file, so that all of its rows are read alike.
                chosen, is_chosen = _columns_of(row.values, known), True
            values = _with_response(row.values, chosen)
            fields = Fields(values)
            examples = find_schema(values, chosen).read(
                fields, source=table.source, origin=f"{table.name}:{row.line}", all_answers=True
            )
        except RowRefusedError as refusal:
            yield Problem(table.name, row.line, str(refusal))
            continue
        said = examples[-1].completion
        if chosen is not None and not is_blank(row.values.get(chosen.completion)):
            said = str(row.values[chosen.completion])
        yield _Prompts(row, examples, said != UNKNOWN, fields.unread())


def _for_prompts(columns: Columns) -> Columns:
    """Without the columns that only training needs."""
    return columns.model_copy(update={"confidence": None, "rationale": None})


def _columns_of(values: Mapping[str, object], known: Sequence[Columns]) -> Columns | None:
    """The columns by which to read a file that has such a row; None where its keys are usual."""
    for columns in known:
        if columns.prompt in values:
            return columns
    try:
        find_schema(_with_response(values, None))
    except RowRefusedError:
        return known[0] if known else None  # the refusal then names these columns
    return None


def _with_response(values: Mapping[str, object], columns: Columns | None) -> dict[str, object]:
    """A row with something where its response would stand."""
    if columns is not None:
        return {**values, columns.completion: UNKNOWN}
    filled = {key: value for key, value in values.items() if not is_blank(value)}
    for schema in SCHEMAS:
        turns = filled.get(schema.keys[0])
        if schema.answer_key is None and isinstance(turns, list):
            if asks(turns[-1]):
                reply = {"role": "assistant", "content": UNKNOWN}
                filled[schema.keys[0]] = [*turns, reply]
            return filled
    # Those that read most of a row first.
    flat = sorted(filter(lambda schema: schema.answer_key, SCHEMAS), key=lambda s: -len(s.keys))
    if not any(filled.keys() >= set(schema.keys) for schema in flat):
        for schema in flat:
            if filled.keys() >= set(schema.keys[:-1]):
                return filled | {schema.keys[-1]: UNKNOWN}
    return filled
