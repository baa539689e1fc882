"""The command line: a verb a function, which parses, calls the API and prints."""

from __future__ import annotations

import sys
import warnings

import typer

from telltune.cli import (  # noqa: F401  (each adds its verbs)
    data,
    diagnosis,
    runs,
    scores,
    streams,
    studies,
)
from telltune.cli.app import app
from telltune.errors import TellError
from telltune.outputs import guard_outputs

__all__ = ["main"]


def main() -> None:
    """Run the command line; what the user can mend is one sentence and exit code 2."""
    guard_outputs()
    if not sys.warnoptions:
        # What transformers will rename one day is for us to mend, not for who runs a recipe.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app()
    except TellError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
