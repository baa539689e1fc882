"""Verbs about single examples: what each is worth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from telltune.cli.app import AsJson, Overrides, Overwrite, RecipeFile, app
from telltune.tables import print_json, print_scores


@app.command(
    epilog="Example: tell score tickets.yaml --by pvi --out runs/scores; scores.jsonl has "
    "a row an example, the lowest pvi_per_token is the first to look at."
)
def score(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="Where scores.jsonl goes, a row an example.")],
    by: Annotated[Literal["pvi"], typer.Option(help="Pointwise V-information.")] = "pvi",
    folds: Annotated[
        int, typer.Option(min=2, help="Each is scored by models trained on the others.")
    ] = 5,
    shots: Annotated[
        int,
        typer.Option("--in-context", min=0, metavar="K", help="K exemplars in place of training."),
    ] = 0,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Score each training example: how much of its answer is read from its input, in bits.

    The lowest are hard or wrongly labelled. Called again on the same folder it goes on.
    """
    from telltune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from telltune.study.example_scores import SCORES, score_by_pvi

    report = score_by_pvi(
        loaded, out=out, folds=folds, shots=shots, overwrite=overwrite, progress=not as_json
    )
    if as_json:
        print_json({"out": str(out), "by": by, **asdict(report)})
    else:
        print_scores(report)
        typer.echo(f"All of them in {out / SCORES}.")
