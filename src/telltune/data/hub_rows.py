"""Rows of data sets on the Hugging Face hub. Those read of a stream are kept on disk."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from telltune.data.examples import Problem
from telltune.data.files import suggestion
from telltune.data.parquet import as_spelled, class_name
from telltune.data.parsed_row import ParsedRow, Place, parse_row
from telltune.data.writing import json_line
from telltune.errors import DataError
from telltune.hub import ask_hub, silence
from telltune.storage import cache_folder, content_key, writing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telltune.data.files import Split
    from telltune.recipe import DataSpec

# Usual split names of hub data sets.
_HUB_SPLITS: dict[Split, str] = {"train": "train", "dev": "validation", "test": "test"}
_END = b"\n"
"""Last line of a kept stream that was read to its end."""


def hub_rows(spec: DataSpec, split: Split) -> Iterator[ParsedRow | Problem]:
    """Yield the rows of a hub data set; of a stream, those that were read before from disk.

    Raises:
        DataError: The data set does not exist or cannot be loaded.
    """
    if spec.take is None:
        yield from _loaded(spec, split)
        return
    key = content_key(spec.path, spec.config, spec.split or _HUB_SPLITS[split])
    kept = cache_folder("streams") / f"{key}.jsonl"
    count = 0
    if kept.is_file():
        with kept.open("rb") as file:
            for count, line in enumerate(file, start=1):
                if line == _END:
                    return
                row = parse_row(line.rstrip(b"\n"), Place(count))
                yield row if isinstance(row, ParsedRow) else Problem(spec.path, count, row.reason)
    with writing(kept), TemporaryDirectory(dir=kept.parent) as folder:
        more = Path(folder) / kept.name
        if count:
            shutil.copyfile(kept, more)
        try:
            with more.open("ab") as out:
                for row in _loaded(spec, split, count):
                    out.write(f"{json_line(dict(row.values))}\n".encode())
                    yield row
                out.write(_END)
        except (GeneratorExit, DataError):  # nobody wants more, or the hub gives no more
            if more.stat().st_size:
                more.replace(kept)
            raise
        more.replace(kept)


def _loaded(spec: DataSpec, split: Split, start: int = 0) -> Iterator[ParsedRow]:
    """Yield the rows of a hub data set from the hub, without the first ones."""
    # A whole data set is cached on disk. A part is streamed, so the rest is not downloaded.
    _, stop = spec.rows or (0, None)
    part = {"streaming": True} if stop is not None or spec.take is not None else {}
    ask_hub()
    try:
        import datasets

        rows: Any = datasets.load_dataset(
            spec.path, name=spec.config, split=spec.split or _HUB_SPLITS[split], **part
        )
        if spec.take is not None:
            # A buffer of one: only the order of the shards changes; see `_drawn`.
            rows = rows.shuffle(seed=0, buffer_size=1)
        features = getattr(rows, "features", None) or {}
        classes = {key: kind.names for key, kind in features.items() if hasattr(kind, "names")}
        for number, values in enumerate(islice(rows, start, stop), start=start + 1):
            yield ParsedRow(
                number,
                {
                    key: class_name(value, classes[key]) if key in classes else as_spelled(value)
                    for key, value in values.items()
                },
            )
    # The hub client raises many types of exceptions, its own and those of HTTP libraries.
    except Exception as error:
        reason = silence() or (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{spec.path} is not a local file or folder{suggestion(Path(spec.path))}, and it "
            f"cannot be loaded as a hub data set ({reason}): check the name and the connection."
        ) from error
