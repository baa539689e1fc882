"""Public general data and tasks from a pip package, for use without network access."""

from __future__ import annotations

import difflib
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING

from telltune.data.embedded.general_multiple_choice import choice_examples
from telltune.data.embedded.general_prose import prose_examples
from telltune.data.embedded.general_reading import reading_examples
from telltune.data.embedded.rows import data_folder
from telltune.data.embedded.task_labels import answer_kind, explicit_language, medical_specialty
from telltune.data.embedded.task_rewriting import fluent_question, restore_text
from telltune.data.embedded.task_structure import equation, mention_json, open_question
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from telltune.data.embedded.task import EmbeddedTask
    from telltune.data.examples import Example

__all__ = ["data_folder", "embedded_general", "embedded_task", "embedded_tasks"]

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


def embedded_general() -> list[Example]:
    """Return varied instructions from about 20 public data sets, none used by an embedded task.

    Examples are grouped by source; a mixture shuffles them. The caller may modify the list.

    Returns:
        The same examples in the same order on every machine, without repeated prompts.

    Raises:
        DataError: The package with the data is not installed.
    """
    return list(_examples())


@cache
def _examples() -> tuple[Example, ...]:
    by_prompt: dict[str, Example] = {}
    for example in chain(choice_examples(), reading_examples(), prose_examples()):
        by_prompt.setdefault(" ".join(example.prompt.split()), example)
    return tuple(by_prompt.values())
