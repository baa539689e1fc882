"""Verbs of many runs: a study, and the page that tells what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from telltune.cli.app import AsJson, app
from telltune.tables import print_json, print_study, print_study_plan


@app.command(
    epilog="Example: tell study recipes/study.yaml --out runs/study; the same again goes on."
)
def study(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study, in YAML.")],
    out: Annotated[Path, typer.Option(help="Where rows, answers and report.html go.")],
    as_json: AsJson = False,
) -> None:
    """Run methods x sizes x seeds on tasks, each cell once, and say what comes out.

    Called again on the same folder it goes on where it was; after an edit it runs what is new.
    """
    from telltune.study.spec import load_study

    load_study(study)  # before PyTorch is: a typing mistake answers at once
    from telltune.api import plan_study, run_study

    if not as_json:
        print_study_plan(plan_study(study, out, measure=False))
    summary, rows = run_study(study, out, progress=not as_json)
    failed = [row for row in rows if row.status == "failed"]
    if as_json:
        print_json({"out": str(out), "cells": len(rows), **summary.to_dict()})
    else:
        print_study(summary)
        for row in failed:
            typer.echo(f"failed: {row.task}, {row.name}, seed {row.seed}: {row.reason}", err=True)
        typer.echo(f"{len(rows) - len(failed)} of {len(rows)} cells; see {out / 'report.html'}.")
    if failed:
        raise typer.Exit(1)


@app.command(epilog="Example: tell report runs/study")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `tell study` fills.")],
    as_json: AsJson = False,
) -> None:
    """Write a study's page anew: one HTML file. The study may still be running."""
    from telltune.api import report as reported

    page = reported(folder)
    if as_json:
        print_json({"report": str(page), "summary": str(page.with_name("summary.json"))})
    else:
        typer.echo(f"Report in {page}.")
