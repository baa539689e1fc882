"""Verb that answers a stream of inputs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from telltune.cli.app import AsJson, app
from telltune.cli.console import print_json, print_stream


@app.command(
    epilog="Example: tell cascade recipes/cascade.yaml --stream tickets.jsonl --out runs/cascade; "
    "called again, it resumes and also answers rows added to the stream."
)
def cascade(
    file: Annotated[Path, typer.Argument(metavar="CASCADE", help="Cascade file in YAML.")],
    stream: Annotated[
        Path,
        typer.Option(help="JSONL file with `text` and, optionally, `label` to measure accuracy."),
    ],
    out: Annotated[Path, typer.Option(help="Output folder for decisions.jsonl, state and report.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for further rows until interrupted (Ctrl-C).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Answer each input with the cheapest sufficient model, and learn from the largest."""
    from telltune.research.streams.stream import DECISIONS, run_stream

    report = run_stream(file, stream, out, follow=follow, progress=not as_json)
    if as_json:
        print_json({"out": str(out / DECISIONS), **asdict(report)})
    else:
        print_stream(report)
