"""The Hugging Face hub: whether it answers, and one line before a download.

Without a network, the hub's client retries each request for half a minute. A run makes several, so
the hub is asked once before: if it does not answer, only its cache on disk is used.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

from telltune.errors import ModelError

_SECONDS = 3.0
_AGAIN = 60.0
"""Seconds for which an answer, or the lack of one, holds."""

_asked_at = -math.inf
_silence = ""


def ask_hub() -> None:
    """Ask the hub for a sign of life, and work offline unless it gives one within 3 seconds.

    With HF_HUB_OFFLINE it is not asked. Any answer counts, also a refusal. A proxy or certificate
    that the hub's client uses is used here as well.
    """
    from huggingface_hub import constants, get_session

    global _asked_at, _silence
    known = time.monotonic() - _asked_at < _AGAIN
    if known or (constants.HF_HUB_OFFLINE and not _silence):
        return
    _set_offline(False)
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
        _silence = ""
    except Exception as error:  # exceptions of the HTTP client, of the network and of certificates
        reason = " ".join(str(error).split()) or type(error).__name__
        _silence = f"the hub ({constants.ENDPOINT}) does not answer ({reason})"
        _set_offline(True)
    _asked_at = time.monotonic()


def silence() -> str:
    """Return the reason why only the cache is used, or "" if the hub answered or was not asked."""
    return _silence


def is_cached(repo: str, revision: str | None) -> bool:
    """Return whether the configuration of a model is in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str)


def check_reachable(what: str, repo: str, revision: str | None, instead: str) -> None:
    """Ask the hub, and refuse a model that it cannot give and that is not in the cache.

    It takes seconds, where the hub's client would try again for minutes.

    Args:
        what: Description of the model for the message.
        repo: Hub id of the model.
        revision: Branch, tag or commit.
        instead: Advice to the user besides a look at the connection, in the imperative.

    Raises:
        ModelError: The hub does not answer, and the model is not in the cache.
    """
    ask_hub()
    if silence() and not is_cached(repo, revision):
        raise ModelError(
            f"{what} is not in the hub's cache on this machine, and {silence()}; check the "
            f"connection, or {instead}."
        )


def _set_offline(offline: bool) -> None:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = offline
    # `datasets` copies the value when it is imported.
    if copy := sys.modules.get("datasets.config"):
        vars(copy)["HF_HUB_OFFLINE"] = offline


def download_model(repo: str, revision: str | None, *, pickles: bool) -> None:
    """Download the files from which transformers loads a model, after a line that says how much.

    The hub's client retries, and continues files that an earlier download left half-finished. A
    model that is in the cache is not downloaded, and nothing is said.
    """
    from huggingface_hub import constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        return
    weights = ["model.safetensors", "model-*.safetensors", *(["pytorch_model*.bin"] * pickles)]
    what: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": ["*.json", "*.jinja", "*.txt", "*.model", *weights],
    }
    missing = [file for file in snapshot_download(repo, **what, dry_run=True) if file.will_download]
    if missing:
        size = sum(file.file_size for file in missing)
        files = "1 file" if len(missing) == 1 else f"{len(missing)} files"
        logging.getLogger(__name__).warning(
            "Downloading %s from the hub: %s, %s MB.", repo, files, f"{size / 1e6:,.1f}"
        )
        snapshot_download(repo, **what)
