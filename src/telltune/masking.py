"""Masking of secrets in messages and files: hub tokens, and passwords in addresses."""

from __future__ import annotations

import os
import re

MASK = "***"

# Each match is a secret behind its groups, which stay. Hub tokens have 34 letters and digits.
_HUB_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{20,}")
# https://name:password@host and https://token@host.
_IN_ADDRESS = re.compile(r"(://)[^\s/@]+(?=@)")
# Parameters of signed addresses: ?token=, &X-Amz-Signature=, &sig=.
_PARAMETER = re.compile(
    r"([?&])((?:[\w-]*(?:token|secret|signature|password|credential)|api_?key|sig)=)[^\s&#]+",
    re.IGNORECASE,
)
_SECRETS = (_HUB_TOKEN, _IN_ADDRESS, _PARAMETER)
_OF_API = "the key of an API belongs in the environment variable that `api_key_env` names"
# Environment variables from which huggingface_hub reads a token.
_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST = 8


def secret_in(text: str) -> tuple[str, str] | None:
    """Return the kind of the first secret in a text and where it belongs; None without a secret."""
    for name in _VARIABLES:
        if len(secret := os.environ.get(name, "")) >= _SHORTEST and secret in text:
            return f"the value of {name}", f"the variable {name} is sufficient"
    if _HUB_TOKEN.search(text):
        return "a Hugging Face token", "set HF_TOKEN in the environment"
    if _IN_ADDRESS.search(text):
        return "a password or token in an address", _OF_API
    if found := _PARAMETER.search(text):
        return f"a secret in an address (`{found[2]}...`)", _OF_API
    return None


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
    """Mask a secret, but keep what names it."""
    return "".join(found.groups()) + MASK
