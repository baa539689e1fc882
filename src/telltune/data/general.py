"""General data: as many examples as there are, read when they are needed and never held."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from telltune.data.contents import Contents, contents_of
from telltune.data.embedded import data_folder, embedded_general
from telltune.data.files import files_of
from telltune.data.fingerprint import code_hash, file_hash
from telltune.data.reading import scan, stream_examples
from telltune.data.report import ReadReport
from telltune.storage import cache_folder, read_cached_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from telltune.data.examples import Example, Problem
    from telltune.recipe import DataSpec

__all__ = ["EMBEDDED", "GeneralData", "scan_general"]

EMBEDDED = "embedded"


@dataclass(frozen=True)
class GeneralData:
    """Abundant instructions and answers, of which only the sources are in memory.

    Iterating reads the examples anew, in their own order; the mixture chooses.

    Attributes:
        name: For tables.
        sources: Where they lie: files, folders, hub ids, or `embedded`.
    """

    name: str
    sources: tuple[DataSpec, ...]

    def __iter__(self) -> Iterator[Example]:
        """Read the examples, one at a time.

        Raises:
            DataError: As `stream_examples`.
        """
        return stream_examples(self.sources, scan_general)

    @property
    def contents(self) -> Contents:
        """How many examples there are and a hash of what they say.

        Found by reading all of the data, and remembered on disk for files and the embedded data:
        as long as the same files have the same bytes, they are not read again. What is on the hub
        is read once a process (its tokens are kept on disk even so, since what was read decides).

        Raises:
            DataError: As `stream_examples`; a row that is no example is found before the first is
                tokenized.
        """
        return self._read[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the data is not read or left out, in sentences; found along with `contents`."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[Contents, tuple[str, ...]]:
        fingerprint = self._fingerprint()
        if fingerprint is None:
            return self._read_anew()
        memory = cache_folder("contents") / f"{fingerprint}.json"
        remembered = read_cached_json(memory)
        if isinstance(remembered, dict):
            return Contents(**remembered["contents"]), tuple(remembered["warnings"])
        contents, warnings = self._read_anew()
        # Unless a file was changed while it was read.
        if self._fingerprint() == fingerprint:
            write_json(memory, {"contents": asdict(contents), "warnings": warnings})
        return contents, warnings

    def _read_anew(self) -> tuple[Contents, tuple[str, ...]]:
        report = ReadReport()
        contents = contents_of(stream_examples(self.sources, partial(scan_general, report=report)))
        return contents, report.warnings("general")

    def _fingerprint(self) -> str | None:
        """A hash of all that decides what the examples are; None where only reading can tell."""
        digest = hashlib.sha256(code_hash().encode())
        for spec in self.sources:
            files = _files(spec)
            if files is None:
                return None
            digest.update(repr((spec.model_dump(), len(files))).encode("utf-8", "surrogatepass"))
            for file in files:
                content = file_hash(file)
                if content is None:
                    return None
                # The name too: it stands in the origin of each example.
                digest.update(f"{file}\n{content}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:32]


def scan_general(spec: DataSpec, report: ReadReport | None = None) -> Iterator[Example | Problem]:
    """As `scan`, and the embedded data by their name."""
    return iter(embedded_general()) if spec.path == EMBEDDED else scan(spec, report)


def _files(spec: DataSpec) -> list[Path] | None:
    if spec.path == EMBEDDED:
        return sorted(path for path in data_folder().rglob("*") if path.is_file())
    return files_of(spec)
