"""Guess of the columns with prompts and answers, for rows in no schema that telltune knows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from telltune.data.fields import RowRefusedError, is_blank, is_number, listed
from telltune.data.marks import better_answers
from telltune.data.report import is_bookkeeping
from telltune.data.schemas import READ_BESIDE, asked_beside, find_schema
from telltune.data.turns import chat_role
from telltune.errors import DataError, shown
from telltune.evaluation.headline import label_set
from telltune.recipe import Columns

# Usual names, the most telling first.
_CLASSES = (
    *("class", "category", "intent", "sentiment", "topic", "tag", "team", "department", "product"),
)
_WRITTEN = ("summary", "translation", "solution", "highlights")
_ANSWERS = (
    *("label", "labels", "target", "completion", "response", "answer", "output", "reply"),
    *(*_CLASSES, *_WRITTEN, "result", "priority", "gold", "y"),
)
_PROMPTS = (
    *("prompt", "text", "input", "question", "query", "instruction", "message", "sentence"),
    *("utterance", "content", "body", "document", "article", "review", "comment", "ticket"),
    *("email", "post", "tweet", "passage", "description", "dialogue", "source", "title", "x"),
)

_NUMBERED = re.compile(r"(.*[^\W\d_])[ _]?\d+")
_UNNAMED = re.compile(r"column \d+")

_MOSTLY = 0.9
"""Least share of rows in which a column of the task has a value."""


def guess_columns(
    rows: Sequence[Mapping[str, object]], file: str, beside: Collection[str] = ()
) -> Columns | None:
    """Guess which columns contain the prompt and the answer.

    Known names come first. Otherwise the answer is the only column with a closed set of labels, or
    the second of two columns of text, unless its name is that of a prompt. The prompt is the column
    with the longest texts. `beside` has the keys beside the list of rows, see `ParsedRow`.

    Returns:
        The columns, or None if the rows have a schema that telltune knows.

    Raises:
        DataError: There is more than one possibility, or none.
    """
    try:
        find_schema(rows[0])
    except RowRefusedError as refusal:
        if better_answers(rows[0]):
            raise DataError(f"{file}: {refusal}.") from None
        texts = _texts(rows)
        _refuse_row_as_header(texts, file)
        _refuse_turns(texts, file)
        _refuse_marks(rows, file)
        answer = _answer(texts)
        others = {name: values for name, values in texts.items() if name != answer}
        prompt = _named(_PROMPTS, others) or _longest(rows, others)
        if prompt is None and _longest(rows, texts) is None:
            raise DataError(
                f"{file}: no column has texts in most rows (the columns are "
                f"{listed(rows[0].keys())}); give data with a prompt and an answer in each row."
            ) from None
        if answer is None or prompt is None:
            raise DataError(
                f"{file}: the columns with prompt and answer cannot be told from "
                f"{listed(rows[0].keys())}; name them: --columns prompt=...,completion=..., or "
                "`columns` in Python."
            ) from None
        _refuse_unnamed(prompt, answer, file)
        _refuse_to_drop(rows, prompt, answer, file, beside)
        return Columns(prompt=prompt, completion=answer)
    return None


def _refuse_to_drop(
    rows: Sequence[Mapping[str, object]],
    prompt: str,
    answer: str,
    file: str,
    beside: Collection[str],
) -> None:
    """Raise DataError if the guess would leave out a part of what is asked.

    Such parts are what schemas read beside the prompt, what is asked beside the list of rows, and
    columns in a series with others (`sentence1` and `sentence2`, or `Option A` and `Option B`).
    """
    filled = {name for row in rows for name, value in row.items() if not is_blank(value)}
    series = _in_series(filled)
    dropped = [
        name
        for name in dict.fromkeys(name for row in rows for name in row)
        if name in filled - {prompt, answer}
        and (name.strip().casefold() in READ_BESIDE or name in series)
    ]
    dropped += asked_beside(beside)
    if dropped:
        raise DataError(
            f"{file}: the guessed columns `{shown(prompt)}` and `{shown(answer)}` would leave out "
            f"{listed(dropped)}; join them to the prompt, or name the columns to read: "
            "--columns prompt=...,completion=..., or `columns` in Python."
        )


def _in_series(names: Collection[str]) -> set[str]:
    """Return the names that differ in a number only, or in a letter from A and B on."""
    numbers = {name: stem[1] for name in names if (stem := _NUMBERED.fullmatch(name))}
    letters = {name: name[:-1].casefold() for name in names}
    folded = {name.casefold() for name in names}
    several = {stem for stem, count in Counter(numbers.values()).items() if count > 1}
    lettered = {stem for stem in letters.values() if {f"{stem}a", f"{stem}b"} <= folded}
    return {name for name, stem in numbers.items() if stem in several} | {
        name for name, stem in letters.items() if stem in lettered and name[-1:].isalpha()
    }


def _refuse_row_as_header(texts: Mapping[str, list[str]], file: str) -> None:
    """Raise DataError if the header is in the first row, or the first row is the header.

    The header is below a title if the first row has a usual name of a prompt and one of an answer,
    and both occur once. There is none if a name is also a value below it, or begins like most of
    them.
    """
    once = {
        values[0].strip().casefold() for values in texts.values() if values.count(values[0]) == 1
    }
    if not once.isdisjoint(_PROMPTS) and not once.isdisjoint(_ANSWERS):
        raise DataError(
            f"{file}: the first row after the header has names of columns "
            f"({listed([values[0] for values in texts.values()])}): delete the lines above it."
        )
    if any(name.strip().casefold() in (*_ANSWERS, *_PROMPTS) for name in texts):
        return
    again = next((name for name, values in texts.items() if name in values), None)
    alike = next((name for name, values in texts.items() if _begins_like(name, values)), None)
    if again is not None or alike is not None:
        sign = "a value in it" if again is not None else "begins like most values in it"
        raise DataError(
            f"{file}:1: `{shown(again or alike or '')}` is the name of a column and {sign}, so the "
            "file seems to have no header: put one before the first row, such as `text,label`."
        )


def _begins_like(name: str, values: Sequence[str]) -> bool:
    """Return whether a name has the first three words of most values."""
    start = name.split()[:3]
    return len(start) == 3 and 2 * sum(value.split()[:3] == start for value in values) > len(values)


def _refuse_unnamed(prompt: str, answer: str, file: str) -> None:
    """Raise DataError if a guessed column has no name, as below a title in the first line."""
    unnamed = next(filter(_UNNAMED.fullmatch, (prompt, answer)), None)
    if unnamed is not None:
        raise DataError(
            f"{file}:1: the first line has no name for {unnamed}: delete the line if it is a "
            "title, or write a name for each column."
        )


def _refuse_turns(texts: Mapping[str, list[str]], file: str) -> None:
    """Raise DataError if each row is one turn of a chat."""
    for name, values in texts.items():
        if name.strip().casefold() in ("role", "from") and all(map(chat_role, values)):
            raise DataError(
                f"{file}: each row is one turn of a chat, with its role in `{shown(name)}`; write "
                "all turns of one chat into one row, as a list under `messages`."
            )


def _refuse_marks(rows: Sequence[Mapping[str, object]], file: str) -> None:
    """Raise DataError for rows of Prodigy, because a guess would read rejected rows as well."""
    if {"_task_hash", "answer"} <= rows[0].keys():
        raise DataError(
            f"{file}: `answer` beside `_task_hash` is Prodigy's mark and not the answer; keep the "
            "accepted rows, and name the columns: --columns prompt=...,completion=..., or "
            "`columns` in Python."
        )


def _texts(rows: Sequence[Mapping[str, object]]) -> dict[str, list[str]]:
    """Return the values of each column that nearly every row has.

    Columns of lists or objects are left out, and those that only tell the origin of a row.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    found = {}
    for name in names:
        if is_bookkeeping(name) and name.strip().casefold() not in _PROMPTS:
            continue
        values = [row[name] for row in rows if not is_blank(row.get(name))]
        simple = all(isinstance(value, str) or is_number(value) for value in values)
        if simple and len(values) >= _MOSTLY * len(rows):
            found[name] = [str(value) for value in values]
    return found


def _named(names: Sequence[str], texts: Mapping[str, object]) -> str | None:
    folded = {column.strip().casefold(): column for column in reversed(list(texts))}
    return next((folded[name] for name in names if name in folded), None)


def _answer(texts: Mapping[str, list[str]]) -> str | None:
    named = _named(_ANSWERS, texts)
    if named is not None:
        # A class may be the task, or tell what the written text is about.
        both = named.strip().casefold() in _CLASSES and _named(_WRITTEN, texts)
        return None if both else named
    able = [name for name in texts if name.strip().casefold() not in _PROMPTS]
    labeled = [name for name in able if label_set(texts[name])]
    if len(labeled) == 1:
        return labeled[0]
    return able[-1] if len(texts) == 2 and able and not labeled else None


def _longest(rows: Sequence[Mapping[str, object]], texts: Mapping[str, list[str]]) -> str | None:
    written = {
        name: sum(map(len, values)) / len(values)
        for name, values in texts.items()
        if not all(is_number(row.get(name)) for row in rows)
    }
    return max(written, key=lambda name: written[name], default=None)
