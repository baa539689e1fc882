"""Verb that exports an adapter to other programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from telltune.cli.app import AsJson, ModelFolder, TrustModel, app
from telltune.cli.console import print_json, print_warnings
from telltune.errors import RecipeError

if TYPE_CHECKING:
    from telltune.exporting.export import Target


@app.command(
    epilog="Example: tell export runs/mine --merge --out runs/merged; tell export runs/mine --vllm"
)
def export(
    adapter: ModelFolder,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write a whole model that transformers loads.")
    ] = False,
    gguf: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Write a whole model, and print llama.cpp's commands for a GGUF file of this type "
            "(f16, q8_0, q4_k_m, ...).",
        ),
    ] = None,
    ollama: Annotated[
        bool, typer.Option("--ollama", help="Write a whole model with a Modelfile for Ollama.")
    ] = False,
    vllm: Annotated[
        bool, typer.Option("--vllm", help="Print the command that serves the adapter with vLLM.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Upload the folder to the Hugging Face hub, with the token in HF_TOKEN.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder of the whole model; new or empty.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository on the hub public.")
    ] = False,
    trust_model: TrustModel = False,
    as_json: AsJson = False,
) -> None:
    """Export an adapter: exactly one of --merge, --gguf, --ollama, --vllm and --push.

    A merged model is asked prompts of the task, and its answers are compared with the adapter's.
    """
    wanted: dict[Target, bool] = {
        "merge": merge,
        "gguf": gguf is not None,
        "ollama": ollama,
        "vllm": vllm,
        "push": push is not None,
    }
    targets = [target for target, given in wanted.items() if given]
    if len(targets) != 1:
        raise RecipeError(
            f"give exactly one of {', '.join(f'--{target}' for target in wanted)}, not "
            f"{len(targets)}."
        )
    if public and push is None:
        raise RecipeError("--public applies only to --push; leave it out.")
    from telltune.exporting.export import export as exported

    done = exported(
        adapter,
        targets[0],
        out,
        gguf_type=gguf or "f16",
        repo=push,
        private=not public,
        trust_model=trust_model,
        progress=not as_json,
    )
    if as_json:
        print_json({"adapter": str(adapter), "target": targets[0], **asdict(done)})
        return
    if done.out is not None:
        typer.echo(f"{'Pushed to' if push else 'Model in'} {done.out}.")
    if done.answers is not None and done.answers.asked:
        typer.echo(
            f"{done.answers.equal} of {done.answers.asked} prompts of the task have the same "
            "answer from the adapter and from this model.",
        )
    for command in done.commands:
        typer.echo(command)
    print_warnings(done.warnings)
