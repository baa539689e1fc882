"""Base models, adapters, and the packed computation that training and scoring share."""

from telltune.models.loading import (
    BaseModel,
    base_revision,
    base_weights,
    check_named,
    compute_dtype,
    load_adapter,
    load_base,
    load_config,
    load_tokenizer,
    model_files,
    native_bf16,
    template_file,
    without_rights,
)
from telltune.models.shape import ModelShape, context_length, model_shape

__all__ = [
    "BaseModel",
    "ModelShape",
    "base_revision",
    "base_weights",
    "check_named",
    "compute_dtype",
    "context_length",
    "load_adapter",
    "load_base",
    "load_config",
    "load_tokenizer",
    "model_files",
    "model_shape",
    "native_bf16",
    "template_file",
    "without_rights",
]
