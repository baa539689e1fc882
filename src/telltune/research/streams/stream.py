"""Run a file of inputs through a cascade; decisions and a resumable state are saved on disk."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.errors import DataError, StorageError
from telltune.fitting.output_folder import lock_folder
from telltune.models.threads import adapt_threads, shared_cores
from telltune.research.streams.cascade import TOP
from telltune.research.streams.page import StreamReport, write_page
from telltune.research.streams.spec import load_cascade, make_cascade
from telltune.storage import write_bytes, write_json, write_text, writing
from telltune.training.progress import bar, phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from telltune.research.streams.cascade import Cascade, Decision

__all__ = ["DECISIONS", "run_stream"]

DECISIONS = "decisions.jsonl"
_SUMMARY = "summary.json"
_STATE = "state.pt"
_CHUNK = 256
"""Number of inputs between two saved states."""
_PLACES = 50
"""Number of points of a course."""


def run_stream(
    cascade: str | Path, stream: str | Path, out: str | Path, *, progress: bool = True
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
        progress: Show a progress bar.

    Raises:
        RecipeError: The cascade's file is invalid or does not match the saved state.
        DataError: The stream cannot be read.
        StorageError: The folder is in use, its state is damaged, or it cannot be written.
    """
    spec, stream, out = load_cascade(cascade), Path(stream), Path(out)
    with lock_folder(out):
        with phase("loading the models", shown=progress):
            made = make_cascade(spec)
            decided = _resume(made, out)
        with bar(shown=progress) as shown, writing(out), shared_cores():
            counter = shown.add_task(stream.name, completed=decided, total=None, unit="input")
            rows = islice(_rows(stream), decided, None)
            while chunk := list(islice(rows, _CHUNK)):
                adapt_threads()
                began = time.perf_counter()
                lines = _decide(made, chunk, set(spec.labels))
                with (out / DECISIONS).open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                decided += len(chunk)
                _save(made, out, decided)
                rate = len(chunk) / (time.perf_counter() - began)
                shown.update(counter, completed=decided, note=f"{rate:,.0f} inputs/s")
        report = _report(out)
        write_json(out / _SUMMARY, asdict(report))
        write_page(report, out)
        return report


def _decide(
    cascade: Cascade, chunk: list[tuple[int, dict[str, Any] | str]], labels: set[str]
) -> list[dict[str, Any]]:
    """Return one record per row, in order; an invalid row has the reason as `refused`."""
    texts = [row["text"] for _, row in chunk if isinstance(row, dict)]
    decisions: Iterator[Decision] = cascade.feed(texts)
    lines = []
    for line, row in chunk:
        if isinstance(row, str):
            lines.append({"line": line, "refused": row})
            continue
        decision = next(decisions)
        record = {
            "line": line,
            "label": decision.label,
            "by": decision.by,
            "seconds": round(decision.seconds, 6),
            "tokens": decision.tokens,
        }
        if decision.failure:
            record["failure"] = decision.failure
        if row.get("label") in labels:
            record["right"] = row["label"] == decision.label
        elif row.get("label") is not None:
            record["unknown_label"] = str(row["label"])
        lines.append(record)
    return lines


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield line numbers with the row, or with the reason why it is invalid.

    Reading stops at an unfinished last line, which may still be being written.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith("\n"):
                    try:
                        json.loads(line)
                    except ValueError:
                        return
                yield number, _row(line)
    except OSError as error:
        raise DataError(f"{path}: the stream cannot be read: {error}.") from None


def _row(line: str) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except ValueError:
        return "not valid JSON"
    if not isinstance(row, dict):
        return "not a JSON object"
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        return "key `text` is missing, empty or not a string"
    return row


def _resume(cascade: Cascade, out: Path) -> int:
    """Restore the last state, drop later decisions, and return the number of those kept."""
    state = out / _STATE
    if not state.exists():
        if (out / DECISIONS).exists():
            write_text(out / DECISIONS, "")
        return 0
    try:
        kept = torch.load(state, weights_only=True)
    except Exception as error:
        raise StorageError(f"{state} is damaged ({error}); remove {out} to start over.") from None
    cascade.restore(kept["cascade"])
    decided = int(kept["decided"])
    lines = (out / DECISIONS).read_text(encoding="utf-8").splitlines(keepends=True)[:decided]
    write_text(out / DECISIONS, "".join(lines))
    return decided


def _save(cascade: Cascade, out: Path, decided: int) -> None:
    """Write the state atomically."""
    buffer = io.BytesIO()
    torch.save({"cascade": _as_tensors(cascade.state()), "decided": decided}, buffer)
    write_bytes(out / _STATE, buffer.getvalue())


def _as_tensors(value: Any) -> Any:
    """Convert arrays to tensors, which `torch.load` reads with `weights_only=True`."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, dict):
        return {key: _as_tensors(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_tensors(inner) for inner in value]
    return value


def _report(out: Path) -> StreamReport:
    text = (out / DECISIONS).read_text(encoding="utf-8") if (out / DECISIONS).exists() else ""
    rows = [json.loads(line) for line in text.splitlines()]
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
