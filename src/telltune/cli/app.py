"""The command line's application, and the options that several verbs share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from telltune.errors import RecipeError

__all__ = ["AsJson", "ColumnNames", "Overrides", "Overwrite", "RecipeFile", "TrustModel", "app"]

app = typer.Typer(
    name="tell",
    help="Adapt a language model with almost no data: TELL, its controls, and an honest table.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: tell compare recipes/demo.yaml --out runs/demo",
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, in YAML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; repeat as needed."),
]
ColumnNames = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="KEY=COLUMN,...",
        help="Which columns hold what, such as prompt=text,completion=team.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier run of telltune left there.")
]
TrustModel = Annotated[
    bool,
    typer.Option(
        "--trust-model", help="Let the base run its own code and read pickles, if tell.json asks."
    ),
]


@app.callback(help=app.info.help)
def _one_process(context: typer.Context) -> None:
    """Only one verb shares its work among the processes of torchrun or `accelerate launch`."""
    launched = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if launched and context.invoked_subcommand != "fit":
        raise RecipeError(
            f"`tell {context.invoked_subcommand}` is no work for several processes, only `tell "
            "fit` is; start it without torchrun or accelerate (`tell study` can use a cluster: "
            "--ray)."
        )
