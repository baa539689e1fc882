"""What a user sees of a run: the bar."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from telltune.outputs import guard_outputs

__all__ = ["bar"]


def bar(*, shown: bool = True) -> Progress:
    """A progress bar on standard error, so that `--json` keeps standard output to itself."""
    guard_outputs()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not shown,
        refresh_per_second=2,
    )
