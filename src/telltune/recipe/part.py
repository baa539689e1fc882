"""What every part of a recipe has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, field_validator

from telltune.masking import holds_secret

__all__ = ["Part", "short"]


class Part(BaseModel):
    """Nothing in it may be unknown, changed, infinite or secret."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        # Infinity is a float to YAML, and no setting.
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        """Recipes are written into outputs and reports: no secrets, and no half characters."""
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                continue
            if holds_secret(text):
                raise ValueError(
                    "holds a token or password, which would be written into every output; give "
                    "it in the environment (HF_TOKEN) and take it out here"
                )
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError("has half a character (a lone surrogate); write the whole one")
        return value


def short(key: str) -> BeforeValidator:
    """Let a plain string stand for a mapping with one key: `general: embedded`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)
