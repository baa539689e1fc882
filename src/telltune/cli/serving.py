"""Verbs that answer requests and streams: serve, chat and cascade."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from telltune.cli.app import AsJson, MaxNewTokens, ModelFolder, TrustModel, app
from telltune.cli.console import print_json, print_stream
from telltune.errors import RecipeError

_KEY = "TELLTUNE_API_KEY"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@app.command(
    epilog="Example: tell serve runs/mine --port 8000; or tell serve cascade.yaml --out "
    "runs/cascade"
)
def serve(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL",
            help="Output folders of `tell fit`, merged models, folders of cascades, or a cascade "
            "in YAML.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for what the cascade in YAML learns.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8000,
    max_batch: Annotated[
        int, typer.Option(min=1, help="Most requests to one model that are computed together.")
    ] = 128,
    trust_model: TrustModel = False,
    as_json: AsJson = False,
) -> None:
    """Answer requests in OpenAI's form, several at once.

    Each folder is a model of its name, and adapters of one base share its weights. A cascade learns
    from its largest model while it answers. Requests must carry the key in TELLTUNE_API_KEY if it
    is set.
    """
    _need_web_server("serve")
    from telltune.serving.server import Server, open_port

    # The port is tried before the models are loaded, which takes longer.
    with open_port(host, port) as opened, ExitStack() as stack:
        from telltune.serving.cascades import ServedCascade, cascade_folders, serve_cascade
        from telltune.serving.models import ServedModel, check_names, load_models
        from telltune.training.progress import phase

        cascades = cascade_folders(paths, out)
        check_names([cascades.get(path, path) for path in paths])
        with phase("loading the models", shown=not as_json):
            others = [path for path in paths if path not in cascades]
            models: list[ServedModel | ServedCascade] = [
                *load_models(others, most=max_batch, trust_model=trust_model),
                *(stack.enter_context(serve_cascade(*each)) for each in cascades.items()),
            ]
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{opened.getsockname()[1]}/v1"
        key = os.environ.get(_KEY) or None
        if as_json:
            print_json({"url": url, "models": {one.name: one.engine for one in models}})
        else:
            for one in models:
                typer.echo(f"{one.name}: {one.engine}.")
            typer.echo(f"Serving on {url}; Ctrl-C finishes open requests and ends.")
        if key is None and host not in _LOOPBACK:
            typer.echo(f"warning: anybody who reaches {host} may ask; set {_KEY}.", err=True)
        sys.stdout.flush()
        Server(models, key).run_on(opened)


@app.command(epilog="Example: tell ui experiments")
def ui(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder with data, recipes and runs.")
    ] = Path(),
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8765,
) -> None:
    """Work in the browser: check data, plan, fit, try prompts and read reports.

    The page can only be opened on this machine, at the address that is printed.
    """
    _need_web_server("ui")
    if not folder.is_dir():
        raise RecipeError(f"{folder} is not a folder; name the one with your data.")
    from telltune.serving.server import open_port

    with open_port("127.0.0.1", port) as opened:
        from telltune.ui import Workspace, serve_page

        token = secrets.token_urlsafe(16)
        typer.echo(f"Open http://127.0.0.1:{opened.getsockname()[1]}/?token={token}")
        typer.echo("Ctrl-C ends; a run that is going on ends with a checkpoint.")
        sys.stdout.flush()
        serve_page(Workspace(folder), opened, token)


@app.command(epilog='Example: tell chat runs/mine --system "Answer in one word."')
def chat(
    adapter: ModelFolder,
    system: Annotated[str | None, typer.Option(help="System turn of the conversation.")] = None,
    max_new_tokens: MaxNewTokens = None,
    trust_model: TrustModel = False,
) -> None:
    """Talk with an adapter in the terminal, or answer the lines of standard input in turn.

    `/reset` begins a new conversation, and `/exit` ends.
    """
    from telltune.serving.chat import chat as talk
    from telltune.serving.models import load_models
    from telltune.training.progress import phase

    with phase("loading the model"):
        [model] = load_models([adapter], most=1, trust_model=trust_model)
    talk(model, _lines(), _write, system=system, max_new_tokens=max_new_tokens)


def _need_web_server(verb: str) -> None:
    if not all(map(find_spec, ("fastapi", "uvicorn", "prometheus_client"))):
        raise RecipeError(f"`tell {verb}` needs a web server: pip install 'telltune[serve]'.")


def _write(text: str) -> None:
    typer.echo(text, nl=False)
    sys.stdout.flush()


def _lines() -> Iterator[str]:
    """Yield the lines of standard input; a person at a terminal is prompted for each."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    import readline  # noqa: F401 - gives `input` a history

    while True:
        try:
            yield input("> ")
        except EOFError:
            typer.echo()
            return


@app.command(
    epilog="Example: tell cascade recipes/cascade.yaml --stream tickets.jsonl --out runs/cascade; "
    "called again, it resumes and also answers rows added to the stream."
)
def cascade(
    file: Annotated[Path, typer.Argument(metavar="CASCADE", help="Cascade file in YAML.")],
    stream: Annotated[
        Path,
        typer.Option(help="JSONL file with `text` and, optionally, `label` to measure accuracy."),
    ],
    out: Annotated[Path, typer.Option(help="Output folder for decisions.jsonl, state and report.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for further rows until interrupted (Ctrl-C).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Answer each input with the cheapest sufficient model, and learn from the largest."""
    from telltune.recipe import read_yaml

    read_yaml(file, "cascade")  # before the slow import of PyTorch
    from telltune.research.streams.stream import DECISIONS, run_stream

    report = run_stream(file, stream, out, follow=follow, progress=not as_json)
    if as_json:
        print_json({"out": str(out / DECISIONS), **asdict(report)})
    else:
        print_stream(report)
