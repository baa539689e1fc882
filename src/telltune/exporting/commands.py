"""Shell commands that serve or convert a model with other programs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from telltune.errors import ModelError, RecipeError
from telltune.fitting.model_card import is_whole_model
from telltune.models import ADAPTER_CONFIG

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank (`MaxLoRARanks` in vllm/config/lora.py)."""

_WRITTEN = ("f32", "f16", "bf16", "q8_0")
"""Types that convert_hf_to_gguf.py writes."""
_QUANTIZED = (
    *("q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_0", "q4_1", "q4_k_s", "q4_k_m"),
    *("q5_0", "q5_1", "q5_k_s", "q5_k_m", "q6_k"),
)
"""Types that llama-quantize makes of an f16 file."""


def vllm_command(folder: Path, record: dict[str, Any]) -> str:
    """Return the command that serves an adapter or a whole model with vLLM.

    Raises:
        ModelError: The adapter cannot be read, or is of a kind or rank that vLLM does not serve.
    """
    from telltune.inference.vllm_engine import beyond_vllm

    here = str(folder.resolve())
    custom = ["--trust-remote-code"] if record["recipe"]["model"]["trust_remote_code"] else []
    if is_whole_model(record):
        return shlex.join(["vllm", "serve", here, *custom])
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / ADAPTER_CONFIG} cannot be read: {error}.") from None
    beyond = beyond_vllm(config)
    if beyond:
        raise ModelError(
            f"{folder} uses {', '.join(beyond)}, which vLLM does not support in adapters; merge it "
            "(`tell export --merge`)."
        )
    rank = config["r"]
    allowed = next((one for one in _RANKS if one >= rank), None)
    if allowed is None:
        raise ModelError(
            f"{folder} has rank {rank}, but vLLM serves ranks up to {_RANKS[-1]}; merge it "
            "(`tell export --merge`)."
        )
    revision = ["--revision", config["revision"]] if config.get("revision") else []
    return shlex.join(
        [
            *("vllm", "serve", config["base_model_name_or_path"], *revision, *custom),
            *("--enable-lora", "--lora-modules", f"{folder.resolve().name}={here}"),
            *("--max-lora-rank", str(allowed)),
            # vLLM takes the chat template, with the anchor, and the end of an answer from these.
            *("--tokenizer", here, "--generation-config", here),
        ]
    )


def check_gguf_type(kind: str) -> None:
    """Refuse a type that llama.cpp does not make.

    Raises:
        RecipeError: The type is unknown.
    """
    if kind.lower() not in _WRITTEN + _QUANTIZED:
        raise RecipeError(
            f"--gguf {kind}: llama.cpp makes {', '.join(_WRITTEN + _QUANTIZED)}; choose one."
        )


def gguf_commands(folder: Path, kind: str) -> list[str]:
    """Return the commands of llama.cpp that write a model folder as a GGUF file beside it."""
    kind = kind.lower()
    written = kind if kind in _WRITTEN else "f16"
    here = folder.resolve()
    file, final = (here.with_name(f"{here.name}-{one}.gguf") for one in (written, kind))
    convert = ["python", "llama.cpp/convert_hf_to_gguf.py", str(here)]
    commands = [shlex.join([*convert, "--outfile", str(file), "--outtype", written])]
    if final != file:
        commands.append(shlex.join(["llama-quantize", str(file), str(final), kind.upper()]))
    return commands
