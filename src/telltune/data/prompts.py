"""Rows to answer: like data to train on, but without the responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from telltune.data.examples import Example, Problem
from telltune.data.fields import is_blank
from telltune.data.readers import read_rows, stem_of
from telltune.data.schemas import SCHEMAS, UNKNOWN, RowRefusedError, find_schema
from telltune.data.turns import asks
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["read_prompts"]


def read_prompts(path: Path) -> list[tuple[dict[str, Any], Example]]:
    """Read a file of rows to answer.

    The schemas are those of training data, with the response left out or not. A conversation is
    answered at its end; if it already ends with an answer, that answer is what is predicted again.

    Returns:
        Each row as it stands in the file, and its prompt as an example.

    Raises:
        DataError: The file cannot be read, holds nothing, or a row has no prompt.
    """
    try:
        missing = not path.exists()
    except OSError as error:  # a name that is too long, say
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    if missing:
        raise DataError(f"no file {path}: check the path.")
    found = []
    for row in read_rows(path):
        if isinstance(row, Problem):
            raise DataError(f"{row}.")
        origin = f"{path}:{row.line}"
        try:
            values = _with_response(row.values)
            examples = find_schema(values).examples(
                values, source=stem_of(path), origin=origin, all_answers=True
            )
        except RowRefusedError as refusal:
            raise DataError(f"{origin}: {refusal}.") from None
        found.append((dict(row.values), examples[-1]))
    if not found:
        raise DataError(f"{path} holds no rows: there is nothing to answer.")
    return found


def _with_response(values: Mapping[str, object]) -> dict[str, object]:
    """A row with something where its response would stand."""
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
