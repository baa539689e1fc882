"""Verbs that run several methods: comparisons, studies, searches and their reports."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from telltune.cli.app import AsJson, Overrides, Overwrite, RecipeFile, app
from telltune.cli.console import (
    print_continual,
    print_json,
    print_note,
    print_plan,
    print_quanta,
    print_recommendation,
    print_study,
    print_study_plan,
    print_tables,
    print_warnings_of,
)


@app.command(epilog="Example: tell compare recipes/demo.yaml --out runs/demo --method sft,tell")
def compare(
    recipe: RecipeFile,
    out: Annotated[
        Path, typer.Option(help="Output folder for adapters, answers and summary.json.")
    ],
    method: Annotated[
        str | None,
        typer.Option(
            help="Methods, separated by commas; by default those that the recipe can run of base, "
            "the fast baselines that suit the task, sft, sft_anchor, tell, tell_product and "
            "tell_pseudo_label."
        ),
    ] = None,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fit and score several methods on the same task data, and summarize the results."""
    from telltune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from telltune.api import plan as planned
    from telltune.methods.registry import get_method
    from telltune.study.compare import FailedMethodsError, default_methods
    from telltune.study.compare import compare as compared
    from telltune.study.conclusion import best_trained, conclusion
    from telltune.training.progress import phase

    names = default_methods(loaded) if method is None else _listed(method)
    trained = [name for name in names if get_method(name).trains]
    if trained and not as_json:
        # Plan a method that is trained here; the recipe's own method may not be among them.
        last = loaded.model_copy(update={"method": trained[-1]})
        with phase("planning"):
            values = planned(last, measure=False)
        print_plan(values)
        others = [name for name in trained if name != last.method]
        if others:
            print_note(f"This plan covers only {last.method}; {', '.join(others)} are trained too.")
    failure = None
    try:
        rows = compared(loaded, names, out=out, overwrite=overwrite, progress=not as_json)
    except FailedMethodsError as error:
        rows, failure = error.rows, error
    if as_json:
        print_json({"out": str(out), "rows": [asdict(row) for row in rows]})
    elif rows:
        print_tables(rows)
        print_warnings_of((row.method, row.warnings) for row in rows)
        for sentence in conclusion(rows):
            typer.echo(sentence)
        typer.echo(
            f"The rows are in {out / 'summary.json'}; adapters and answers are in the same folder."
        )
        if (best := best_trained(rows)) is not None:
            typer.echo(
                f"Next: `tell predict {shlex.quote(str(out / best.method))} --file inputs.jsonl` "
                f"answers with {best.method}; `tell recommend {shlex.quote(str(recipe))} --out "
                "runs/search` tries other settings."
            )
    if failure is not None:
        typer.echo(f"error: {failure}", err=True)
        raise typer.Exit(1)


