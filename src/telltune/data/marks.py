"""Marks of rows whose answers must not be trained on: weights, bad answers, preference pairs."""

from __future__ import annotations

from telltune.data.fields import Fields, RowRefusedError, Values
from telltune.data.turns import MEDIA

PREFERENCES = {"chosen": "rejected", "preferred_output": "non_preferred_output"}
"""Keys of better answers, and of the worse answers beside them (TRL and LLaMA-Factory; OpenAI)."""

# Marks of good and bad answers, in data for KTO: of TRL and ms-swift, and of LLaMA-Factory.
_MARKS = ("label", "kto_tag")


def leaves_out(fields: Fields, answer: str, classifies: bool) -> bool:
    """Return whether the row marks its answer as not to be trained on.

    `classifies` tells that `label` is the answer, and no mark.

    Raises:
        RowRefusedError: The row contains media, or the mark is ambiguous.
    """
    if key := fields.first(MEDIA):
        raise RowRefusedError(
            f"key `{key}` is not empty, but telltune supports text only: remove the row or the "
            "column"
        )
    marks = _MARKS[1:] if classifies else _MARKS
    bad = next((mark for mark in marks if _marks_bad(fields, mark, answer)), None)
    if fields.flag("weight") is False:
        fields.left_out[:] = ["the row has `weight: 0`"]
    elif bad is not None:
        fields.left_out[:] = [f"the row has `{bad}: false`, which marks a bad answer"]
    elif fields.has("_task_hash") and fields.take("answer") in ("reject", "ignore"):
        fields.left_out[:] = ["Prodigy's annotator did not accept the row"]
    else:
        return False
    return True


def better_answers(values: Values) -> str | None:
    """Return the key of the better answers if a row has a better and a worse one."""
    return next((k for k, worse in PREFERENCES.items() if k in values and worse in values), None)


def _marks_bad(fields: Fields, mark: str, answer: str) -> bool:
    """Return whether a mark is false. A label that repeats the answer is no mark."""
    if not fields.has(mark):
        return False
    said = str(fields.values[mark]).strip().lower()
    if mark != "label":
        return fields.flag(mark) is False
    if said == answer.strip().lower():
        return False
    if said in ("0", "1", "0.0", "1.0"):
        raise RowRefusedError(
            f"key `label` is {said} in a row with an answer: write true or false if it marks good "
            "and bad answers, or rename the key"
        )
    return said in ("true", "false") and not fields.flag("label")
