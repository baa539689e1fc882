"""Rows to answer: like data to train on, but without the responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from telltune.data.examples import Example, Problem
from telltune.data.readers import read_rows, stem_of
from telltune.data.schemas import RowRefusedError, find_schema
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["read_prompts"]

# Stands for the response while a row is read; whatever reads prompts does not look at it.
_UNKNOWN = "?"
_RESPONSE_KEYS = {
    "prompt": "completion",
    "query": "response",
    "question": "answer",
    "instruction": "output",
    "input": "output",
}


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
            examples = find_schema(values).examples(values, source=stem_of(path), origin=origin)
        except RowRefusedError as refusal:
            raise DataError(f"{origin}: {refusal}.") from None
        found.append((dict(row.values), examples[-1]))
    if not found:
        raise DataError(f"{path} holds no rows: there is nothing to answer.")
    return found


def _with_response(values: Mapping[str, object]) -> dict[str, object]:
    """A row with something where its response would stand."""
    filled = dict(values)
    for key, role, text, asker, answerer in (
        ("messages", "role", "content", "user", "assistant"),
        ("conversations", "from", "value", "human", "gpt"),
    ):
        turns = filled.get(key)
        if isinstance(turns, list):
            if turns and isinstance(turns[-1], dict) and turns[-1].get(role) in (asker, "user"):
                filled[key] = [*turns, {role: answerer, text: _UNKNOWN}]
            return filled
    if any(filled.get(key) for key in ("completion", "response", "answer", "output")):
        return filled
    for prompt, response in _RESPONSE_KEYS.items():
        if prompt in filled:
            return {k: v for k, v in filled.items() if v is not None} | {response: _UNKNOWN}
    return filled
