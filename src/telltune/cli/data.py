"""Verbs that look at data and anchors before anything is trained."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from telltune.cli.app import AsJson, Overrides, RecipeFile, app
from telltune.tables import print_json, print_table, print_warnings


@app.command(epilog="Example: tell check train.jsonl --test test.jsonl --model embedded")
def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Training data.")],
    dev: Annotated[list[str] | None, typer.Option(help="Dev data; repeatable.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test data; repeatable.")] = None,
    model: Annotated[
        str, typer.Option(help="Whose tokenizer counts tokens and knows control tokens.")
    ] = "embedded",
    max_length: Annotated[int, typer.Option(min=1, help="Longest example, in tokens.")] = 2048,
    as_json: AsJson = False,
) -> None:
    """List empty, malformed, duplicate, leaking and over-long rows. Exit 1 if any is refused."""
    from telltune.api import check as checked
    from telltune.training.progress import phase

    splits = {"train": files, "dev": dev or [], "test": test or []}
    with phase("reading the data", shown=not as_json):
        counts, findings = checked(
            {name: paths for name, paths in splits.items() if paths},
            model=model,
            max_length=max_length,
        )
    refused = sum(finding.refused for finding in findings)
    if as_json:
        print_json(
            {"examples": counts, "refused": refused, "findings": [asdict(f) for f in findings]}
        )
    else:
        for finding in findings:
            typer.echo(f"{finding} [{finding.kind}]")
        counted = ", ".join(f"{n:,} {split}" for split, n in counts.items())
        typer.echo(f"{counted} examples; {refused} refused, {len(findings) - refused} warnings.")
    if refused:
        raise typer.Exit(1)


@app.command(epilog="Example: tell anchor recipes/demo.yaml --candidates 12")
def anchor(
    recipe: RecipeFile,
    candidates: Annotated[int, typer.Option(min=1, help="How many to propose.")] = 8,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Let the model propose anchors, and rank them by held-out loss before any training."""
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
    print_warnings(ranking.warnings)
    typer.echo("Copy the one you want into the recipe, under anchor.prompt.")