@app.command(
    epilog="Example: tell study recipes/study.yaml --out runs/study; called again, it resumes."
)
def study(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Study file in YAML.")],
    out: Annotated[Path, typer.Option(help="Output folder for rows, answers and report.html.")],
    ray: Annotated[
        str | None, typer.Option(help="Run cells on a Ray cluster: `auto` or HOST:PORT.")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs per cell on the cluster.")] = 1.0,
    gpus: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs per cell; by default 1 if the cluster has GPUs."),
    ] = None,
    answer_cpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="CPUs of a separate task on the cluster that answers with the adapter of each "
            "trained cell; by default the cell itself answers.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run methods x sizes x seeds on tasks, each cell once, and report the results.

    Called again on the same folder, it resumes where it stopped. After an edit it runs new cells.
    """
    from telltune.study.spec import load_study

    load_study(study)  # before the slow import of PyTorch, to report typing mistakes at once
    from telltune.study.verbs import run_study

    summary, rows = run_study(
        study,
        out,
        progress=not as_json,
        ray=ray,
        cpus=cpus,
        gpus=gpus,
        answer_cpus=answer_cpus,
        on_plan=None if as_json else print_study_plan,
    )
    failed = [row for row in rows if row.status == "failed"]
    if as_json:
        print_json({"out": str(out), "cells": len(rows), **summary.to_dict()})
    else:
        print_study(summary)
        for row in failed:
            typer.echo(f"failed: {row.task}, {row.name}, seed {row.seed}: {row.reason}", err=True)
        typer.echo(
            f"{len(rows) - len(failed)} of {len(rows)} cells finished; see {out / 'report.html'}."
        )
    if failed:
        raise typer.Exit(1)


@app.command(
    epilog="Example: tell continual recipes/continual.yaml --out runs/order; called again, "
    "it resumes."
)
def continual(
    order: Annotated[
        Path, typer.Argument(metavar="ORDER", help="File with the tasks in order, in YAML.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder for rows, adapters and report.html.")],
    as_json: AsJson = False,
) -> None:
    """Learn tasks one after another, and report what is forgotten of earlier ones (TRACE)."""
    from telltune.research.continual.spec import load_continual

    load_continual(order)  # before the slow import of PyTorch
    from telltune.research.continual.course import run_continual

    report = run_continual(order, out, progress=not as_json)
    if as_json:
        print_json({"out": str(out), **asdict(report)})
    else:
        print_continual(report)


@app.command(epilog="Example: tell report runs/study")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study.")],
    as_json: AsJson = False,
) -> None:
    """Write a study's report again, as one HTML file. The study may still be running."""
    from telltune.study.verbs import report as reported

    page = reported(folder)
    if as_json:
        print_json({"report": str(page), "summary": str(page.with_name("summary.json"))})
    else:
        typer.echo(f"The report is in {page}.")


@app.command(
    epilog="Example: tell recommend medical_specialty --out runs/search --minutes 30; "
    "then: tell fit runs/search/recipe.yaml --out runs/mine"
)
def recommend(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="Recipe file, or name of an embedded task.")
    ],
    out: Annotated[
        Path, typer.Option(help="Output folder for the search results and recipe.yaml.")
    ],
    minutes: Annotated[float, typer.Option(min=0, help="Time budget in minutes.")] = 60,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Try methods, ratios, passes and learning rates on dev items, and recommend a recipe.

    Called again on the same folder, it resumes where it stopped. Test items are not answered.
    """
    from telltune.data.writing import check_unread
    from telltune.recipe import load_recipe, recipe_from_dict

    if Path(task).suffix in (".yaml", ".yml"):
        check_unread(out / "recipe.yaml", [Path(task)])
        loaded = load_recipe(task, overrides)
    else:
        from telltune.data.embedded import embedded_task

        embedded_task(task)  # before the slow import of PyTorch, to report typing mistakes at once
        # Embedded tasks have many examples; use few of them, as the search is for scarce data.
        values = {"task": {"embedded": task, "max_tokens": 10_000}, "general": "embedded"}
        loaded = recipe_from_dict(values, name=task, overrides=overrides)
    from telltune.study.recommend import recommend as recommended

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
    out: Annotated[
        Path, typer.Option(help="Output folder for quanta.json and the recorded losses.")
    ],
    method: Annotated[
        str,
        typer.Option(help="Methods, separated by commas; each is compared with the first."),
    ] = "sft_anchor,tell,tell_stratified,tell_task_first,tell_general_first",
    reference_tokens: Annotated[
        int, typer.Option(min=1, help="Task tokens for the reference run.")
    ] = 10_000,
    items: Annotated[int, typer.Option(min=1, help="Number of dev items.")] = 100,
    clusters: Annotated[int, typer.Option(min=2, help="Number of quanta to find.")] = 12,
    moments: Annotated[
        int, typer.Option(min=1, help="Number of measurements during a training.")
    ] = 10,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find the quanta of a task (token clusters), and the order in which methods learn them."""
    from telltune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from telltune.research.quanta.analysis import quanta as found

    report = found(
        loaded,
        _listed(method),
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
        typer.echo(f"The full results are in {out / 'quanta.json'}.")


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]
