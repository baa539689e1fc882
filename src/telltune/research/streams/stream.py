"""Run a file of inputs through a cascade; decisions and a resumable state are saved on disk."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from telltune.data.fields import Fields, RowRefusedError
from telltune.data.parsed_row import BOM, Fault, Place, parse_row
from telltune.errors import DataError, StorageError, TellError
from telltune.fitting.output_folder import check_new, lock_folder
from telltune.models.threads import adapt_threads, shared_cores
from telltune.research.streams.cascade import TOP, Cascade
from telltune.research.streams.page import StreamReport, write_page
from telltune.research.streams.saved import has_state
from telltune.research.streams.spec import load_cascade
from telltune.signals import handling
from telltune.storage import jsonl_lines, remove_unfinished, write_bytes, write_json, writing
from telltune.training.progress import bar, phase

DECISIONS = "decisions.jsonl"
_SUMMARY = "summary.json"
_CHUNK = 256
"""Number of inputs between two saved states."""
_PAUSE = 0.5
"""Seconds between two looks at a file that is followed."""
_PLACES = 50
"""Number of points of a course."""


def run_stream(
    cascade: str | Path,
    stream: str | Path,
    out: str | Path,
    *,
    follow: bool = False,
    progress: bool = True,
) -> StreamReport:
    """Answer every row of a stream.

    A second call with the same folder resumes after the last saved state. It also processes rows
    that were appended to the stream in the meantime.

    Args:
        cascade: YAML file of the cascade.
        stream: JSONL file with the key `text` and, optionally, `label`, which is used only to
            measure accuracy.
        out: Output folder for decisions.jsonl (one line per row), the state, summary.json and
            report.html.
        follow: Wait for further rows at the end of the file, until SIGINT or SIGTERM. The inputs at
            hand are still answered; a second signal ends the process at once.
        progress: Show a progress bar.

    Raises:
        RecipeError: The cascade's file is invalid or does not match the saved state.
        DataError: The stream cannot be read.
        StorageError: The folder is in use, holds other files, or cannot be written; its state is
            damaged; or the stream does not start with the lines that it has answers to.
    """
    spec, stream, out = load_cascade(cascade), Path(stream), Path(out)
    with lock_folder(out):
        remove_unfinished(out)
        known = has_state(out)
        if not known:
            check_new(out)
        if not known and spec.inputs is None and not follow:
            spec = spec.model_copy(update={"inputs": _lines(stream) or None})
        with phase("loading the models", shown=progress):
            made = Cascade.load(out, spec) if known else Cascade(spec)
        if not known:
            made.save(out)  # From now on, the folder is that of a cascade.
        _drop_later(out, made.lines)
        with bar(shown=progress) as shown, writing(out), shared_cores():
            counter = shown.add_task(stream.name, completed=made.lines, total=None, unit="input")
            with _first_signal() if follow else nullcontext() as ending:
                for chunk in _chunks(stream, out, made.lines, made.digest, ending):
                    adapt_threads()
                    began = time.perf_counter()
                    lines, error = _decide(made, chunk)
                    with (out / DECISIONS).open("a", encoding="utf-8") as file:
                        file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in lines)
                    if lines:
                        last = chunk[len(lines) - 1]
                        made.lines, made.digest = last.line, last.digest
                    made.save(out)
                    if error is not None:
                        raise error
                    rate = len(chunk) / (time.perf_counter() - began)
                    shown.update(counter, completed=made.lines, note=f"{rate:,.0f} inputs/s")
        report = _report(out)
        write_json(out / _SUMMARY, asdict(report))
        write_page(report, out)
        return report


class _Row(NamedTuple):
    """Row of a stream, which is valid unless it has a reason why it is `refused`."""

    line: int
    digest: str
    """See `Cascade.digest`."""
    text: str = ""
    label: str | None = None
    refused: str = ""


def _decide(cascade: Cascade, chunk: list[_Row]) -> tuple[list[dict[str, Any]], TellError | None]:
    """Return one record per row, in order, and the error that ended the stream before its end."""
    answers = cascade.feed([row.text for row in chunk if not row.refused])
    lines: list[dict[str, Any]] = []
    for row in chunk:
        if row.refused:
            lines.append({"line": row.line, "refused": row.refused})
            continue
        try:
            answer = next(answers)
        except TellError as error:
            return lines, error
        record = {
            "line": row.line,
            "label": answer.text,
            "by": answer.level,
            "seconds": round(answer.seconds, 6),
            "tokens": answer.tokens,
        }
        if answer.failure:
            record["failure"] = answer.failure
        if row.label in cascade.spec.labels:
            record["right"] = row.label == answer.text
        elif row.label is not None:
            record["unknown_label"] = row.label
        lines.append(record)
    return lines, None


def _lines(path: Path) -> int:
    with _reading(path), path.open("rb") as file:
        return sum(1 for _ in file)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: the stream cannot be read: {error}.") from None


@contextmanager
def _first_signal() -> Iterator[Event]:
    """Yield an event that the first SIGINT or SIGTERM sets; a second one acts as usual."""
    came = Event()

    def take(_: int) -> None:
        restore()
        came.set()

    with handling(take) as restore:
        yield came


def _chunks(
    path: Path, out: Path, done: int, digest: str, ending: Event | None
) -> Iterator[list[_Row]]:
    """Yield the rows of a stream, as many as are answered between two saved states.

    Reading stops at an unfinished last line, which may still be being written. With `ending`, the
    rest of it and further lines are waited for.

    Args:
        path: File of the stream.
        out: Folder of the answers.
        done: Number of lines to skip.
        digest: `Cascade.digest` of these lines.
        ending: Event after which no line is waited for.

    Raises:
        StorageError: The file lacks the lines to skip, or lines that were read from it.
    """
    number, place, last, read = 0, 0, b"", hashlib.sha256()
    while True:
        chunk: list[_Row] = []
        found = number
        # Opened again for each look, because the file may be replaced by one that has grown.
        with _reading(path), path.open("rb") as file:
            file.seek(place - len(last))
            same = file.read(len(last)) == last
            for line in file if same else ():
                is_new, is_ended = number >= done, line.endswith(b"\n")
                if not is_ended and ((is_new and ending is not None) or not _is_whole(line)):
                    break
                found, so_far = number + 1, read.copy()
                # The end of a line may be written later.
                so_far.update(line.rstrip() + b"\n")
                if is_new:
                    chunk.append(_row(found, so_far.hexdigest(), line))
                elif found == done:
                    same = digest in ("", so_far.hexdigest())
                if is_ended:
                    number, place, last, read = found, place + len(line), line, so_far
                if not same or len(chunk) == _CHUNK:
                    break
        if not same or found < done:
            raise StorageError(
                f"{path} does not start with the {done:,} lines that {out} has answers to; "
                "restore them, or choose another --out."
            )
        if chunk:
            done, digest = chunk[-1].line, chunk[-1].digest
            yield chunk
        elif ending is None:
            return
        if ending is not None and ending.wait(0 if chunk else _PAUSE):
            return


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _row(line: int, digest: str, raw: bytes) -> _Row:
    found = parse_row(raw.removeprefix(BOM) if line == 1 else raw, Place(line))
    if isinstance(found, Fault):
        # Without the column, and advice on training data, rows with the same fault count together.
        return _Row(line, digest, refused=found.reason.partition(": ")[0])
    fields = Fields(found.values)
    try:
        label = fields.text("label", "label") if fields.has("label") else None
        return _Row(line, digest, fields.text("text", "input"), label)
    except RowRefusedError as error:
        return _Row(line, digest, refused=str(error))


def _drop_later(out: Path, lines: int) -> None:
    """Drop decisions that were written after the last saved state."""
    path = out / DECISIONS
    if path.exists():
        kept = jsonl_lines(path)
        if len(kept) > lines:
            write_bytes(path, b"".join(kept[:lines]))


def _report(out: Path) -> StreamReport:
    path = out / DECISIONS
    rows = [json.loads(line) for line in jsonl_lines(path)] if path.exists() else []
    decided = [row for row in rows if "by" in row]
    asked = [row["by"] == TOP or "failure" in row for row in decided]
    right = [row["right"] for row in decided if "right" in row]
    return StreamReport(
        inputs=len(decided),
        by=dict(Counter(row["by"] for row in decided)),
        top_calls=sum(asked),
        saved=round(1 - sum(asked) / len(decided), 4) if decided else 0.0,
        tokens=sum(row["tokens"] for row in decided),
        seconds=round(sum(row["seconds"] for row in decided), 3),
        failures=_counted(row["failure"] for row in decided if "failure" in row),
        refused=_counted(row["refused"] for row in rows if "refused" in row),
        accuracy=round(100 * sum(right) / len(right), 2) if right else None,
        course=_course(decided, asked),
    )


def _course(decided: list[dict[str, Any]], asked: list[bool]) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    for place in range(1, _PLACES + 1):
        count = len(decided) * place // _PLACES
        if count and (not found or count > found[-1]["inputs"]):
            saved = 100 * (1 - sum(asked[:count]) / count)
            wrong = sum(not row["right"] for row in decided[:count] if "right" in row)
            found.append({"inputs": count, "saved": round(saved, 2), "errors": wrong})
    return found


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    return dict(Counter(reasons).most_common())
