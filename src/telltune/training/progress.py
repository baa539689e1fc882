"""Progress display: a bar in a terminal, lines of text elsewhere."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from telltune.outputs import guard_outputs, verbosity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Task, TaskID

# Seconds until the first line and between lines. A run of hours prints one line per minute.
_FIRST = 2.0
_LEAST, _MOST, _SHARE = 5.0, 60.0, 1 / 30
# Minimum number of lines for any work.
_PARTS = 4
# Steps can take minutes next to other work, and the time left is estimated from several steps.
_ESTIMATE_SECONDS = 900.0
# Minimum terminal width for the note, and for the bar with the elapsed time.
_WIDTH_FOR_NOTE, _WIDTH_FOR_BAR = 75, 60


def bar(*, shown: bool = True, transient: bool = False) -> _Progress:
    """Create a progress display on standard error; standard output is for results.

    In a terminal it is a bar that shows its numbers at any terminal width and description length.
    Elsewhere it prints lines such as `TELL: step 6/12 loss 6.412, 0:03 left`. The first line
    appears after 2 seconds, the next ones every 5 to 60 seconds depending on the elapsed time, at
    every quarter of the work, and at its end. Work that starts with `completed` above 0 prints
    where it resumes.

    Args:
        shown: Whether to show anything.
        transient: Whether to clear the bar at the end, and to print no line for work below 5
            seconds.

    Returns:
        Context manager. Its `add_task` takes the optional `unit`, the name of the counted items,
        and `note`, a text that follows the numbers.
    """
    guard_outputs()
    console = _Console(stderr=True, markup=False, emoji=False, highlight=False)
    kind = _Bar if _is_live(console) else _Lines
    return kind(
        console=console,
        disable=not shown or verbosity() < 0,
        refresh_per_second=2,
        transient=transient,
        speed_estimate_period=_ESTIMATE_SECONDS,
    )


@contextmanager
def phase(description: str, *, shown: bool = True) -> Iterator[None]:
    """Show a description of work without a count, such as loading a model."""
    with bar(shown=shown, transient=True) as progress:
        progress.add_task(description, total=None)
        yield


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Continue without output if the pipe is closed; rich would end the process."""
        self.quiet = True


def _is_live(console: Console) -> bool:
    """Return whether a bar can be redrawn in place.

    With FORCE_COLOR rich treats every stream as a terminal, even a log file, so the file is asked.
    """
    if console.is_jupyter:
        return True
    try:
        return console.file.isatty() and not console.is_dumb_terminal
    except (AttributeError, ValueError):  # closed or missing stream
        return False


class _Progress(Progress):
    """Progress whose tasks have a unit and a note, and print where they resume."""

    def add_task(
        self,
        description: str,
        start: bool = True,
        total: float | None = 100.0,
        completed: int = 0,
        visible: bool = True,
        **fields: Any,
    ) -> TaskID:
        """Add a task as in rich; `completed` counts the items of an earlier run."""
        fields = {"unit": "", "note": ""} | fields
        if completed:
            unit = f"{fields['unit']} " if fields["unit"] else ""
            end = "" if total is None else f" of {total:,.0f}"
            self.say(f"{description}: resumes from {unit}{completed:,}{end}")
        return super().add_task(description, start, total, completed, visible, **fields)

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one; nothing if the display is off."""
        if self.disable:
            return
        with suppress(OSError, ValueError):  # without a reader the work continues
            self.print(text, soft_wrap=True)


class _Description(ProgressColumn):
    """Description on one line, truncated to the available width."""

    def render(self, task: Task) -> Text:
        return Text(task.description, overflow="ellipsis", no_wrap=True)


class _Count(MofNCompleteColumn):
    """Completed and total count, if anything is counted."""

    def render(self, task: Task) -> Text:
        counted = task.total is not None or task.completed
        return super().render(task) if counted else Text("")


class _Left(TimeRemainingColumn):
    """Time left, if there is a total."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task).append(" left")


class _Bar(_Progress):
    """Bar that keeps its numbers in narrow terminals."""

    def make_tasks_table(self, tasks: Any) -> Table:
        """Make the table as in rich, with the columns that fit."""
        if self.tasks:  # there is no console yet at rich's first call
            self.columns = (_Description(), *_columns(self.console.width))
        return super().make_tasks_table(tasks)


def _columns(width: int) -> list[ProgressColumn]:
    """Return the columns after the description; they keep their width if space is short."""
    columns: list[ProgressColumn] = [_Count(table_column=Column(no_wrap=True))]
    if width >= _WIDTH_FOR_BAR:
        columns.insert(0, BarColumn(8 if width < 100 else 20 if width < 130 else 40))
        columns.append(TimeElapsedColumn(table_column=Column(no_wrap=True)))
    columns.append(_Left(compact=True, table_column=Column(no_wrap=True)))
    if width >= _WIDTH_FOR_NOTE:
        columns.append(TextColumn("{task.fields[note]}", markup=False))
    return columns


class _Lines(_Progress):
    """Progress as lines of text."""

    def __init__(self, *, transient: bool, **settings: Any) -> None:
        super().__init__(transient=transient, **settings)
        self._only_long = transient
        self._ended = threading.Event()
        self._clock = threading.Thread(target=self._tell_regularly, daemon=True)
        self._told: dict[TaskID, int] = {}
        """Number of quarters reported for each task."""

    def start(self) -> None:
        """Start the thread that prints lines; there is nothing to redraw."""
        if not self.disable:
            self._clock.start()

    def stop(self) -> None:
        """Print the final state of each task."""
        if self.disable or self._ended.is_set():
            return
        self._ended.set()
        self._clock.join()
        if not self._only_long:
            for task in self.tasks:
                if not task.finished:  # finished tasks printed their last line
                    self.say(_line(task))

    def refresh(self) -> None:
        """Do nothing, because there is nothing to redraw."""

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Update a task as in rich, and print a line at each quarter."""
        super().update(task_id, **changes)
        self._tell_quarters(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task as in rich, and print a line at each quarter."""
        super().advance(task_id, advance)
        self._tell_quarters(task_id)

    def _tell_quarters(self, task_id: TaskID) -> None:
        with self._lock:
            task = self._tasks[task_id]
            if self.disable or not task.total:
                return
            reached = int(_PARTS * task.completed / task.total)
            before, self._told[task_id] = self._told.get(task_id, 0), reached
            if reached > before:
                self.say(_line(task))

    def _tell_regularly(self) -> None:
        wait = _LEAST if self._only_long else _FIRST
        while not self._ended.wait(wait):
            going = [task for task in self.tasks if not task.finished]
            for task in going:
                self.say(_line(task))
            elapsed = max((task.elapsed or 0.0 for task in going), default=0.0)
            wait = min(max(_LEAST, elapsed * _SHARE), _MOST)


def _line(task: Task) -> str:
    """Return the line of a task: `TELL: step 6/12 loss 6.412, 1,204 tokens/s, 0:03 left`."""
    elapsed, left = _clock(task.elapsed or 0.0), task.time_remaining
    count = f"{task.completed:,.0f}" if task.completed or task.total is not None else ""
    of = "" if task.total is None else f"/{task.total:,.0f}"
    numbers = " ".join(filter(None, [task.fields["unit"], count + of, task.fields["note"]]))
    if task.finished:
        when = f"took {elapsed}"
    elif left is None:
        when = f"{elapsed} so far"
    else:
        when = f"{_clock(left)} left"
    return f"{task.description}: {numbers}, {when}" if count else f"{task.description}, {when}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
