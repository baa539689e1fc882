"""Hashes of a data set's contents, independent of its file format."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from telltune.data.examples import Example


@dataclass(frozen=True, slots=True)
class Contents:
    """Size and hashes of a data set.

    Attributes:
        sha256: SHA-256 of the examples in order, without their source and origin.
        origins: SHA-256 of the examples' origins, such as "tickets.jsonl:17".
    """

    examples: int
    sha256: str
    origins: str

    @property
    def digest(self) -> str:
        """First 16 digits of `sha256`, which link a run to its data."""
        return self.sha256[:16]


class ContentsHash:
    """Counter and hash of a stream of examples."""

    def __init__(self) -> None:
        self._examples = 0
        self._said, self._origins = hashlib.sha256(), hashlib.sha256()

    def follow(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Yield the examples unchanged, and count and hash each."""
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
        """Contents of the examples yielded so far."""
        return Contents(self._examples, self._said.hexdigest(), self._origins.hexdigest())


def contents_of(examples: Iterable[Example]) -> Contents:
    """Count and hash examples without keeping them in memory."""
    passing = ContentsHash()
    for _ in passing.follow(examples):
        pass
    return passing.contents
