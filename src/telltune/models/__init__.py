"""Base models, adapters, and the packed computation shared by training and scoring."""

from telltune.models.files import base_weights, check_named, model_files
from telltune.models.loading import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    LoadedModel,
    ModelShape,
    base_revision,
    compute_dtype,
    context_length,
    load_adapter,
    load_base,
    load_base_of,
    load_config,
    model_shape,
    native_bf16,
    without_bitsandbytes,
    without_rights,
)
from telltune.models.origin import LOCAL, Origin, model_origin
from telltune.models.targets import (
    Layers,
    adapter_targets,
    layers_left_out,
    layers_of,
    named_layers,
)
from telltune.models.tokenizer import check_vocabulary, load_tokenizer, template_file

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "LOCAL",
    "Layers",
    "LoadedModel",
    "ModelShape",
    "Origin",
    "adapter_targets",
    "base_revision",
    "base_weights",
    "check_named",
    "check_vocabulary",
    "compute_dtype",
    "context_length",
    "layers_left_out",
    "layers_of",
    "load_adapter",
    "load_base",
    "load_base_of",
    "load_config",
    "load_tokenizer",
    "model_files",
    "model_origin",
    "model_shape",
    "named_layers",
    "native_bf16",
    "template_file",
    "without_bitsandbytes",
    "without_rights",
]
