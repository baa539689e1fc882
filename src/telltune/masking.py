"""Masking of secrets in messages and files: hub tokens, and passwords in addresses."""

from __future__ import annotations

import os
import re

MASK = "***"

# Each match is a secret as a whole. Hub tokens have 34 letters and digits.
_SECRETS = (
    re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}"),
    # https://name:password@host and https://token@host.
    re.compile(r"(?<=://)[^\s/@]+(?=@)"),
    # Parameters of signed addresses: ?token=, &X-Amz-Signature=, &sig=.
    re.compile(
        r"(?<=[?&])((?:[\w-]*(?:token|secret|signature|password|credential)|api_?key|sig)=)[^\s&#]+",
        re.IGNORECASE,
    ),
)
# Environment variables from which huggingface_hub reads a token.
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST = 8


def holds_secret(text: str) -> bool:
    """Return whether a text contains a hub token, or an address with a password or token."""
    return masked(text) != text


def masked(text: str) -> str:
    """Return a text with every secret replaced by `***`.

    Besides the known patterns, the values of the variables from which the hub client reads its
    token are secrets.
    """
    for secret in filter(None, map(os.environ.get, _VARIABLES)):
        # A short value would also match unrelated words.
        if len(secret) >= _SHORTEST:
            text = text.replace(secret, MASK)
    for pattern in _SECRETS:
        text = pattern.sub(_mask, text)
    return text


def _mask(found: re.Match[str]) -> str:
    """Mask a secret, but keep the name of its parameter if there is one."""
    return (found[1] if found.re.groups else "") + MASK
