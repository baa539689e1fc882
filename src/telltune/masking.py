"""Secrets stay out of what telltune says and writes: hub tokens, and passwords in addresses."""

from __future__ import annotations

import os
import re

__all__ = ["holds_secret", "masked"]

MASK = "***"

# Each is a secret as a whole, wherever it stands. Tokens of the hub have 34 letters and digits.
_SECRETS = (
    re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    # https://name:password@host, and https://token@host.
    re.compile(r"(?<=://)[^\s/@]+(?=@)"),
    # What a signed address hands over: ?token=, &X-Amz-Signature=, &sig=.
    re.compile(
        r"(?<=[?&])((?:[\w-]*(?:token|secret|signature|password|credential)|api_?key|sig)=)[^\s&#]+",
        re.IGNORECASE,
    ),
)
# Where huggingface_hub looks for a token.
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST = 8


def holds_secret(text: str) -> bool:
    """Whether a text holds a hub token or an address with a password or token in it."""
    return masked(text) != text


def masked(text: str) -> str:
    """A text with `***` where a secret stood.

    Besides what looks like one, the values of the variables that the hub's client reads its token
    from are secrets, whatever they look like.
    """
    for secret in filter(None, map(os.environ.get, _VARIABLES)):
        # A short one would be found in words that have nothing to do with it.
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, MASK)
    for pattern in _SECRETS:
        text = pattern.sub(_mask, text)
    return text


def _mask(found: re.Match[str]) -> str:
    """The name that a secret is handed over by stays, if there is one."""
    return (found[1] if found.re.groups else "") + MASK
