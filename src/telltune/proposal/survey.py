"""Contents of data files: columns, kind of task, labels, and an anchor that says what to do."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from telltune.data.files import Split, files_of, split_of
from telltune.data.loaders import read_examples, tables
from telltune.data.parsed_row import ParsedRow
from telltune.data.report import ReadReport
from telltune.errors import DataError
from telltune.evaluation.headline import choose_metrics, label_set
from telltune.proposal.columns import guess_columns
from telltune.recipe import Columns, DataSpec

if TYPE_CHECKING:
    from telltune.data.examples import Example

Kind = Literal["labels", "JSON", "short answers", "free text"]

_KINDS: dict[str, Kind] = {
    "json_field_accuracy": "JSON",
    "accuracy": "labels",
    "exact_match": "short answers",
    "chrf": "free text",
}
"""Kind of task by the headline metric that `choose_metrics` chooses."""

_SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_LOOKED_AT = 1000
"""Number of rows of a file that its columns are guessed from."""
_LISTED, _LISTED_CHARACTERS = 20, 200
"""Most labels that an anchor lists, and most characters of the list."""
_WORD = re.compile(r"[^\W\d_]{3}")
_NOUNS = (
    *("text", "question", "sentence", "message", "review", "ticket", "email", "comment", "query"),
    *("document", "article", "title", "description", "tweet", "post", "dialogue"),
)
"""Columns whose names say what a prompt is."""


@dataclass(frozen=True)
class Survey:
    """Contents of data files.

    Attributes:
        specs: Data sets by split. `train` has all of them if the names tell no splits.
        is_split: Whether the names of files tell the splits.
        examples: Examples by split.
        counts: Number of rows by split; a row with a conversation is several examples.
        columns: Guessed or given columns of the first data set; None if its schema is known.
        labels: Labels of a classification task, sorted; () for other tasks.
        warnings: Sentences about what is not read or left out.
    """

    specs: dict[Split, list[DataSpec]]
    is_split: bool
    examples: dict[Split, list[Example]]
    counts: dict[Split, int]
    columns: Columns | None
    kind: Kind
    labels: tuple[str, ...]
    anchor: str
    warnings: tuple[str, ...]

    @property
    def telling_labels(self) -> list[str]:
        """The labels, for `task.labels`, if their names are words and there are few of them."""
        labels = sorted({label.strip() for label in self.labels})
        words = sum(bool(_WORD.search(label)) for label in labels)
        return labels if 1 < len(labels) <= min(_LISTED, 2 * words - 1) else []

    @property
    def told(self) -> str:
        """Description of the data in one line."""
        rows, count = sum(self.counts.values()), sum(map(len, self.examples.values()))
        counted = (
            f"{rows:,} conversations ({count:,} examples)"
            if rows < count
            else f"{count:,} examples"
        )
        kind = f"{len(self.labels)} labels" if self.labels else self.kind
        used = [spec.columns for specs in self.specs.values() for spec in specs if spec.columns]
        read = dict.fromkeys(f", columns {one.prompt} → {one.completion}" for one in used)
        return f"{counted}, {kind}{''.join(read)}"


def survey(
    paths: Sequence[str] | Mapping[Split, Sequence[str]], columns: Columns | None = None
) -> Survey:
    """Read data files, and guess what they are for.

    Raises:
        DataError: A file cannot be read, a row is invalid, or the columns cannot be guessed.
    """
    named = paths if isinstance(paths, Mapping) else _by_split(paths)
    specs = {
        split: [
            DataSpec(path=path, columns=columns or guessed_columns(path, split)) for path in found
        ]
        for split, found in named.items()
    }
    report = ReadReport()
    examples: dict[Split, list[Example]] = {}
    counts: dict[Split, int] = {}
    for split, found in specs.items():
        before = report.rows
        examples[split] = read_examples(found, report, split=split)
        counts[split] = report.rows - before
    answers = [example.completion for found in examples.values() for example in found]
    kind = _KINDS[choose_metrics(answers)[0]]
    labels = label_set(answers) if kind == "labels" else ()
    used = specs["train"][0].columns
    return Survey(
        specs,
        len(named) > 1,
        examples,
        counts,
        used,
        kind,
        labels,
        _anchor(kind, answers, labels, used),
        report.warnings("task"),
    )


def _by_split(paths: Sequence[str]) -> dict[Split, list[str]]:
    """Return the paths by the splits that their names tell; all in `train` if they tell none.

    A lone split is all of the data, whatever its name is.
    """
    found: dict[Split | None, list[str]] = {}
    for path in paths:
        splits: list[Split | None] = [*_splits_of(path)]
        for split in splits or [None]:
            found.setdefault(split, []).append(path)
    told: dict[Split, list[str]] = {split: found[split] for split in _SPLITS if split in found}
    if None in found and told:
        raise DataError(
            f"{found[None][0]} names no split, but {next(iter(told.values()))[0]} does; give files "
            "of one kind, or rename it."
        )
    if len(told) < 2:
        return {"train": list(paths)}
    if "train" not in told:
        raise DataError(f"no file of {', '.join(paths)} is named train; add or rename one.")
    return told


def _splits_of(path: str) -> list[Split]:
    """Return the splits that the name of a file tells, or the names in a folder."""
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"no file or folder {path}: check the path.")
    if place.is_file():
        told = split_of(place.name)
        return [] if told is None else [told]
    spec, files = DataSpec(path=path), dict[Split, list[Path] | None]()
    for split in _SPLITS:
        with suppress(DataError):
            files[split] = files_of(spec, split)
    if not files:
        files_of(spec)  # raises the reason
    same = len(files) == len(_SPLITS) and all(one == files["train"] for one in files.values())
    return [] if same else list(files)


def guessed_columns(path: str, split: Split, known: Sequence[DataSpec] = ()) -> Columns | None:
    """Return the columns of a file or folder, or None if its schema is known.

    The columns of known data sets are used if the rows have them.

    Raises:
        DataError: The columns cannot be guessed.
    """
    for table in tables(DataSpec(path=path), split):
        found = [row for row in islice(table.rows, _LOOKED_AT) if isinstance(row, ParsedRow)]
        rows = [row.values for row in found]
        if rows:
            for columns in filter(None, (spec.columns for spec in known)):
                if {columns.prompt, columns.completion} <= rows[0].keys():
                    return columns
            return guess_columns(rows, table.name, found[0].beside)
    return None


def _anchor(
    kind: Kind, answers: Sequence[str], labels: Sequence[str], columns: Columns | None
) -> str:
    prompt = columns.prompt.casefold() if columns else ""
    noun = prompt if prompt in _NOUNS else "text"
    if kind == "labels":
        listed = ", ".join(labels)
        if len(labels) <= _LISTED and len(listed) <= _LISTED_CHARACTERS:
            return f"Classify the {noun}. Reply with one of these and nothing else: {listed}."
        return f"Classify the {noun}. Reply with the label and nothing else."
    if kind == "JSON":
        keys = _keys(answers)
        named = f" object with the keys {', '.join(keys)}" if keys else ""
        return f"Read the {noun}. Reply with a JSON{named or ' value'} and nothing else."
    if kind == "short answers":
        return f"Read the {noun}. Reply with the short answer and nothing else."
    answer = columns.completion if columns else "answer"
    return f"Read the {noun}. Write the {answer.replace('_', ' ')} and nothing else."


def _keys(answers: Sequence[str]) -> list[str]:
    """Return the keys of JSON objects that more than half of the answers have."""
    counts: Counter[str] = Counter()
    for answer in answers:
        with suppress(ValueError, RecursionError):
            value = json.loads(answer)
            counts.update(value.keys() if isinstance(value, dict) else ())
    return [key for key, count in counts.items() if 2 * count > len(answers)]
