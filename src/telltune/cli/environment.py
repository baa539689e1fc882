"""Verbs that describe this installation: its environment, and the keys of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from telltune.cli.app import AsJson, app
from telltune.cli.console import print_json


@app.command(epilog="Example: tell env --json")
def env(as_json: AsJson = False) -> None:
    """Print versions, hardware, caches and extras, for a bug report."""
    from telltune.environment import environment

    found = environment()
    if as_json:
        print_json(found)
        return
    cpu, memory = found["cpu"], found["memory"]
    typer.echo(f"telltune {found['telltune']}, Python {found['python']}, {found['platform']}")
    typer.echo(f"packages: {_listed(found['packages'])}")
    for extra, versions in found["extras"].items():
        typer.echo(f"{extra}: {_listed(versions)}")
    typer.echo(f"CPU: {cpu['name']}, {cpu['usable']:g} of {cpu['cores']} cores usable")
    typer.echo(f"memory: {memory['available']} of {memory['total']} GiB available")
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory']} GiB)" for gpu in found["gpus"])
    typer.echo(f"GPU: {gpus or 'none'}, CUDA {found['cuda'] or 'not in this PyTorch'}")
    for name, cache in found["caches"].items():
        typer.echo(f"cache of {name}: {cache['folder']} ({cache['size']} GiB)")
    settings = ", ".join(f"{name}={value}" for name, value in found["settings"].items())
    typer.echo(f"settings: {settings or 'none'}")


def _listed(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {found or 'not installed'}" for name, found in versions.items())


@app.command(
    name="config-schema", epilog="Example: tell config-schema recipe --out recipe.schema.json"
)
def config_schema(
    kind: Annotated[
        Literal["recipe", "study"], typer.Argument(metavar="KIND", help="`recipe` or `study`.")
    ] = "recipe",
    out: Annotated[Path | None, typer.Option(help="File for the schema.")] = None,
    as_json: AsJson = False,  # noqa: ARG001 - a schema is always JSON
) -> None:
    """Print the JSON Schema of recipes or studies, with which editors complete their keys.

    An editor with the YAML language server reads it if the first line of a recipe is:
    # yaml-language-server: $schema=recipe.schema.json
    """
    import json

    from telltune.recipe.json_schema import json_schema

    if kind == "recipe":
        from telltune.recipe import Recipe

        schema = json_schema(Recipe)
    else:
        from telltune.study.spec import StudySpec

        schema = json_schema(StudySpec)
    text = json.dumps(schema, indent=2, ensure_ascii=False)
    if out is None:
        typer.echo(text)
        return
    from telltune.storage import write_text

    write_text(out, f"{text}\n")
    typer.echo(f"The schema is in {out}.")
