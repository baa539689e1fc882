"""What a plan needs to know of a model, remembered by the model's files.

To learn it, transformers has to be imported and the tokenizer loaded, which takes longer than all
the rest of a plan whose data are encoded already.
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

__all__ = ["KnownModel", "known_model"]


@dataclass(frozen=True)
class KnownModel:
    """A causal language model before it is loaded.

    Attributes:
        shape: Its sizes.
        tokenizer: With the model's own chat template.
        layers: What an adapter can go on; None where only loading the model can tell.
    """

    shape: ModelShape
    tokenizer: KnownTokenizer
    layers: Layers | None = None

    @classmethod
    def of(cls, config: Any, tokenizer: PreTrainedTokenizerBase) -> KnownModel:
        """One whose configuration and tokenizer are loaded already."""
        return cls(model_shape(config), KnownTokenizer.of(tokenizer))


def known_model(spec: ModelSpec) -> KnownModel:
    """What a recipe's model is, without its weights.

    Raises:
        ModelError: No such model, or not a causal language model, or a tokenizer with tokens that
            the model has no embedding for; a model that is remembered passed these checks.
    """
    fingerprint = _fingerprint(spec)
    if fingerprint is None:
        return _looked_at(spec)
    memory = cache_folder("known") / f"{fingerprint}.json"
    remembered = read_cached_json(memory)
    if isinstance(remembered, dict) and "layers" in remembered:
        load = cache(partial(load_tokenizer, spec))
        return KnownModel(
            ModelShape(**remembered["shape"]),
            KnownTokenizer(**remembered["tokenizer"], load=load),
            remembered["layers"] and Layers(**remembered["layers"]),
        )
    model = _looked_at(spec)
    # Unless a file was changed, or came from the hub, while they were read.
    if _fingerprint(spec) == fingerprint:
        tokenizer = {
            "identity": model.tokenizer.identity,
            "chat_template": model.tokenizer.chat_template,
        }
        layers = model.layers and asdict(model.layers)
        write_json(memory, {"shape": asdict(model.shape), "tokenizer": tokenizer, "layers": layers})
    return model


def _looked_at(spec: ModelSpec) -> KnownModel:
    tokenizer, config = load_tokenizer(spec), load_config(spec)
    check_vocabulary(tokenizer, config.get_text_config().vocab_size, spec.name)
    return replace(KnownModel.of(config, tokenizer), layers=layers_of(spec))


def _fingerprint(spec: ModelSpec) -> str | None:
    """A hash of all that decides what a model is; None where only loading it can tell."""
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
