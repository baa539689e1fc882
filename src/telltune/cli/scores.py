"""Verbs about single examples: what each is worth, and more of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from telltune.cli.app import AsJson, Overrides, Overwrite, app
from telltune.tables import print_json, print_scores

if TYPE_CHECKING:
    from telltune.recipe import Recipe


@app.command(
    epilog="Example: tell score tickets.yaml --out runs/scores; or, with every setting as it is by "
    "default, tell score tickets.jsonl --out runs/scores."
)
def score(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A recipe in YAML, or a file with examples.")
    ],
    out: Annotated[Path, typer.Option(help="Where scores.jsonl goes, a row an example.")],
    by: Annotated[
        Literal["pvi", "memory"] | None,
        typer.Option(help="Bits the input tells of the answer, or how often the base says it."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="PVI: each is scored by models trained on the others.")
    ] = None,
    in_context: Annotated[
        int | None, typer.Option(metavar="K", help="PVI: K exemplars in place of training.")
    ] = None,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Score each training example, by PVI or by what the model knows already.

    The lowest PVI are hard or wrongly labelled. What was cut short goes on where it was.
    """
    given = {"by": by, "folds": folds, "in_context": in_context}
    options = [f"selection.{key}={value}" for key, value in given.items() if value is not None]
    loaded = _recipe(data, [*(overrides or []), *options])
    from telltune.study.example_scores import SCORES, score_examples

    report = score_examples(loaded, out=out, overwrite=overwrite, progress=not as_json)
    if as_json:
        print_json({"out": str(out), **asdict(report)})
    else:
        print_scores(report)
        typer.echo(f"All of them in {out / SCORES}.")


@app.command(
    epilog="Example: tell synthesize tickets.yaml --out runs/more --set synthesis.examples=500; "
    "then name runs/more/synthetic.jsonl in `task.train`, beside your own."
)
def synthesize(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A recipe in YAML, or a file with examples.")
    ],
    out: Annotated[Path, typer.Option(help="Where synthetic.jsonl goes, a row an example.")],
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Let the model make task examples from a few (SELF-GUIDE), and say what it refused and why.

    What was cut short goes on with the round where it was.
    """
    loaded = _recipe(data, overrides or [])
    from telltune.study.synthetic_file import SYNTHETIC, write_synthetic

    made = write_synthetic(loaded, out=out, overwrite=overwrite, progress=not as_json)
    if as_json:
        print_json({"out": str(out / SYNTHETIC), **asdict(made.told)})
    else:
        typer.echo(f"{out / SYNTHETIC}: {made.told}.")


def _recipe(data: Path, overrides: list[str]) -> Recipe:
    """A recipe file's, or the default one for a file with examples."""
    from telltune.recipe import load_recipe, recipe_from_dict

    if data.suffix.lower() in (".yaml", ".yml"):
        return load_recipe(data, overrides)
    return recipe_from_dict(
        {"task": {"train": str(data)}}, name=str(data), folder=Path(), overrides=overrides
    )
