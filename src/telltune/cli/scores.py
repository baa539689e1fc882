"""Verbs that score task examples and synthesize more of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from telltune.cli.app import AsJson, Overrides, Overwrite, app
from telltune.cli.console import print_json, print_note, print_scores

if TYPE_CHECKING:
    from telltune.recipe import Recipe


@app.command(
    epilog="Example: tell score tickets.yaml --out runs/scores; with default settings, "
    "tell score tickets.jsonl --out runs/scores."
)
def score(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Recipe in YAML, or file of examples.")
    ],
    out: Annotated[Path, typer.Option(help="Output folder for scores.jsonl, one row per example.")],
    by: Annotated[
        Literal["pvi", "memory"] | None,
        typer.Option(
            help="Bits of information in the input, or how often the base gives the answer."
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(help="PVI: number of folds; each is scored by models trained on the others."),
    ] = None,
    in_context: Annotated[
        int | None,
        typer.Option(metavar="K", help="PVI: use K exemplars in the prompt instead of training."),
    ] = None,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Score each training example by PVI, or by what the model already knows.

    Examples with the lowest PVI are hard or mislabeled. Called again, an interrupted run resumes.
    """
    given = {"by": by, "folds": folds, "in_context": in_context}
    options = [f"selection.{key}={value}" for key, value in given.items() if value is not None]
    loaded = _recipe(data, [*(overrides or []), *options], as_json=as_json)
    from telltune.study.example_scores import SCORES, score_examples

    report = score_examples(loaded, out=out, overwrite=overwrite, progress=not as_json)
    if as_json:
        print_json({"out": str(out), **asdict(report)})
    else:
        print_scores(report)
        typer.echo(f"All scores are in {out / SCORES}.")


@app.command(
    epilog="Example: tell synthesize tickets.yaml --out runs/more --set synthesis.examples=500; "
    "then add runs/more/synthetic.jsonl to `task.train`."
)
def synthesize(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Recipe in YAML, or file of examples.")
    ],
    out: Annotated[
        Path, typer.Option(help="Output folder for synthetic.jsonl, one row per example.")
    ],
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Generate task examples from a few (SELF-GUIDE), and report which were discarded and why.

    Called again, an interrupted run resumes with the unfinished round.
    """
    loaded = _recipe(data, overrides or [], as_json=as_json)
    from telltune.study.synthetic_file import SYNTHETIC, write_synthetic

    made = write_synthetic(loaded, out=out, overwrite=overwrite, progress=not as_json)
    if as_json:
        print_json({"out": str(out / SYNTHETIC), **made.to_dict()})
    else:
        typer.echo(f"{out / SYNTHETIC}: {made}. {' '.join(made.notes)}")


def _recipe(data: Path, overrides: list[str], *, as_json: bool) -> Recipe:
    """Load a recipe file, or make a default recipe for a file with examples."""
    from telltune.recipe import load_recipe, recipe_from_dict

    if data.suffix.lower() in (".yaml", ".yml"):
        return load_recipe(data, overrides)

    def recipe(**columns: Any) -> Recipe:
        task = {"train": {"path": str(data), **columns}}
        return recipe_from_dict({"task": task}, name=str(data), folder=Path(), overrides=overrides)

    plain = recipe()  # before the slow import of PyTorch, to report typing mistakes at once
    from telltune.proposal.survey import guessed_columns

    columns = guessed_columns(str(data), "train")
    if columns is None:
        return plain
    if not as_json:
        print_note(f"The columns {columns.prompt} → {columns.completion} of {data} are guessed.")
    return recipe(columns=columns.model_dump(exclude_none=True))
