"""Command line. Each verb is a function that parses arguments, calls the API and prints."""

from __future__ import annotations

import sys
import traceback
import warnings

import typer

from telltune.cli import (  # noqa: F401  (each registers its verbs)
    data,
    diagnosis,
    environment,
    exports,
    runs,
    scores,
    serving,
    start,
    studies,
)
from telltune.cli.app import app
from telltune.errors import TellError
from telltune.outputs import guard_outputs, verbosity

__all__ = ["main"]


def main() -> None:
    """Run the command line. A `TellError` is printed as one sentence, with exit code 2."""
    guard_outputs()
    if not sys.warnoptions:
        # Deprecations in transformers concern the developers of telltune, not its users.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app()
    except TellError as error:
        if verbosity() > 0:
            traceback.print_exc()
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
