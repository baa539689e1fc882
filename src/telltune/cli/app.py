"""Typer application of the command line, and options shared by several verbs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperGroup

from telltune.errors import RecipeError
from telltune.plugins import add_plugin
from telltune.version import VERSION

__all__ = ["AsJson", "ColumnNames", "Overrides", "Overwrite", "RecipeFile", "TrustModel", "app"]


class _Verbs(TyperGroup):
    """Group of the verbs; their help names arguments without Python types such as `list[str]`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for verb in self.commands.values():
            for parameter in verb.params:
                if isinstance(parameter, TyperArgument):
                    # Typer shows the type also behind a metavar.
                    parameter.display_type_rich = lambda **_: None  # type: ignore[method-assign]


app = typer.Typer(
    name="tell",
    cls=_Verbs,
    help="Adapt a language model with few labeled examples, and compare TELL with baselines.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: tell compare recipes/demo.yaml --out runs/demo",
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file in YAML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; repeatable."),
]
ColumnNames = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="KEY=COLUMN,...",
        help="Columns of the data, e.g. prompt=text,completion=team.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print only one JSON object.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output of an earlier telltune run.")
]
TrustModel = Annotated[
    bool,
    typer.Option(
        "--trust-model",
        help="Run the base model's own code and read pickle files if tell.json asks for it.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"telltune {VERSION}")
        raise typer.Exit


@app.callback(help=app.info.help)
def _before_every_verb(
    context: typer.Context,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE", help="Load a module with methods, metrics or formats."),
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback prints and exits
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    for module in plugin or []:
        add_plugin(module)
    # Only `fit` shares its work among the processes of torchrun or `accelerate launch`.
    launched = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if launched and context.invoked_subcommand != "fit":
        raise RecipeError(
            f"`tell {context.invoked_subcommand}` runs in one process, unlike `tell fit`; start "
            "it without torchrun or accelerate (`tell study` can use a cluster: --ray)."
        )
