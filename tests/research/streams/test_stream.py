"""A stream in a file is answered, bad rows are refused, and a killed process resumes."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

from forked import Forked
from telltune.errors import DataError, ModelError, RecipeError, StorageError
from telltune.inference.api_client import api_client
from telltune.research.streams import stream
from telltune.research.streams.stream import DECISIONS, run_stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from telltune.research.streams.page import StreamReport

WORDS = {"billing": ("sum", "bill"), "shipping": ("parcel", "truck")}


def rule(text: str) -> str:
    return next(label for label, words in WORDS.items() if text.split()[0] in words)


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    labels = [list(WORDS)[k] for k in rng.integers(0, 2, count)]
    # No input comes twice; the second time, the cache would answer.
    return [{"text": f"{rng.choice(WORDS[k])} w{i}", "label": k} for i, k in enumerate(labels)]


@pytest.fixture
def files(server: Any, tmp_path: Path, write_jsonl: Callable[..., Path]) -> tuple[Path, Path, Path]:
    """Return a cascade of one level below the server, a stream of 300 rows, and a folder."""
    server.rule = rule
    spec = {
        "labels": list(WORDS),
        "levels": [{"kind": "linear", "decay": 0.9}],
        "top": {"teacher": {"url": server.url, "model": "large"}},
    }
    cascade = tmp_path / "cascade.yaml"
    cascade.write_text(yaml.safe_dump(spec))
    return cascade, write_jsonl(tmp_path / "stream.jsonl", rows(300)), tmp_path / "out"


def decided(out: Path) -> list[tuple[int, str, str]]:
    lines = (out / DECISIONS).read_text().splitlines()
    return [(row["line"], row["label"], row["by"]) for row in map(json.loads, lines)]


def test_it_answers_all_and_asks_the_server_less_and_less(
    files: tuple[Path, Path, Path], server: Any
) -> None:
    report = run_stream(*files, progress=False)
    assert report.inputs == sum(report.by.values()) == 300
    assert report.top_calls == len(server.seen) == report.by["top"] < 200
    assert report.tokens == 7 * report.top_calls
    assert report.accuracy is not None
    assert report.accuracy > 97
    assert report.course[-1]["saved"] > report.course[0]["saved"]
    assert [line for line, _, _ in decided(files[2])] == [*range(1, 301)]
    # Called again, it asks nothing.
    assert run_stream(*files, progress=False) == report
    assert len(server.seen) == report.top_calls


def test_a_file_that_grows_goes_on_where_it_was(files: tuple[Path, Path, Path]) -> None:
    cascade, stream, out = files
    whole = run_stream(cascade, stream, out, progress=False)
    lines = stream.read_text().splitlines(keepends=True)
    parts = out.parent / "parts"
    # The last line is still being written.
    stream.write_text("".join(lines[:212]) + lines[212][:9])
    assert run_stream(cascade, stream, parts, progress=False).inputs == 212
    stream.write_text("".join(lines))
    found = run_stream(cascade, stream, parts, progress=False)
    assert (found.by, found.accuracy) == (whole.by, whole.accuracy)
    assert decided(parts) == decided(out)


def test_rows_that_are_none_and_labels_that_nobody_knows_are_named(
    files: tuple[Path, Path, Path],
) -> None:
    cascade, stream, out = files
    bad = {
        "{": "not JSON",
        '{"text": }': "not JSON",
        "[1]": "the row is not a JSON object",
        "[" * 100_000: "the JSON is nested too deeply",
        '{"text": ""}': "no input: key `text` is empty",
        '{"label": "billing"}': "no input: key `text` is missing",
        '{"text": ["sum"]}': "no input: key `text` contains a list, not text",
        '{"text": "sum", "text": "bill"}': "the key `text` occurs twice",
        '{"text": "sum", "label": ["billing"]}': "no label: key `label` contains a list",
        '{"text": "sum", "label": {"a": 1}}': "no label: key `label` contains an object",
        '{"text": "sum", "label": "\\ud83d"}': "the label in key `label` contains an unpaired",
        '{"text": "sum \\ud83d"}': "the input in key `text` contains an unpaired surrogate",
    }
    good = [
        '{"text": "sum", "label": "x"}',
        '{"text": "sum 1", "label": 5}',
        json.dumps(rows(1)[0]),
    ]
    stream.write_text("\n".join([*bad, *good]) + "\n")
    report = run_stream(cascade, stream, out, progress=False)
    assert report.inputs == 3
    assert report.refused["not JSON"] == 2
    lines = [json.loads(line) for line in (out / DECISIONS).read_text().splitlines()]
    assert [line["line"] for line in lines] == [*range(1, 16)]
    for line, reason in zip(lines, bad.values(), strict=False):
        assert line["refused"].startswith(reason)
    assert [line.get("unknown_label") for line in lines[12:]] == ["x", "5", None]
    assert "right" in lines[14]


def test_answers_and_labels_with_unusual_line_ends_are_on_one_line(
    files: tuple[Path, Path, Path], server: Any
) -> None:
    cascade, stream, out = files
    server.rule = lambda text: "I am\u2028not sure"
    texts = [
        {"text": f"sum {n}", "label": f"un{end}known"} for n, end in enumerate("\x1c\x85\u2029")
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in texts]
    for count in (2, 3):
        stream.write_text("".join(lines[:count]))
        assert run_stream(cascade, stream, out, progress=False).inputs == count
    found = [json.loads(line) for line in (out / DECISIONS).read_text().split("\n") if line]
    assert [row["line"] for row in found] == [1, 2, 3]
    assert [row["unknown_label"] for row in found] == [row["label"] for row in texts]
    assert "am\u2028not" in found[0]["failure"]


def test_a_server_that_fails_now_and_then_never_costs_the_stream(
    files: tuple[Path, Path, Path], server: Any
) -> None:
    calls = []

    def moody(text: str) -> Any:
        calls.append(text)
        return b"rubbish" if len(calls) % 7 in (0, 1) else rule(text)

    server.rule = moody
    report = run_stream(*files, progress=False)
    assert report.inputs == 300
    assert sum(report.failures.values()) > 0
    assert report.accuracy is not None
    assert report.accuracy > 80


def test_a_refused_key_stops_the_stream_and_loses_nothing(
    files: tuple[Path, Path, Path], server: Any
) -> None:
    cascade, stream, out = files
    stream.write_text("".join(stream.read_text().splitlines(keepends=True)[:60]))
    server.rule = lambda text: 403 if len(server.seen) > 20 else rule(text)
    with pytest.raises(ModelError, match="answered 403: wait; name its key in `api_key_env`"):
        run_stream(cascade, stream, out, progress=False)
    assert len(server.seen) == 21
    server.rule = rule
    api_client.cache_clear()  # as in a new process
    assert run_stream(cascade, stream, out, progress=False).inputs == 60
    # The answers before the refusal are in the cache.
    assert len(server.seen) == 21 + 40


def test_a_killed_stream_of_two_levels_ends_as_one_that_was_not(
    files: tuple[Path, Path, Path], server: Any
) -> None:
    cascade, stream, out = files
    spec = yaml.safe_load(cascade.read_text())
    # Measured costs would differ between the runs.
    levels = [{"kind": "linear", "cost": 0.01}, {"kind": "tfidf_em", "cost": 0.02}]
    cascade.write_text(yaml.safe_dump(spec | {"levels": levels, "policy": "threshold"}))
    whole = run_stream(cascade, stream, out, progress=False)
    assert len(whole.by) > 1
    killed = out.parent / "killed"
    before = len(server.seen)
    # Without the answers to the whole stream.
    process = command(cascade, stream, killed, cache=out.parent / "empty")
    process.until(lambda: len(server.seen) >= before + 60)
    process.signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    # The lock ends with the process.
    found = run_stream(cascade, stream, killed, progress=False)
    assert found.by == whole.by
    assert decided(killed) == decided(out)


def command(*files: Path, follow: bool = False, cache: Path | None = None) -> Forked:
    cascade, stream, out = files
    return Forked(
        *("cascade", cascade, "--stream", stream, "--out", out, "--json"),
        *["--follow"] * follow,
        said=out.parent / "said.json",
        complaints=out.parent / "complaints.txt",
        environment={} if cache is None else {"TELLTUNE_CACHE": str(cache)},
    )


def test_a_followed_file_is_answered_as_it_grows_until_an_interrupt(
    files: tuple[Path, Path, Path],
) -> None:
    cascade, stream, out = files
    lines = stream.read_text().splitlines(keepends=True)[:60]
    stream.write_text("".join(lines[:40]) + lines[40][:9])

    def answered(count: int) -> bool:
        return (out / DECISIONS).exists() and len(decided(out)) >= count

    process = command(cascade, stream, out, follow=True)
    process.until(lambda: answered(40))
    with stream.open("a") as file:
        file.write(lines[40][9:] + "".join(lines[41:]))
    process.until(lambda: answered(60))
    process.signal(signal.SIGINT)
    assert process.wait() == 0, (out.parent / "complaints.txt").read_text()
    assert json.loads(process.said.read_text())["inputs"] == 60
    assert [line for line, _, _ in decided(out)] == [*range(1, 61)]
    assert (out / "report.html").exists()


class Looks:
    """Looks at a followed file: something happens before each of them, and then it ends."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = list(steps)

    def wait(self, _: float) -> bool:
        if self._steps:
            self._steps.pop(0)()
            return False
        return True


