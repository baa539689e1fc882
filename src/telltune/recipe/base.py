"""Base class of the parts of a recipe, and the settings that may be `auto`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationInfo,
    field_validator,
)

from telltune.masking import secret_in
from telltune.recipe.validation_messages import NUMBER

T = TypeVar("T", int, float)

_Auto = Annotated[Literal["auto"], Tag("auto")]
_KIND = Discriminator(lambda value: "auto" if value == "auto" else NUMBER)
AutoInt = Annotated[Annotated[PositiveInt, Tag(NUMBER)] | _Auto, _KIND]
"""Positive integer or `auto`; see `telltune.training.defaults`."""
AutoFloat = Annotated[Annotated[PositiveFloat, Tag(NUMBER)] | _Auto, _KIND]
"""Positive number or `auto`; see `telltune.training.defaults`."""


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

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false in place of numbers, which pydantic would read as 1 and 0."""
        types = _types_in(cls.model_fields[str(info.field_name)].annotation)
        if bool in types or not {int, float} & types:
            return value
        inner = list(value.values()) if isinstance(value, dict) else value
        for one in inner if isinstance(inner, list | tuple) else [inner]:
            if isinstance(one, bool):
                raise ValueError(f"must be a number, and `{str(one).lower()}` is none")
        return value

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


def _types_in(annotation: Any) -> set[Any]:
    """Return the types that a type such as `list[int] | None` consists of."""
    inner = get_args(annotation)
    return set().union(*map(_types_in, inner)) if inner else {annotation}


def short(key: str) -> BeforeValidator:
    """Return a validator that turns a string into a mapping with one key: `general: embedded`."""

    def read(value: Any) -> Any:
        if not isinstance(value, str | dict | BaseModel | None):
            raise ValueError(f"must be text (put it in quotes) or a mapping with `{key}`")
        return {key: value} if isinstance(value, str) else value

    return BeforeValidator(read)


def as_number(value: T | Literal["auto"]) -> T:
    """Return a setting as a number, after `telltune.training.defaults.resolve` was called."""
    assert value != "auto"
    return value
