"""Verbs that answer requests and streams: serve, chat and cascade."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from telltune.cli.app import AsJson, MaxNewTokens, ModelFolder, TrustModel, app
from telltune.cli.console import print_json, print_note, print_stream, print_warnings
from telltune.errors import ModelError, RecipeError

_KEY = "TELLTUNE_API_KEY"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_BATCH = 128


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
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of requests to one model that are computed together; by default "
            "128, or what vLLM chooses.",
        ),
    ] = None,
    engine: Annotated[
        Literal["auto", "packed", "vllm"],
        typer.Option(
            help="`packed` is telltune's own, and `vllm` starts vLLM's server instead. `auto` is "
            "`vllm` on a GPU where vLLM is installed and gives the same answers, else `packed`."
        ),
    ] = "auto",
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
        others = [path for path in paths if path not in cascades]
        name = f"[{host}]" if ":" in host else host
        number = opened.getsockname()[1]
        url = f"http://{name}:{number}/v1"
        key = os.environ.get(_KEY) or None
        command = None
        if engine != "packed":
            command = _vllm_command(others, engine, alone=not cascades, trust_model=trust_model)
        if command is not None:
            opened.close()  # vLLM opens it
            _announce(url, {path.resolve().name: "vLLM" for path in others}, as_json=as_json)
            _warn_of_strangers(host, key)
            more = [] if max_batch is None else ["--max-num-seqs", str(max_batch)]
            # Without a timeout, vLLM aborts open requests at a signal.
            more += ["--shutdown-timeout", "600", "--host", host, "--port", str(number)]
            _become([*command, *more], key)
        with phase("loading the models", shown=not as_json):
            models: list[ServedModel | ServedCascade] = [
                *load_models(others, most=max_batch or _MAX_BATCH, trust_model=trust_model),
                *(stack.enter_context(serve_cascade(*each)) for each in cascades.items()),
            ]
        _announce(url, {one.name: one.engine for one in models}, as_json=as_json)
        _warn_of_strangers(host, key)
        Server(models, key).run_on(opened)


def _announce(url: str, engines: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json({"url": url, "models": engines})
    else:
        for name, engine in engines.items():
            typer.echo(f"{name}: {engine}.")
        typer.echo(f"Serving on {url}; Ctrl-C finishes open requests and ends.")
    sys.stdout.flush()


def _warn_of_strangers(host: str, key: str | None) -> None:
    if key is None and host not in _LOOPBACK:
        typer.echo(f"warning: anybody who reaches {host} may ask; set {_KEY}.", err=True)


def _vllm_command(
    paths: list[Path], engine: str, *, alone: bool, trust_model: bool
) -> list[str] | None:
    """Return the command of vLLM's server, or None if telltune's own server is to answer.

    Args:
        paths: Adapters and merged models.
        engine: `vllm`, or `auto` to use vLLM only for the same answers on a GPU.
        alone: Whether no cascade is served beside them.
        trust_model: As in `tell evaluate`.

    Raises:
        TellError: The engine is `vllm`, which is not installed, or cannot serve all of them.
    """
    beside = str(Path(sys.executable).parent)
    program = shutil.which("vllm", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if engine == "auto":
        import torch

        if program is None or not alone or not torch.cuda.is_available():
            return None
    if program is None:
        raise RecipeError("--engine vllm needs vLLM: pip install 'telltune[vllm]'.")
    if not alone:
        raise RecipeError("--engine vllm: only telltune's own engine serves a cascade.")
    from telltune.exporting.vllm import vllm_command

    try:
        command, differences = vllm_command(paths, trust_model=trust_model)
    except ModelError as error:
        if engine == "vllm":
            raise
        command, differences = [], [str(error)]
    if engine == "auto" and differences:
        print_warnings([f"vLLM is not used: {told}" for told in differences])
        return None
    print_warnings(differences)
    return [program, *command[1:]]


def _become(command: list[str], key: str | None) -> NoReturn:
    """Run a server of vLLM in place of this process, which then gets its signals and status."""
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
    # In the environment, because all users of a machine can read the arguments of a process.
    asked = {} if key is None else {"VLLM_API_KEY": key}
    print_note(shlex.join(command))
    os.execve(command[0], command, quiet | dict(os.environ) | asked)  # noqa: S606


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
    from telltune.research.streams.spec import load_cascade

    load_cascade(file)  # before the slow import of PyTorch
    from telltune.research.streams.stream import DECISIONS, run_stream

    report = run_stream(file, stream, out, follow=follow, progress=not as_json)
    if as_json:
        print_json({"out": str(out / DECISIONS), **asdict(report)})
    else:
        print_stream(report)