@pytest.fixture
def following(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StreamReport]:
    """Return a function that follows a stream, with what happens before each further look."""

    def follow(files: tuple[Path, Path, Path], *steps: Callable[[], object]) -> StreamReport:
        monkeypatch.setattr(stream, "_first_signal", lambda: nullcontext(Looks(*steps)))
        return run_stream(*files, follow=True, progress=False)

    return follow


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_row_is_read_when_it_is_complete_wherever_it_was_cut(
    files: tuple[Path, Path, Path],
    server: Any,
    following: Callable[..., StreamReport],
    end: str,
) -> None:
    _, stream, out = files
    row = f'{{"text": "sum Käse {len(end)}"}}{end}'.encode()
    stream.write_bytes(b"")

    def append(part: bytes) -> None:
        with stream.open("ab") as file:
            file.write(part)

    cuts = [0, row.index("ä".encode()) + 1, row.index(b"}") + 1, len(row) - 1, len(row)]
    parts = [row[a:b] for a, b in itertools.pairwise(cuts)]
    assert following(files, *[partial(append, part) for part in parts]).inputs == 1
    assert server.seen[-1]["messages"][-1]["content"] == f"sum Käse {len(end)}"
    assert [line for line, *_ in decided(out)] == [1]
    append(json.dumps(rows(1)[0]).encode())
    # A complete row counts without its line end, and once with it.
    assert run_stream(*files, progress=False).inputs == 2
    assert following(files, partial(append, end.encode())).inputs == 2
    append(json.dumps(rows(2)[1]).encode() + b"\n")
    assert run_stream(*files, progress=False).inputs == 3


