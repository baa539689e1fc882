"""The verb about runs that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from telltune.cli.app import AsJson, app
from telltune.tables import print_diagnosis, print_json


@app.command(
    epilog="Example: tell diagnose train.log; with rules of your own, tell diagnose runs/mine "
    "--rules site.yaml"
)
def diagnose(
    log: Annotated[Path, typer.Argument(metavar="DIR|LOG", help="A log, or a folder of logs.")],
    rules: Annotated[
        list[Path] | None, typer.Option(help="More rules, in YAML; they rank first.")
    ] = None,
    past: Annotated[
        Path | None, typer.Option(help="Past failures; those in telltune's cache by default.")
    ] = None,
    remember: Annotated[
        str | None, typer.Option(metavar="CAUSE", help="Keep this log as one of that cause.")
    ] = None,
    healthy: Annotated[
        bool, typer.Option(help="It is the log of a run that went well: filter what it says.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Ask a model last: `embedded`, a folder, or http://HOST/v1#NAME."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say why a run failed: the cause, whose it is, the lines that say so, and what mends it."""
    from telltune.diagnosis.command import diagnose_logs, keep_healthy, keep_past

    if healthy:
        typer.echo(f"{keep_healthy(log):,} kinds of lines are filtered from now on.")
        return
    if remember is not None:
        keep_past(log, remember, past)
        typer.echo(f"Kept as {remember}.")
        return
    found = diagnose_logs(log, rules=rules or (), past=past, model=model)
    if as_json:
        print_json({"logs": found})
    else:
        print_diagnosis(found)
