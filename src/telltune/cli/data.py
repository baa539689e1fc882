"""Verbs that check data and rank anchors before training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from telltune.cli.app import AsJson, ColumnNames, Overrides, RecipeFile, app
from telltune.cli.console import print_json, print_table, print_warnings
from telltune.errors import RecipeError


@app.command(epilog="Example: tell check train.jsonl --test test.jsonl --model embedded")
def check(
    data: Annotated[
        list[str],
        typer.Argument(metavar="FILE|RECIPE", help="Training data, or a recipe in YAML."),
    ],
    dev: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Dev data; repeatable.")
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Test data; repeatable.")
    ] = None,
    columns: ColumnNames = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model whose tokenizer counts tokens and finds control tokens; by default the "
            "recipe's, or `embedded`."
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=1, help="Longest example in tokens; by default the recipe's, or 2048."),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """List empty, malformed, duplicate, leaking and over-long rows. Exit 1 if any is refused.

    Rows that lose text in the chat template are listed too.
    """
    from telltune.recipe import columns_from_text, load_recipe

    splits: dict[str, list[str]] = {"train": data, "dev": dev or [], "test": test or []}
    recipe = next((Path(name) for name in data if name.endswith((".yaml", ".yml"))), None)
    loaded = named = None
    if recipe is None:
        if overrides:
            raise RecipeError("--set needs a recipe, but only data files are given.")
        named = None if columns is None else columns_from_text(columns)
    else:
        if len(data) > 1 or dev or test or columns:
            raise RecipeError(f"{recipe} names its own data and columns; give it alone.")
        loaded = load_recipe(recipe, overrides)
    from telltune.api import check as checked
    from telltune.data.checks import grouped
    from telltune.training.progress import phase

    with phase("reading the data", shown=not as_json):
        if loaded is not None:
            found = checked(loaded, model=model, max_length=max_length)
        else:
            found = checked(
                {split: paths for split, paths in splits.items() if paths},
                columns=named,
                model=model or "embedded",
                max_length=max_length or 2048,
            )
    refused = sum(finding.refused for finding in found.findings)
    if as_json:
        findings = [asdict(finding) for finding in found.findings]
        told = {"guessed": found.guessed} if found.guessed else {}
        print_json({"examples": found.counts, "refused": refused, **told, "findings": findings})
    else:
        for group in grouped(found.findings):
            typer.echo(f"{group} [{group.first.kind}]")
        typer.echo(found.tables()[0].title)
    if refused:
        raise typer.Exit(1)


@app.command(epilog="Example: tell anchor recipes/demo.yaml --candidates 12")
def anchor(
    recipe: RecipeFile,
    candidates: Annotated[int, typer.Option(min=1, help="Number of anchors to propose.")] = 8,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Propose anchors, and rank them by held-out loss before training."""
    from telltune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from telltune.api import anchor as ranked
    from telltune.training.progress import phase

    with phase("proposing and ranking anchors", shown=not as_json):
        ranking = ranked(loaded, candidates=candidates)
    if as_json:
        print_json(asdict(ranking))
        return
    print_table(
        f"Anchors by loss on {ranking.held_out} held-out examples, before training (lower is "
        "better)",
        ("loss", "tokens", "from", "anchor"),
        [
            (
                f"{row.loss:.3f}",
                f"{row.tokens:+.0f}",
                row.origin,
                row.anchor.prompt if row.anchor else "-",
            )
            for row in ranking.candidates
        ],
    )
    for note in ranking.notes:
        typer.echo(note)
    print_warnings(ranking.warnings)
    typer.echo("Copy one of them into the recipe, under anchor.prompt.")


@app.command(epilog="Example: tell pick inputs.csv --number 40 --out to-label.csv")
def pick(
    inputs: Annotated[
        Path, typer.Argument(metavar="INPUTS", help="File of inputs; answers are ignored.")
    ],
    out: Annotated[Path, typer.Option(help="Output file for the rows, most useful first.")],
    number: Annotated[
        int, typer.Option("-n", "--number", min=1, help="Number of inputs to pick.")
    ] = 40,
    labeled: Annotated[
        Path | None, typer.Option(help="File of examples that are labeled already.")
    ] = None,
    columns: ColumnNames = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the subsample of large files.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Pick the inputs that are most worth labeling, with a sentence encoder and no label."""
    from telltune.data.writing import check_writable, write_rows
    from telltune.recipe import columns_from_text

    check_writable(out, [inputs, *([labeled] if labeled else [])])
    named = None if columns is None else columns_from_text(columns, completion="completion")
    from telltune.classifiers.picking import pick as picked_inputs
    from telltune.training.progress import phase

    with phase("encoding the inputs", shown=not as_json):
        picked = picked_inputs(inputs, number, labeled=labeled, columns=named, seed=seed)
    write_rows(out, picked.rows)
    if as_json:
        print_json({"out": str(out), **asdict(picked)})
        return
    shown = sorted({min(n, number) for n in (10, 20, 40, 80, number)})
    print_table(
        f"{number} of {picked.inputs:,} inputs in {out}",
        ("labeled from the top", "mean similarity of an input to the closest"),
        [(f"{n}", f"{picked.coverage[n - 1]:.2f}") for n in shown],
    )
    typer.echo("Label them from the top; `tell pick --labeled FILE` then picks the next.")
