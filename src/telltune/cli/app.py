"""Typer application of the command line, and options shared by several verbs."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperGroup

from telltune.errors import RecipeError
from telltune.outputs import set_verbosity
from telltune.plugins import add_plugin
from telltune.version import VERSION

GROUPS = {
    "Make": ("init", "fit", "pick", "anchor", "score", "synthesize"),
    "Look": ("check", "show", "plan", "verify", "diagnose", "env", "config-schema"),
    "Compare": ("evaluate", "compare", "recommend", "study", "report", "continual", "quanta"),
    "Serve": ("predict", "export", "serve", "chat", "ui", "cascade"),
}
"""Verbs in the order of the help, by what they are for."""


_TYPES = {"str": "TEXT", "path": "PATH", "int": "INTEGER", "float": "FLOAT"}
"""Names in the help for the types of options."""


class _Verbs(TyperGroup):
    """Group of the verbs, with grouped help and with `-q` and `-v` behind every verb."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for verb in self.commands.values():
            for parameter in verb.params:
                parameter.display_type_rich = partial(  # type: ignore[attr-defined]
                    _type_in_help, parameter
                )
            verb.params += _shared_options()

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the verbs in the order of `GROUPS`."""
        order = [name for names in GROUPS.values() for name in names]
        return sorted(super().list_commands(ctx), key=lambda name: [*order, name].index(name))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs with the first sentence of their help, by group."""
        rest = dict.fromkeys(self.list_commands(ctx))
        width = max(map(len, rest))
        for group, names in (*GROUPS.items(), ("Other", tuple(rest))):
            rows = [(name, self.commands[name]) for name in names if name in rest]
            if rows:
                with formatter.section(group):
                    told = [
                        (name.ljust(width), verb.get_short_help_str(200)) for name, verb in rows
                    ]
                    formatter.write_dl(told)
            for name, _ in rows:
                del rest[name]


def _type_in_help(parameter: Any, ctx: Any) -> str | None:
    """Return what the help shows behind the name of a parameter, without Python types."""
    if isinstance(parameter, TyperArgument):
        return None  # Its metavar already says what it is.
    if parameter.metavar is not None:
        return str(parameter.metavar)
    kind = parameter.display_type(ctx).strip("<>").removesuffix(" range")
    return _TYPES.get(kind, f"[{kind}]")


def _be_quiet(wanted: bool) -> None:
    if wanted:
        set_verbosity(-1)


def _be_verbose(wanted: bool) -> None:
    if wanted:
        set_verbosity(1)
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


def _of_every_verb(
    quiet: Annotated[
        bool,
        typer.Option(
            "-q",
            "--quiet",
            callback=_be_quiet,
            expose_value=False,
            help="Print only results and errors.",
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "-v",
            "--verbose",
            callback=_be_verbose,
            expose_value=False,
            help="Print the log of libraries too, and where an error was raised.",
        ),
    ] = False,
) -> None:
    """Hold the options that every verb has."""


def _shared_options() -> list[Any]:
    only = typer.Typer(add_completion=False)
    only.command()(_of_every_verb)
    return list(typer.main.get_command(only).params)


app = typer.Typer(
    name="tell",
    cls=_Verbs,
    help="Adapt a language model with few labeled examples, and compare TELL with baselines.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: tell compare recipes/demo.yaml --out runs/demo",
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file in YAML.")]
AdapterFolder = Annotated[
    Path, typer.Argument(metavar="ADAPTER", help="Output folder of `tell fit`.")
]
ModelFolder = Annotated[
    Path, typer.Argument(metavar="ADAPTER", help="Output folder of `tell fit`, or a merged model.")
]
MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer in tokens.")]
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
        typer.Option(
            metavar="MODULE", help="Load a module that adds methods, levers, metrics or formats."
        ),
    ] = None,
    version: Annotated[  # noqa: ARG001 - its callback prints and exits
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    set_verbosity(0)
    for module in plugin or []:
        add_plugin(module)
    # Only `fit` shares its work among the processes of torchrun or `accelerate launch`.
    launched = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if launched and context.invoked_subcommand != "fit":
        raise RecipeError(
            f"`tell {context.invoked_subcommand}` runs in one process, unlike `tell fit`; start "
            "it without torchrun or accelerate (`tell study` can use a cluster: --ray)."
        )
