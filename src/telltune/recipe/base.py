"""Base class of the parts of a recipe."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator

from telltune.masking import secret_in


class ConfigModel(BaseModel):
    """Part of a recipe: immutable, without unknown keys, infinite numbers or secrets."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        # YAML reads `.inf` as a float, which is not a valid setting.
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        """Refuse secrets and unpaired surrogates, since recipes are written to outputs."""
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                continue
            if secret := secret_in(text):
                what, instead = secret
                raise ValueError(
                    f"contains {what}, which would be written to every output; remove it: {instead}"
                )
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError("contains an unpaired surrogate; replace the character")
        return value


def short(key: str) -> BeforeValidator:
    """Return a validator that turns a string into a mapping with one key: `general: embedded`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)
