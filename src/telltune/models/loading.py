"""Loading of base models and adapters, and the sizes of a model."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from telltune.errors import ModelError
from telltune.hub import download_model
from telltune.models.files import (
    explained,
    fingerprint,
    has_only_pickles,
    hush_transformers,
    locate,
    only_pickle,
    where_from,
)
from telltune.models.threads import watch_load
from telltune.models.tokenizer import check_vocabulary, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from telltune.recipe import ModelSpec, Recipe

# PEFT imports it if it is installed. On a CPU it logs hints about kernels that are not needed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
"""Names of PEFT's files in an adapter folder."""


@dataclass
class LoadedModel:
    """A loaded base model, shared by all methods that run on it.

    Attributes:
        model: Frozen causal language model, without adapters or with those of `load_adapter`.
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
    # A missing model is told before transformers is imported, which takes seconds.
    folder = locate(spec)
    import torch
    from transformers import AutoModelForCausalLM

    import_peft()
    hush_transformers()
    keep_freed_memory()
    watch_load()
    load_config(spec)
    if not spec.allow_pickle and has_only_pickles(Path(folder)):
        raise only_pickle(spec)
    dtype = torch.float32 if trainable else compute_dtype(precision)
    with explained(spec):
        if not Path(folder).exists():
            download_model(folder, spec.revision, pickles=spec.allow_pickle)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            low_cpu_mem_usage=True,
            use_safetensors=None if spec.allow_pickle else True,
            **_quantized(spec, dtype),
            **where_from(spec),
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


def load_base_of(recipe: Recipe) -> LoadedModel:
    """Load the base of a recipe as its training needs it; see `load_base`."""
    settings = recipe.training
    return load_base(recipe.model, settings.precision, trainable=settings.full_parameters)


def base_revision(spec: ModelSpec) -> str:
    """Return the `revision` that `load_base` would set, without loading the weights.

    Raises:
        ModelError: As in `load_config`.
    """
    return _revision(spec, load_config(spec), locate(spec))


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

    with explained(spec):
        config = AutoConfig.from_pretrained(locate(spec), **where_from(spec))
    architectures = config.architectures or []
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    if not spec.trust_remote_code and architectures and not known.intersection(architectures):
        raise ModelError(
            f"model `{spec.name}` is a {architectures[0]}, not a causal language model; name a "
            "decoder such as `HuggingFaceTB/SmolLM2-135M-Instruct`."
        )
    return config


def import_peft() -> None:
    """Import PEFT without bitsandbytes, of which PEFT itself only uses functions for later.

    Importing bitsandbytes takes seconds, because it prepares functions for `torch.compile`.
    """
    found = find_spec("bitsandbytes")
    if found is None or {"peft", "bitsandbytes"} & sys.modules.keys():
        return
    stub = sys.modules["bitsandbytes"] = ModuleType("bitsandbytes")
    stub.__spec__ = found  # PEFT sees that bitsandbytes is installed.
    try:
        import peft  # noqa: F401
    finally:
        del sys.modules["bitsandbytes"]


@contextmanager
def without_bitsandbytes(model: Any) -> Iterator[None]:
    """Keep PEFT from importing bitsandbytes for the layers of a model that is not quantized."""
    from peft.tuners.lora import model as lora

    names = ("is_bnb_available", "is_bnb_4bit_available")
    before = {name: getattr(lora, name) for name in names}
    if not getattr(model, "is_quantized", False):
        vars(lora).update(dict.fromkeys(names, lambda: False))
    try:
        yield
    finally:
        vars(lora).update(before)


def load_adapter(base: LoadedModel, folder: Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load an adapter folder onto its base model; its chat template includes the anchor.

    A base that already has adapters gets one more, which becomes the active one.

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
        with without_bitsandbytes(base.model):
            if isinstance(base.model, PeftModel):
                model, name = base.model, f"adapter_{len(base.model.peft_config)}"
                model.load_adapter(folder, name)
                model.set_adapter(name)
            else:
                model = PeftModel.from_pretrained(base.model, folder)
        # If unset, transformers asks on the terminal whether to run the folder's code.
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
    except Exception as error:  # as in `explained`
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{folder}: the adapter cannot be loaded: {reason}.") from None
    tokenizer.template_name = f"the chat template of {folder}"
    return model, tokenizer


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


def _revision(spec: ModelSpec, config: Any, folder: str) -> str:
    """Return the hub commit or a local fingerprint, plus the quantization if there is one."""
    commit: str | None = getattr(config, "_commit_hash", None)
    found = commit or fingerprint(Path(folder))
    return found if spec.quantization is None else f"{found}+{spec.quantization}"


# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory in this process, and return whether it accepted.

    By default, glibc maps every tensor above a few megabytes from the kernel and returns it
    afterwards, so its pages are zeroed each time. Training allocates thousands of tensors per
    step. On systems without glibc this function does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30) and mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))


_CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_length",
    "max_seq_len",
    "n_ctx",
    "seq_length",
    "model_max_length",
)
"""Names of the context length in configurations of transformers and of models with custom code."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a causal language model.

    Attributes:
        model_type: Name of the architecture in transformers.
        context_length: Longest sequence in tokens; see the function `context_length`.
        layers: Number of layers.
        hidden: Hidden size.
        mlp_width: Width of the hidden layer in each MLP; the mean if layers differ.
        vocabulary: Vocabulary size.
        layer_weights: Number of weights in all layers, without embeddings.
        sizes: All integers in the configuration by name, except token ids.
    """

    model_type: str
    context_length: int
    layers: int
    hidden: int
    mlp_width: int
    vocabulary: int
    layer_weights: int
    sizes: dict[str, int]


def model_shape(config: Any) -> ModelShape:
    """Return the sizes in a transformers configuration; means of those that differ by layer."""
    text = config.get_text_config()

    def size(name: str) -> int:
        value = getattr(text, name, None) or 0
        return round(sum(value) / len(value)) if isinstance(value, list | tuple) else value

    layers, hidden = text.num_hidden_layers, text.hidden_size
    # Without attention (Mamba), the mixer is assumed to be as large as one full-width head.
    heads = size("num_attention_heads") or 1
    width = size("head_dim") or hidden // heads
    key_heads = size("num_key_value_heads") or heads
    attention = hidden * width * (2 * heads + 2 * key_heads)
    mlp_width = size("intermediate_size") or 4 * hidden
    gated = getattr(text, "hidden_act", "") in ("silu", "swish", "gelu_pytorch_tanh")
    return ModelShape(
        model_type=config.model_type,
        context_length=context_length(config),
        layers=layers,
        hidden=hidden,
        mlp_width=mlp_width,
        vocabulary=text.vocab_size,
        layer_weights=layers * (attention + (3 if gated else 2) * hidden * mlp_width),
        # Token ids are integers too, but they are not sizes.
        sizes={
            key: value
            for key, value in sorted(text.to_dict().items())
            if type(value) is int and not key.endswith("token_id")
        },
    )


def context_length(config: Any, unnamed: int = sys.maxsize) -> int:
    """Return the longest sequence that the model was made for, in tokens.

    State-space models and some others have no limit. For these it is `unnamed`.
    """
    text = config.get_text_config()
    # XLNet's -1 means that there is no limit.
    lengths = (getattr(text, name, None) for name in _CONTEXT_NAMES)
    return next((n for n in lengths if isinstance(n, int) and n > 0), unnamed)
