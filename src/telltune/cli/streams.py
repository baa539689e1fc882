"""The verb about inputs without end."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from telltune.cli.app import AsJson, app
from telltune.tables import print_json, print_stream


@app.command(
    epilog="Example: tell cascade recipes/cascade.yaml --stream tickets.jsonl --out runs/cascade; "
    "called again it goes on, also with what a growing file has got meanwhile."
)
def cascade(
    file: Annotated[Path, typer.Argument(metavar="CASCADE", help="A cascade, in YAML.")],
    stream: Annotated[Path, typer.Option(help="JSONL: `text`, and perhaps `label` to compare.")],
    out: Annotated[Path, typer.Option(help="Where decisions.jsonl, state and report go.")],
    as_json: AsJson = False,
) -> None:
    """Answer a stream with the cheapest model that will do, and learn from the largest."""
    from telltune.streams.stream import DECISIONS, run_stream

    report = run_stream(file, stream, out, progress=not as_json)
    if as_json:
        print_json({"out": str(out / DECISIONS), **asdict(report)})
    else:
        print_stream(report)
