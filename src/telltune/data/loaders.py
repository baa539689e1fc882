"""Readers of a recipe's data sets (files, folders or hub ids) as examples."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from telltune.data.checks import Groups
from telltune.data.examples import Example, Problem
from telltune.data.fields import Fields, RowRefusedError
from telltune.data.files import Split, files_of
from telltune.data.formats import read_rows, stem_of
from telltune.data.given import is_given, named
from telltune.data.hub_rows import hub_rows
from telltune.data.report import ReadReport
from telltune.data.schemas import Schema, find_schema
from telltune.errors import DataError, shown
from telltune.recipe import DataSpec

if TYPE_CHECKING:
    from telltune.data.parsed_row import ParsedRow

SHOWN_REASONS = 5
_BUFFER = 1000
"""Number of examples in the buffer that shuffles a stream."""

# pandas writes 1 as 1.0 if other values of the column are missing.
_CLASS_NUMBER = re.compile(r"(-?[0-9]{1,9})(?:\.0)?")


Scan: TypeAlias = Callable[[DataSpec], Iterator[Example | Problem]]


class Table(NamedTuple):
    """Rows of one file or hub data set."""

    name: str
    source: str
    rows: Iterator[ParsedRow | Problem]


def read_examples(
    specs: Sequence[DataSpec], report: ReadReport | None = None, *, split: Split = "train"
) -> list[Example]:
    """Return all examples of the specs in order. An invalid row raises and is never skipped.

    Raises:
        DataError: A file is missing or unreadable, a row is invalid, or there are no examples.
    """
    return list(stream_examples(specs, partial(scan, split=split, report=report)))


def scan(
    spec: DataSpec, report: ReadReport | None = None, *, split: Split = "train"
) -> Iterator[Example | Problem]:
    """Yield the examples of each row of one data set, or a `Problem` for an invalid row.

    The schema is detected once per file, so that the error of a later row can name the missing key.
    A data set without any example yields one `Problem`.

    Raises:
        DataError: The file, folder or hub data set does not exist or cannot be opened.
    """
    report = ReadReport() if report is None else report
    rows, left_out, empty = report.rows, report.left_out.total, True
    found = (
        item
        for table in tables(spec, split)
        for read in examples_by_row(table, spec, report)
        for item in ([read] if isinstance(read, Problem) else read[1])
    )
    for item in found if spec.take is None else _drawn(found, spec.take):
        empty = False
        yield item
    if empty and report.left_out.total > left_out:
        count = report.rows - rows
        yield Problem(
            spec.path, 1, f"every row is left out ({count:,} of {count:,}): no examples remain"
        )
    elif empty:
        yield Problem(spec.path, 1, "contains no rows: add at least one example")


def _drawn(
    items: Iterator[Example | Problem], take: int | Literal["auto"]
) -> Iterator[Example | Problem]:
    """Yield the first examples of a stream, which pass through a buffer that shuffles them.

    The order does not depend on `take`, and at most `_BUFFER` more examples are read.
    """
    rng, buffer = Random(0), list[Example]()

    def drawn() -> Iterator[Example | Problem]:
        for item in items:
            if isinstance(item, Problem):
                yield item
            elif len(buffer) < _BUFFER:
                buffer.append(item)
            else:
                place = rng.randrange(_BUFFER)
                yield buffer[place]
                buffer[place] = item
        rng.shuffle(buffer)
        yield from buffer

    return islice(drawn(), None if take == "auto" else take)


def stream_examples(specs: Sequence[DataSpec], reader: Scan = scan) -> Iterator[Example]:
    """Yield examples as `read_examples` returns them, one at a time in constant memory.

    If a later data set has the name of an earlier one as the source of its examples, its number is
    added, so that every data set is a source of its own: "tickets (entry 2)".

    Examples before an invalid row are yielded before the error is raised. The rows after it are
    still checked, so that the error counts every problem.

    Raises:
        DataError: See `read_examples`.
    """
    if not specs:
        raise DataError("no data given: give at least one file, folder or hub id.")
    problems: Groups[Problem] = Groups()
    owners: dict[str, int] = {}
    for entry, spec in enumerate(specs, start=1):
        start, stop = spec.rows or (0, None)
        count = 0
        for item in reader(spec):
            if isinstance(item, Problem):
                problems.add(item)
            elif not problems.total and start <= count and (stop is None or count < stop):
                if owners.setdefault(item.source, entry) != entry:
                    item = replace(item, source=f"{item.source} (entry {entry})")
                yield item
            count += 1
        if stop is not None and stop > count and not problems.total:
            raise DataError(
                f"{spec.path} contains {count} examples, but `rows` asks for {start} to {stop}."
            )
    if problems.total:
        raise DataError(_summary(problems, specs))


def examples_by_row(
    table: Table, spec: DataSpec, report: ReadReport
) -> Iterator[tuple[ParsedRow, list[Example]] | Problem]:
    """Yield each row of a table with its examples, or a `Problem` for an invalid row."""
    schema: Schema | None = None
    for row in table.rows:
        if isinstance(row, Problem):
            yield row
            continue
        fields = Fields(row.values)
        for key in row.beside:
            fields.leave(key)
        try:
            schema = schema or find_schema(row.values, spec.columns, row.beside)
            examples = schema.read(fields, source=table.source, origin=f"{table.name}:{row.line}")
            if spec.labels is not None:
                examples = [_labeled(example, spec.labels) for example in examples]
        except RowRefusedError as refusal:
            reason = f"{refusal}{_other_layout(row.values, schema)}"
            yield Problem(table.name, row.line, reason)
            continue
        report.count(table.name, row.line, fields.unread(), fields.left_out)
        if schema.classifies and spec.labels is None:
            for example in examples:
                if _CLASS_NUMBER.fullmatch(example.completion):
                    report.count_number(table.name, row.line, example.completion)
        yield row, examples


def _labeled(example: Example, labels: Sequence[str]) -> Example:
    """Return an example whose answer is a class name, converted from a class number if needed."""
    said = example.completion.strip()
    written = _CLASS_NUMBER.fullmatch(said)
    number = int(written[1]) if written else -1
    numbered = 0 <= number < len(labels)
    if said in labels and numbered and labels[number] != said:
        raise RowRefusedError(
            f"the answer `{shown(said)}` is one of the recipe's `labels`, and the number of "
            f"another (`{shown(labels[number])}`): use names with a word, such as `class {said}`"
        )
    if said in labels:
        return example
    if not numbered:
        raise RowRefusedError(
            f"the answer `{shown(said)}` is neither one of the recipe's `labels` nor a number from "
            f"0 to {len(labels) - 1}"
        )
    return replace(example, completion=labels[number])


def _other_layout(values: Mapping[str, object], schema: Schema | None) -> str:
    """Return an addition to the error of a row that fits a different schema than its file."""
    if schema is None or schema.named or values.keys() >= set(schema.keys):
        return ""
    try:
        other = find_schema(values)
    except RowRefusedError:
        return ""
    return (
        f"; the file starts as {schema.name} but this row is {other.name}: use one layout per file"
    )


def tables(spec: DataSpec, split: Split) -> Iterator[Table]:
    """Open each file of a data set, or the hub data set.

    Raises:
        DataError: The file, folder or hub data set does not exist or cannot be opened.
    """
    files = files_of(spec, split)
    if files is None:
        yield Table(spec.path, spec.path, hub_rows(spec, split))
        return
    if spec.take is not None:
        Random(0).shuffle(files)
    for file in files:
        rows = read_rows(file, spec.quoting)
        yield Table(named(file), stem_of(file), rows)


def _summary(problems: Groups[Problem], specs: Sequence[DataSpec]) -> str:
    groups = list(problems)
    named = groups[:SHOWN_REASONS]
    more = problems.total - sum(group.count for group in named)
    files = {group.first.file for group in groups}
    file = files.pop() if len(files) == 1 else "FILE"
    if any(spec != DataSpec(path=spec.path) for spec in specs):
        file = "RECIPE"  # the file alone lacks the recipe's settings for reading it
    check = f"`tell check {shlex.quote(file)}`"
    if any(is_given(spec.path) for spec in specs):
        check = "`telltune.check`"
    count = "1 problem" if problems.total == 1 else f"{problems.total:,} problems"
    return (
        f"{count} in the data: {'; '.join(map(str, named))}"
        f"{f'; and {more:,} for other reasons' if more else ''}. "
        f"{check} lists them all."
    )
