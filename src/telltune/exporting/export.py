"""Export of an adapter: a merged model, files and commands for other programs, or the hub."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from telltune.errors import ModelError, RecipeError, StorageError
from telltune.exporting.answers import (
    SameAnswers,
    compare_answers,
    lost_answers,
    lost_prompts,
)
from telltune.exporting.gguf import check_gguf_type, gguf_commands
from telltune.exporting.merge import merge_adapter
from telltune.exporting.ollama import (
    imports_safetensors,
    ollama_command,
    turn_texts,
    write_modelfile,
)
from telltune.exporting.vllm import vllm_command
from telltune.fitting.adapter_folder import read_tell, refuse_damaged
from telltune.fitting.baseline_folder import is_baseline
from telltune.fitting.model_card import is_whole_model
from telltune.models import load_tokenizer
from telltune.recipe import ModelSpec
from telltune.training.progress import phase

Target = Literal["merge", "gguf", "ollama", "vllm", "push"]


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        out: Folder of the merged model or the Modelfile, or address on the hub; None if nothing
            was written.
        commands: Shell commands to run next, in order.
        answers: Comparison of the merged model with the adapter; None if no model was written.
        warnings: Parts that the export lacks, and ways in which it may differ; one sentence each.
    """

    out: str | None = None
    commands: tuple[str, ...] = ()
    answers: SameAnswers | None = None
    warnings: tuple[str, ...] = ()


def export(
    adapter: str | Path,
    target: Target,
    out: str | Path | None = None,
    *,
    gguf_type: str = "f16",
    repo: str | None = None,
    private: bool = True,
    trust_model: bool = False,
    progress: bool = True,
) -> Exported:
    """Export an adapter to other programs.

    A merged model is asked prompts of the task, and its answers are compared with the adapter's.

    Args:
        adapter: Output folder of `fit`, or a merged model.
        target: `merge` writes a whole model that transformers loads. `gguf` and `ollama` do the
            same; `gguf` returns the commands of llama.cpp that convert it, and `ollama` adds a
            Modelfile. `vllm` returns the command that serves the adapter. `push` uploads the folder
            to the Hugging Face hub.
        out: Output folder of the whole model. None for `vllm` and `push`, and for an `adapter` that
            is a whole model.
        gguf_type: Type of the GGUF file, such as `f16` or `q8_0`.
        repo: Repository on the hub, as OWNER/NAME.
        private: Whether a new repository on the hub is private.
        trust_model: As in `evaluate`.
        progress: Whether to show progress.

    Raises:
        TellError: The folder is a baseline, or cannot be exported to this target.

    Examples:
        >>> done = telltune.export("runs/adapter", "merge", "runs/merged", progress=False)
        >>> telltune.predict("runs/merged", ["Where is my parcel?"]) == telltune.predict(
        ...     "runs/adapter", ["Where is my parcel?"]
        ... )
        True
    """
    if target not in get_args(Target):
        raise RecipeError(f"`{target}` is no target of an export; give one of {get_args(Target)}.")
    folder, out = Path(adapter), None if out is None else Path(out)
    record = read_tell(folder)
    if is_baseline(record):
        raise ModelError(
            f"{folder} is a baseline, which has no language model to export; `tell predict` and "
            "`tell cascade` answer with it."
        )
    if target in ("vllm", "push"):
        if out is not None:
            raise RecipeError(f"--out: `tell export --{target}` writes no files; leave it out.")
        if target == "vllm":
            # The command is only printed, so the user sees what it would trust.
            command, warnings = vllm_command([folder], trust_model=True)
            return Exported(commands=(shlex.join(command),), warnings=tuple(warnings))
        refuse_damaged(folder, record["files"])
        if not repo:
            raise RecipeError("--push: name the repository on the hub: OWNER/NAME.")
        with phase("uploading", shown=progress):
            return Exported(push(folder, repo, private=private))
    if target == "gguf":
        check_gguf_type(gguf_type)
    elif target == "ollama":
        # A template that Ollama cannot express is refused before the model is merged.
        turn_texts(load_tokenizer(ModelSpec(name=str(folder.resolve()))))
    model, answers = _whole_model(
        folder, record, target, out, trust_model=trust_model, progress=progress
    )
    warnings = [*lost_answers(record), *lost_prompts(record)]
    if answers is not None:
        warnings += _differences(answers)
    commands: tuple[str, ...] = ()
    if target == "gguf":
        commands = tuple(gguf_commands(model, gguf_type))
    elif target == "ollama":
        write_modelfile(model, _answer_tokens(record))
        commands = (ollama_command(model),)
        if not imports_safetensors(model):
            warnings.append(
                "Ollama does not read this architecture from safetensors; make a GGUF file "
                f"(`tell export {shlex.quote(str(model))} --gguf f16`) and name it in the "
                "Modelfile, after FROM."
            )
    return Exported(str(model), commands, answers, tuple(warnings))


def _whole_model(
    folder: Path,
    record: dict[str, Any],
    target: Target,
    out: Path | None,
    *,
    trust_model: bool,
    progress: bool,
) -> tuple[Path, SameAnswers | None]:
    """Return the folder of a whole model, merged if necessary, and how it answers then."""
    if is_whole_model(record):
        if target == "merge" or out is not None:
            raise RecipeError(
                f"{folder} is a whole model and is used as it is; leave out "
                f"{'--merge' if target == 'merge' else '--out'}."
            )
        refuse_damaged(folder, record["files"])
        return folder, None
    if out is None:
        raise RecipeError("--out is missing: name a new folder for the merged model.")
    with phase("merging", shown=progress):
        merge_adapter(folder, out, lost=lost_answers(record), trust_model=trust_model)
    with phase("comparing answers", shown=progress):
        return out, compare_answers(folder, out, trust_model=trust_model)


def push(folder: Path, repo: str, *, private: bool = True) -> str:
    """Upload a folder to a model repository, which is created if it does not exist.

    The token is the one that huggingface_hub finds: `HF_TOKEN`, or the one of `hf auth login`.

    Raises:
        StorageError: The hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            ignore_patterns=[".*"],
            commit_message="Upload by telltune",
        )
    # The hub client raises many types of exceptions, its own and those of HTTP libraries.
    except Exception as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in (401, 403):
            reason = "set HF_TOKEN to a token that may write there"
        elif status == 404:
            reason = "check the owner and the name"
        else:
            lines = str(error).strip().splitlines()
            reason = (lines[0] if lines else type(error).__name__).rstrip(".")
        told = f" (HTTP {status})" if status else ""
        raise StorageError(f"{folder} cannot be pushed to {repo}{told}: {reason}.") from None
    return str(address)


def _answer_tokens(record: dict[str, Any]) -> int:
    return int(record["recipe"]["evaluation"]["max_new_tokens"] or record["answer_tokens"])


def _differences(answers: SameAnswers) -> list[str]:
    if not answers.asked:
        return ["The answers were not compared, because the task data cannot be read here."]
    return [answers.difference] if answers.difference else []
