"""Verbs of many runs: a study, and the page that tells what it found."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from telltune.cli.app import AsJson, Overrides, Overwrite, RecipeFile, app
from telltune.tables import (
    print_continual,
    print_json,
    print_quanta,
    print_recommendation,
    print_study,
    print_study_plan,
)


@app.command(
    epilog="Example: tell study recipes/study.yaml --out runs/study; the same again goes on."
)
def study(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="A study, in YAML.")],
    out: Annotated[Path, typer.Option(help="Where rows, answers and report.html go.")],
    ray: Annotated[
        str | None, typer.Option(help="Run cells on a Ray cluster: `auto` or HOST:PORT.")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="Of each cell on the cluster.")] = 1.0,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="Of each cell; 1 by default, where the cluster has any."),
    ] = None,
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
    summary, rows = run_study(study, out, progress=not as_json, ray=ray, cpus=cpus, gpus=gpus)
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


@app.command(
    epilog="Example: tell continual recipes/continual.yaml --out runs/order; the same again "
    "goes on."
)
def continual(
    order: Annotated[Path, typer.Argument(metavar="ORDER", help="Tasks in their order, in YAML.")],
    out: Annotated[Path, typer.Option(help="Where rows, adapters and report.html go.")],
    as_json: AsJson = False,
) -> None:
    """Learn tasks one after another, and say what becomes of the earlier ones (TRACE)."""
    from telltune.study.continual import run_continual

    report = run_continual(order, out, progress=not as_json)
    if as_json:
        print_json({"out": str(out), **asdict(report)})
    else:
        print_continual(report)


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


@app.command(
    epilog="Example: tell recommend medical_specialty --out runs/search --minutes 30; "
    "then: tell fit runs/search/recipe.yaml --out runs/mine"
)
def recommend(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="A recipe, or an embedded task by name.")
    ],
    out: Annotated[Path, typer.Option(help="Where what was tried and recipe.yaml go.")],
    minutes: Annotated[float, typer.Option(min=0, help="To spend.")] = 60,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Try methods, ratios, passes and learning rates on dev items, and say which recipe to use.

    Called again on the same folder it goes on where it was. Test items are not read.
    """
    from telltune.recipe import load_recipe, recipe_from_dict

    if Path(task).suffix in (".yaml", ".yml"):
        loaded = load_recipe(task, overrides)
    else:
        # What almost no data means where all of a task's examples are to be had.
        values = {"task": {"embedded": task, "max_tokens": 10_000}, "general": "embedded"}
        loaded = recipe_from_dict(values, name=task, overrides=overrides)
    from telltune.api import recommend as recommended

    found = recommended(loaded, out, minutes=minutes, progress=not as_json)
    if as_json:
        print_json({"out": str(out), **found.to_dict()})
    else:
        print_recommendation(found)
        typer.echo(f"The recipe to use is {out / 'recipe.yaml'}.")


@app.command(
    epilog="Example: tell quanta benchmarks/quanta.yaml --out runs/quanta --method sft_anchor,tell"
)
def quanta(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="Where quanta.json and the recorded losses go.")],
    method: Annotated[
        str,
        typer.Option(help="Names, separated by commas; differences are against the first."),
    ] = "sft_anchor,tell,tell_stratified,tell_task_first,tell_general_first",
    reference_tokens: Annotated[
        int, typer.Option(min=1, help="Task tokens of the reference.")
    ] = 10_000,
    items: Annotated[int, typer.Option(min=1, help="Dev items to look at.")] = 100,
    clusters: Annotated[int, typer.Option(min=2, help="Quanta to find.")] = 12,
    moments: Annotated[int, typer.Option(min=1, help="How often a training is looked at.")] = 10,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find what a task teaches, token by token, and the order in which each method learns it."""
    from telltune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from telltune.study.quanta import quanta as found

    report = found(
        loaded,
        [name.strip() for name in method.split(",") if name.strip()],
        out=out,
        reference_tokens=reference_tokens,
        items=items,
        clusters=clusters,
        moments=moments,
        overwrite=overwrite,
        progress=not as_json,
    )
    if as_json:
        print_json({"out": str(out), **asdict(report)})
    else:
        print_quanta(report)
        typer.echo(f"All of it in {out / 'quanta.json'}.")
