"""Embedded tasks by name."""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING

from telltune.data.embedded.task_facts import open_question
from telltune.data.embedded.task_labels import answer_kind, explicit_language, medical_specialty
from telltune.data.embedded.task_rewriting import fluent_question, restore_text
from telltune.data.embedded.task_structure import equation, mention_json
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from telltune.data.embedded.task import EmbeddedTask

__all__ = ["embedded_task", "embedded_tasks"]

_TASKS: dict[str, Callable[[], EmbeddedTask]] = {
    "medical_specialty": medical_specialty,
    "fluent_question": fluent_question,
    "restore_text": restore_text,
    "mention_json": mention_json,
    "equation": equation,
    "answer_kind": answer_kind,
    "explicit_language": explicit_language,
    "open_question": open_question,
}


def embedded_tasks() -> tuple[str, ...]:
    """Return the names that `embedded_task` accepts."""
    return tuple(_TASKS)


@cache
def embedded_task(name: str) -> EmbeddedTask:
    """Load a task, with the same examples and splits on every machine.

    Raises:
        DataError: The task does not exist, or the package with the data is not installed.
    """
    if name not in _TASKS:
        near = difflib.get_close_matches(name, _TASKS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        known = ", ".join(_TASKS)
        raise DataError(f"There is no embedded task named {name!r}{hint}; choose one of: {known}.")
    return _TASKS[name]()
