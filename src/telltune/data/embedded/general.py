"""Embedded general data."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from telltune.data.embedded.general_multiple_choice import choice_examples
from telltune.data.embedded.general_prose import prose_examples
from telltune.data.embedded.general_reading import reading_examples

if TYPE_CHECKING:
    from telltune.data.examples import Example

__all__ = ["embedded_general"]


def embedded_general() -> list[Example]:
    """Return varied instructions from about 20 public data sets, none used by an embedded task.

    Examples are grouped by source; a mixture shuffles them. The caller may modify the list.

    Returns:
        The same examples in the same order on every machine, without repeated prompts.

    Raises:
        DataError: The package with the data is not installed.
    """
    return list(_examples())


@lru_cache(maxsize=1)
def _examples() -> tuple[Example, ...]:
    by_prompt: dict[str, Example] = {}
    for example in chain(choice_examples(), reading_examples(), prose_examples()):
        by_prompt.setdefault(" ".join(example.prompt.split()), example)
    return tuple(by_prompt.values())
