"""General data, read on demand and never held in memory."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

from telltune.data.contents import Contents, contents_of
from telltune.data.embedded import data_folder, embedded_general
from telltune.data.files import files_of
from telltune.data.fingerprint import code_hash, file_hash, file_stamp
from telltune.data.loaders import scan, stream_examples
from telltune.data.report import ReadReport
from telltune.storage import cache_folder, read_cached_json, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from telltune.data.examples import Example, Problem
    from telltune.recipe import DataSpec

EMBEDDED = "embedded"


@dataclass(frozen=True)
class GeneralData:
    """General instruction data, of which only the sources are in memory.

    Each iteration reads the examples again, in file order. The mixture selects from them.

    Attributes:
        sources: Data sets: files, folders, hub ids, or `embedded`.
    """

    name: str
    sources: tuple[DataSpec, ...]

    def __iter__(self) -> Iterator[Example]:
        """Read the examples, one at a time.

        Raises:
            DataError: See `stream_examples`.
        """
        return stream_examples(self.sources, scan_general)

    @property
    def contents(self) -> Contents:
        """Number of examples and hash of their contents.

        Computing them reads all of the data. For files and the embedded data the result is cached
        on disk until the bytes of a file change. Hub data sets are read once per process. Their
        tokens are still cached on disk, because that cache depends on the contents that were read.

        Raises:
            DataError: See `stream_examples`. Invalid rows are found before the first example is
                tokenized.
        """
        return self._read[0]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about data that are not read or left out; computed with `contents`."""
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
        # A file may have changed while it was read. The result is then not cached.
        if self._fingerprint() == fingerprint:
            write_json(memory, {"contents": asdict(contents), "warnings": warnings})
        return contents, warnings

    def _read_anew(self) -> tuple[Contents, tuple[str, ...]]:
        report = ReadReport()
        contents = contents_of(stream_examples(self.sources, partial(scan_general, report=report)))
        return contents, report.warnings("general")

    def _fingerprint(self) -> str | None:
        """Return a hash of everything that determines the examples, or None if unknown."""
        digest = hashlib.sha256(code_hash().encode())
        for spec in self.sources:
            files = _files(spec)
            if files is None:
                return None
            digest.update(repr((spec.model_dump(), len(files))).encode("utf-8", "surrogatepass"))
            for file in files:
                # Of a stream only a part is read, so the whole is not hashed.
                content = file_hash(file) if spec.take is None else file_stamp(file)
                if content is None:
                    return None
                # The name is hashed too, because it is part of each example's origin.
                digest.update(f"{file}\n{content}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:32]


def scan_general(spec: DataSpec, report: ReadReport | None = None) -> Iterator[Example | Problem]:
    """Read one data set as `scan` does, or the embedded data if `spec.path` is `embedded`."""
    return iter(embedded_general()) if spec.path == EMBEDDED else scan(spec, report)


def _files(spec: DataSpec) -> list[Path] | None:
    if spec.path == EMBEDDED:
        return sorted(path for path in data_folder().rglob("*") if path.is_file())
    return files_of(spec)
