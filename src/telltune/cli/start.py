"""Verb that writes a first recipe."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from telltune.cli.app import AsJson, ColumnNames, app
from telltune.cli.console import print_json, print_warnings
from telltune.errors import RecipeError


@app.command(
    epilog="Example: tell init tickets.csv --out tickets; with data of ours: tell init --example "
    "tickets"
)
def init(
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA", help="Files or folders of examples, in any format."),
    ] = None,
    example: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Copy a recipe that telltune ships; `list` names them."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for recipe.yaml and the parts of the data.")
    ] = Path(),
    columns: ColumnNames = None,
    model: Annotated[
        str, typer.Option(help="Base model of the recipe: `embedded`, a hub id, or a folder.")
    ] = "embedded",
    as_json: AsJson = False,
) -> None:
    """Write a recipe for data files, and split them into train, dev and test.

    Files whose names contain the split are used as they are. Nothing is replaced.
    """
    if (example is None) == (not data):
        raise RecipeError("give either data or --example.")
    if example is not None:
        if columns is not None or model != "embedded":
            raise RecipeError("--columns and --model are for data; edit the copied recipe instead.")
        _copy_example(example, out, as_json=as_json)
        return
    assert data is not None
    from telltune.recipe import columns_from_text

    named = None if columns is None else columns_from_text(columns)
    from telltune.proposal.write import write_recipe
    from telltune.training.progress import phase

    with phase("reading the data", shown=not as_json):
        done = write_recipe(data, out, columns=named, model=model)
    if as_json:
        print_json(asdict(done) | {"recipe": str(done.recipe)})
        return
    typer.echo(f"{', '.join(data)}: {done.told}.")
    counted = ", ".join(f"{count:,} {part}" for part, count in done.counts.items())
    typer.echo(f"{counted}. {' '.join(done.notes)}".rstrip())
    typer.echo(f"Anchor: {done.anchor}")
    typer.echo(f"The recipe is {done.recipe}. Next:")
    recipe = shlex.quote(str(done.recipe))
    typer.echo(f"  tell check {recipe}")
    if "test" in done.counts:
        typer.echo(f"  tell compare {recipe} --out runs/compared")
    else:
        typer.echo(f"  tell recommend {recipe} --out runs/search")
    typer.echo(f"  tell fit {recipe} --out runs/mine")
    print_warnings(done.warnings)


def _copy_example(name: str, out: Path, *, as_json: bool) -> None:
    """Copy a shipped recipe with its data, or print the names of all."""
    from telltune.proposal.examples import copy_example, examples

    if name == "list":
        found = examples()
        if as_json:
            print_json({"examples": found})
            return
        for each, told in found.items():
            typer.echo(f"{each}: {told}")
        return
    files = copy_example(name, out)
    if as_json:
        print_json({"recipe": str(files[0]), "files": [str(file) for file in files]})
        return
    typer.echo(f"Copied {', '.join(map(str, files))}. Next:")
    typer.echo(f"  tell plan {shlex.quote(str(files[0]))}")
