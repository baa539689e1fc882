"""Verb that diagnoses failed runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from telltune.cli.app import AsJson, app
from telltune.cli.console import print_diagnosis, print_json


@app.command(
    epilog="Example: tell diagnose train.log; with your own rules: tell diagnose runs/mine "
    "--rules site.yaml"
)
def diagnose(
    log: Annotated[Path, typer.Argument(metavar="DIR|LOG", help="Log file, or folder of logs.")],
    rules: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Additional rules in YAML, applied first; repeatable."),
    ] = None,
    past: Annotated[
        Path | None, typer.Option(help="File of past failures; by default the one in the cache.")
    ] = None,
    remember: Annotated[
        str | None, typer.Option(metavar="CAUSE", help="Store this log as a past failure of CAUSE.")
    ] = None,
    healthy: Annotated[
        bool,
        typer.Option(
            help="Treat the log as that of a healthy run, and filter its lines from now on."
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to ask last: `embedded`, a folder, or http://HOST/v1#NAME, with #VARIABLE "
            "behind it if an environment variable holds an API key."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report why a run failed: the cause, who can fix it, the evidence, and the fix."""
    from telltune.research.diagnosis.command import diagnose_logs, keep_healthy, keep_past

    if healthy:
        typer.echo(f"{keep_healthy(log):,} line templates are filtered from now on.")
        return
    if remember is not None:
        keep_past(log, remember, past)
        typer.echo(f"Stored as {remember}.")
        return
    found = diagnose_logs(log, rules=rules or (), past=past, model=model)
    if as_json:
        print_json({"logs": found})
    else:
        print_diagnosis(found)
