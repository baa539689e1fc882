"""Base models, adapters, and the packed computation that training and scoring share."""

from telltune.models.loading import (
    BaseModel,
    compute_dtype,
    context_length,
    load_adapter,
    load_base,
    load_config,
    load_tokenizer,
    native_bf16,
)

__all__ = [
    "BaseModel",
    "compute_dtype",
    "context_length",
    "load_adapter",
    "load_base",
    "load_config",
    "load_tokenizer",
    "native_bf16",
]
