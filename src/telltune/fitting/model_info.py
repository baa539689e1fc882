"""Model facts that a plan needs, cached under a hash of the model's files.

The cache avoids importing transformers and loading the tokenizer. Both take longer than the rest of
a plan whose data are already encoded.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from telltune.data.fingerprint import file_hash
from telltune.data.tokenizer import KnownTokenizer, tokenizing_code
from telltune.models import (
    Layers,
    ModelShape,
    check_vocabulary,
    layers_of,
    load_config,
    load_tokenizer,
    model_files,
    model_shape,
    template_file,
)
from telltune.storage import cache_folder, read_cached_json, write_json
from telltune.version import VERSION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from telltune.recipe import ModelSpec


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a causal language model that is not loaded.

    Attributes:
        shape: Sizes of the model.
        tokenizer: Tokenizer with the model's own chat template.
        layers: Layers that an adapter can target; None if only loading the model shows them.
    """

    shape: ModelShape
    tokenizer: KnownTokenizer
    layers: Layers | None = None

    @classmethod
    def of(cls, config: Any, tokenizer: PreTrainedTokenizerBase) -> ModelInfo:
        """Return the facts from a loaded configuration and tokenizer."""
        return cls(model_shape(config), KnownTokenizer.of(tokenizer))


def load_model_info(spec: ModelSpec) -> ModelInfo:
    """Return the facts about a recipe's model without loading its weights.

    Raises:
        ModelError: The model does not exist, is not a causal language model, or has no embedding
            for some tokens of its tokenizer. A cached model has passed these checks.
    """
    fingerprint = _fingerprint(spec)
    if fingerprint is None:
        return _looked_at(spec)
    memory = cache_folder("known") / f"{fingerprint}.json"
    remembered = read_cached_json(memory)
    if isinstance(remembered, dict) and "layers" in remembered:
        load = cache(partial(load_tokenizer, spec))
        return ModelInfo(
            ModelShape(**remembered["shape"]),
            KnownTokenizer(**remembered["tokenizer"], load=load),
            remembered["layers"] and Layers(**remembered["layers"]),
        )
    model = _looked_at(spec)
    # The facts are not cached if a file was changed or downloaded while it was read.
    if _fingerprint(spec) == fingerprint:
        tokenizer = {
            "identity": model.tokenizer.identity,
            "chat_template": model.tokenizer.chat_template,
        }
        layers = model.layers and asdict(model.layers)
        write_json(memory, {"shape": asdict(model.shape), "tokenizer": tokenizer, "layers": layers})
    return model


def _looked_at(spec: ModelSpec) -> ModelInfo:
    tokenizer, config = load_tokenizer(spec), load_config(spec)
    check_vocabulary(tokenizer, config.get_text_config().vocab_size, spec.name)
    return replace(ModelInfo.of(config, tokenizer), layers=layers_of(spec))


def _fingerprint(spec: ModelSpec) -> str | None:
    """Return a hash of everything that determines the facts; None if that needs loading."""
    files = model_files(spec)
    if files is None:
        return None
    digest = hashlib.sha256(f"{VERSION}|{tokenizing_code()}|{spec.model_dump_json()}".encode())
    template = template_file(spec)
    for file in files if template is None else [*files, template]:
        content = file_hash(file)
        if content is None:
            return None
        digest.update(f"{file.name}\n{content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]