def test_a_byte_order_mark_is_no_part_of_the_first_row(files: tuple[Path, Path, Path]) -> None:
    cascade, stream, out = files
    stream.write_text("".join(stream.read_text().splitlines(keepends=True)[:3]), "utf-8-sig")
    report = run_stream(cascade, stream, out, progress=False)
    assert (report.inputs, report.refused) == (3, {})


def test_a_stream_that_does_not_start_with_what_was_answered_is_refused(
    files: tuple[Path, Path, Path],
) -> None:
    cascade, stream, out = files
    lines = stream.read_text().splitlines(keepends=True)[:10]
    stream.write_text("".join(lines))
    whole = run_stream(cascade, stream, out, progress=False)
    told = re.escape(f"{stream} does not start with the 10 lines that {out} has answers to")
    for other in (lines[:6], [*lines[:9], "{"], lines[::-1], [lines[0][1:], *lines[1:], lines[0]]):
        stream.write_text("".join(other))
        with pytest.raises(StorageError, match=told):
            run_stream(cascade, stream, out, progress=False)
    assert len(decided(out)) == 10
    other = out.parent / "other"
    assert run_stream(cascade, stream, other, progress=False).inputs == 10
    # A copy of the stream, with other line ends, is the same stream.
    stream.write_text("".join(lines).replace("\n", "\r\n"))
    assert run_stream(cascade, stream, out, progress=False) == whole


