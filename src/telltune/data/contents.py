"""What a data set says, in one hash that does not depend on how it is stored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from telltune.data.examples import Example

__all__ = ["Contents", "ContentsHash", "contents_of"]


@dataclass(frozen=True, slots=True)
class Contents:
    """A data set without its data.

    Attributes:
        examples: How many there are.
        sha256: Of what they say (all but source and origin), in order.
        origins: A sha256 of where they stand, such as "tickets.jsonl:17".
    """

    examples: int
    sha256: str
    origins: str

    @property
    def digest(self) -> str:
        """The first 16 digits of `sha256`, by which a run can be traced to its data."""
        return self.sha256[:16]


class ContentsHash:
    """Counts and hashes examples that pass by."""

    def __init__(self) -> None:
        self._examples = 0
        self._said, self._origins = hashlib.sha256(), hashlib.sha256()

    def follow(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Hand on examples, one at a time, and take them into account."""
        for example in examples:
            self._examples += 1
            row: tuple[object, ...] = (example.history, example.prompt, example.completion)
            if example.confidence != 1 or example.rationale:
                row += (example.confidence, example.rationale)
            if example.reasoning or example.tools:
                row += (example.reasoning, example.tools)
            self._said.update(repr(row).encode("utf-8", "surrogatepass"))
            self._origins.update(f"{example.origin}\n".encode("utf-8", "surrogatepass"))
            yield example

    @property
    def contents(self) -> Contents:
        """Of the examples that passed so far."""
        return Contents(self._examples, self._said.hexdigest(), self._origins.hexdigest())


def contents_of(examples: Iterable[Example]) -> Contents:
    """Count and hash examples; nothing is kept of them."""
    passing = ContentsHash()
    for _ in passing.follow(examples):
        pass
    return passing.contents
