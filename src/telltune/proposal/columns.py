"""Guess of the columns with prompts and answers, for rows in no schema that telltune knows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from telltune.data.fields import RowRefusedError, is_blank, is_number, listed
from telltune.data.marks import better_answers
from telltune.data.report import is_bookkeeping
from telltune.data.schemas import READ_BESIDE, find_schema
from telltune.errors import DataError, shown
from telltune.evaluation.headline import label_set
from telltune.recipe import Columns

# Usual names, the most telling first.
_ANSWERS = (
    *("label", "labels", "target", "completion", "response", "answer", "output", "reply"),
    *("class", "category", "intent", "sentiment", "topic", "tag", "team", "department", "product"),
    *("summary", "translation", "solution", "result", "highlights", "priority", "gold", "y"),
)
_PROMPTS = (
    *("prompt", "text", "input", "question", "query", "instruction", "message", "sentence"),
    *("utterance", "content", "body", "document", "article", "review", "comment", "ticket"),
    *("email", "post", "tweet", "passage", "description", "dialogue", "source", "title", "x"),
)

_SERIES = re.compile(r"(.*[^\W\d_])[ _]?\d+")

_MOSTLY = 0.9
"""Least share of rows in which a column of the task has a value."""


def guess_columns(rows: Sequence[Mapping[str, object]], file: str) -> Columns | None:
    """Guess which columns contain the prompt and the answer.

    Known names come first. Otherwise the answer is the only column with a closed set of labels, or
    the second of two columns of text, and the prompt is the column with the longest texts.

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
        answer = _named(_ANSWERS, texts) or _only_answer(texts)
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
        _refuse_to_drop(rows, prompt, answer, file)
        return Columns(prompt=prompt, completion=answer)
    return None


def _refuse_to_drop(
    rows: Sequence[Mapping[str, object]], prompt: str, answer: str, file: str
) -> None:
    """Raise DataError if the guess would leave out a part of what is asked.

    Such parts are what schemas read beside the prompt, and columns in a series with others
    (`sentence1` and `sentence2`, or `choice1`, `choice2` and `choice3`).
    """
    filled = {name for row in rows for name, value in row.items() if not is_blank(value)}
    stems = {name: stem[1] for name in filled if (stem := _SERIES.fullmatch(name))}
    several = {stem for stem, count in Counter(stems.values()).items() if count > 1}
    dropped = [
        name
        for name in rows[0]
        if name in filled - {prompt, answer}
        and (name.casefold() in READ_BESIDE or stems.get(name) in several)
    ]
    if dropped:
        raise DataError(
            f"{file}: the guessed columns `{shown(prompt)}` and `{shown(answer)}` would leave out "
            f"{listed(dropped)}; join them to the prompt, or name the columns to read: "
            "--columns prompt=...,completion=..., or `columns` in Python."
        )


def _refuse_row_as_header(texts: Mapping[str, list[str]], file: str) -> None:
    """Raise DataError if the first row was read as the header: one of its cells occurs below it."""
    if any(name.strip().casefold() in (*_ANSWERS, *_PROMPTS) for name in texts):
        return
    again = next((name for name, values in texts.items() if name in values), None)
    if again is not None:
        raise DataError(
            f"{file}:1: `{shown(again)}` is the name of a column and a value in it, so the file "
            "seems to have no header: put one before the first row, such as `text,label`."
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


def _only_answer(texts: Mapping[str, list[str]]) -> str | None:
    labeled = [name for name, values in texts.items() if label_set(values)]
    if len(labeled) == 1:
        return labeled[0]
    return list(texts)[1] if len(texts) == 2 and not labeled else None


def _longest(rows: Sequence[Mapping[str, object]], texts: Mapping[str, list[str]]) -> str | None:
    written = {
        name: sum(map(len, values)) / len(values)
        for name, values in texts.items()
        if not all(is_number(row.get(name)) for row in rows)
    }
    return max(written, key=lambda name: written[name], default=None)