def test_a_state_of_an_earlier_version_goes_on(files: tuple[Path, Path, Path]) -> None:
    cascade, stream, out = files
    lines = stream.read_text().splitlines(keepends=True)
    stream.write_text("".join(lines[:10]))
    run_stream(cascade, stream, out, progress=False)
    state = torch.load(out / "state.pt", weights_only=True)
    del state["digest"]
    torch.save(state, out / "state.pt")
    stream.write_text("".join(lines[:12]))
    assert run_stream(cascade, stream, out, progress=False).inputs == 12
    stream.write_text("".join(lines[1:14]))
    with pytest.raises(StorageError, match="does not start with the 12 lines"):
        run_stream(cascade, stream, out, progress=False)


def test_a_followed_file_that_is_replaced_goes_on_only_if_it_has_grown(
    files: tuple[Path, Path, Path], following: Callable[..., StreamReport]
) -> None:
    _, stream, out = files
    lines = stream.read_text().splitlines(keepends=True)
    new = out.parent / "new.jsonl"

    def replaced(count: int) -> None:
        new.write_text("".join(lines[:count]))
        new.replace(stream)

    stream.write_text("".join(lines[:10]))
    assert following(files, partial(replaced, 12)).inputs == 12
    for change in (
        lambda: replaced(11),
        lambda: stream.write_text(""),
        lambda: stream.write_text("".join(lines[12:50])),
    ):
        replaced(12)
        with pytest.raises(StorageError, match="does not start with the 12 lines"):
            following(files, change)
    assert len(decided(out)) == 12


def test_inputs_at_hand_are_answered_after_a_signal(
    files: tuple[Path, Path, Path], server: Any
) -> None:
    def interrupting(text: str) -> str:
        if len(server.seen) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return rule(text)

    server.rule = interrupting
    cascade, stream, out = files
    stream.write_text("".join(stream.read_text().splitlines(keepends=True)[:40]))
    assert run_stream(cascade, stream, out, follow=True, progress=False).inputs == 40
    # The state is that of the last decision, so nothing is answered again.
    asked = len(server.seen)
    assert run_stream(cascade, stream, out, progress=False).inputs == 40
    assert len(server.seen) == asked > 3


@pytest.mark.parametrize(
    "name", ["report.html", "summary.json", "decisions.jsonl", "tell.json", "cascade.yaml"]
)
def test_files_that_are_not_of_a_cascade_are_not_written_over(
    files: tuple[Path, Path, Path], name: str
) -> None:
    cascade, stream, out = files
    out.mkdir()
    text = f"# mine\n{cascade.read_text()}"
    mine = out / name
    mine.write_text(text)
    given = mine if name == "cascade.yaml" else cascade
    with pytest.raises(StorageError, match="out contains files that telltune did not write"):
        run_stream(given, stream, out, progress=False)
    assert {path.name: path.read_text() for path in out.iterdir()} == {name: text}


def test_a_stream_that_was_killed_before_its_first_answer_goes_on(
    files: tuple[Path, Path, Path],
) -> None:
    cascade, stream, out = files
    text = stream.read_text()
    stream.write_text("")
    assert run_stream(cascade, stream, out, progress=False).inputs == 0
    for path in out.iterdir():
        if path.name not in ("state.pt", "cascade.yaml"):
            path.unlink()
    # Decisions that are in no saved state are dropped.
    (out / DECISIONS).write_text('{"line": 1}\n{"li')
    (out / ".state.pt.1.unfinished").touch()
    stream.write_text("".join(text.splitlines(keepends=True)[:5]))
    assert run_stream(cascade, stream, out, progress=False).inputs == 5
    assert not (out / ".state.pt.1.unfinished").exists()


def test_what_cannot_go_on_is_refused(files: tuple[Path, Path, Path]) -> None:
    cascade, stream, out = files
    stream.write_text(json.dumps(rows(1)[0]))
    run_stream(cascade, stream, out, progress=False)
    (out / "state.pt").write_bytes(b"no state")
    with pytest.raises(StorageError, match=r"state\.pt is damaged"):
        run_stream(cascade, stream, out, progress=False)
    with pytest.raises(DataError, match="cannot be read"):
        run_stream(cascade, out.parent / "none.jsonl", out.parent / "new", progress=False)
    text = cascade.read_text()
    for change, message in (
        ("kind: linear\n  path: x", "not allowed for other kinds"),
        ("kind: encoder", "required for `encoder`"),
        ("kind: linaer", "levels"),
    ):
        cascade.write_text(text.replace("kind: linear", change))
        with pytest.raises(RecipeError, match=message):
            run_stream(cascade, stream, out.parent / "new", progress=False)
