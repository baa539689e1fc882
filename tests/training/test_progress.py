"""Progress is a bar with its numbers in terminals, and lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any

import pytest

import telltune
from telltune.training import progress
from telltune.training.callbacks import Stopwatch
from telltune.training.progress import bar, phase

if TYPE_CHECKING:
    from pathlib import Path

LONG = "medical_specialty, sft_anchor with a long name [x], 1,200 tokens, ratio 3, seed 4"


class Terminal(io.StringIO):
    """Stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [32, 40, 60, 80, 100, 200])
def test_a_bar_keeps_its_numbers_at_every_width(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bar() as shown:
        task = shown.add_task(LONG, total=1200, note="loss 3.312, 1,234 tokens/s")
        shown.update(task, completed=7)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sys.stderr.getvalue()).rstrip().splitlines()[-1]
    assert "7/1200" in last
    assert "left" in last
    assert last.startswith(LONG[:5])
    assert len(last) <= width
    assert ("loss 3.312" in last) == (width >= 80)


def test_a_phase_in_a_terminal_shows_no_numbers_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with phase("loading the model"):
        pass
    said = sys.stderr.getvalue()
    assert "loading the model" in said
    assert "0/?" not in said
    assert "left" not in said
    assert said.endswith("\x1b[2K")  # the line is erased


def test_a_real_terminal_gets_a_bar_and_where_a_run_goes_on() -> None:
    code = (
        "from telltune.training.progress import bar\n"
        "with bar() as shown:\n"
        "    task = shown.add_task('TELL', total=120, completed=40, unit='step')\n"
        "    shown.advance(task, 2)\n"
    )
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
    unset = {"COLUMNS", "LINES"}
    environment = {k: v for k, v in os.environ.items() if k not in unset} | {"TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    said = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "TELL: resumes from step 40 of 120" in said
    assert "42/120" in said
    assert "\x1b[" in said


def lines(code: str, **environment: str) -> list[str]:
    """Run statements in a process whose standard error is no terminal; return what it gets."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_elsewhere_lines_come_by_time_though_nothing_moves() -> None:
    code = (
        "import time\n"
        "from telltune.training import progress\n"
        "progress._FIRST = progress._LEAST = 0.1\n"
        "with progress.phase('loading the model'):\n"
        "    time.sleep(0.35)\n"
        "with progress.bar() as shown:\n"
        "    task = shown.add_task('TELL', total=12, unit='step')\n"
        "    shown.update(task, completed=1, note='loss 6.400')\n"
        "    shown.update(task, completed=2, note='loss 6.300')\n"
        "    time.sleep(0.25)\n"
    )
    # Many CI systems request colors, although their log is no terminal.
    said = lines(code, FORCE_COLOR="1")
    assert said.count("loading the model, 0:00 so far") >= 2
    slow = [line for line in said if line.startswith("TELL")]
    assert len(slow) >= 2
    for line in slow:
        assert re.fullmatch(r"TELL: step 2/12 loss 6\.300, \d:\d\d left", line), line


def test_elsewhere_quick_work_says_each_quarter_and_the_end(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with bar() as shown:
        task = shown.add_task(LONG, total=1000)
        for _ in range(1000):
            shown.advance(task)
    out, err = capfd.readouterr()
    counts = [re.escape(f"{LONG}: {n}/1,000, ") for n in ("250", "500", "750", "1,000")]
    told = err.splitlines()
    assert len(told) == 4
    for line, count in zip(told, counts, strict=True):
        assert re.fullmatch(count + r"(\d:\d\d left|took \d:\d\d)", line), line
    assert out == ""


def test_work_that_is_cut_short_says_how_far_it_got(capsys: pytest.CaptureFixture[str]) -> None:
    def cut_short() -> None:
        with bar() as shown:
            shown.advance(shown.add_task("runs/demo: test", total=60), 5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert capsys.readouterr().err == "runs/demo: test: 5/60, 0:00 so far\n"


def test_a_quick_phase_and_one_that_is_not_shown_say_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with phase("loading the model"):
        pass
    with bar(shown=False) as shown:
        shown.advance(shown.add_task("cells", total=4, completed=2), 2)
    assert capfd.readouterr() == ("", "")


def test_without_a_total_what_was_done_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with bar() as shown:
        task = shown.add_task("tickets", total=None, completed=4000, unit="input")
        shown.update(task, completed=4128, note="91 inputs/s")
    assert capsys.readouterr().err == (
        "tickets: resumes from input 4,000\ntickets: input 4,128 91 inputs/s, 0:00 so far\n"
    )


def test_nobody_who_listens_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    monkeypatch.setattr(progress, "_FIRST", 0.01)
    with bar() as shown:
        shown.advance(shown.add_task("TELL", total=4, completed=1), 3)


def test_a_fit_without_a_terminal_tells_its_steps_and_a_resumed_one_from_where(
    toy_recipe: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy_recipe["training"]["save_steps"] = 3

    def cut_short(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stopwatch, "on_step_end", cut_short)
        with pytest.raises(KeyboardInterrupt):
            telltune.fit(toy_recipe, tmp_path / "out")
    first = capsys.readouterr().err
    telltune.fit(toy_recipe, tmp_path / "out")
    second = capsys.readouterr().err
    step = r"TELL: step (\d+)/(\d+) loss \d+\.\d+, [\d,]+ tokens/s[, ].*"
    told = re.findall(step, first)
    steps = told[0][1]
    assert told[-1] == ("7", steps)  # a step is logged after its end
    assert "resumes" not in first
    assert f"TELL: resumes from step 6 of {steps}\n" in second
    assert re.findall(step, second)[-1] == (steps, steps)
    assert re.search(r"took \d+:\d\d\n", second)
