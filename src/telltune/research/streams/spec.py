"""Configuration of a cascade: typed settings, also read from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from telltune.errors import RecipeError
from telltune.recipe import ApiSpec, explain, read_yaml
from telltune.recipe.base import ConfigModel

PUBLISHED_INPUTS = 25_000
"""Number of inputs of the published IMDB stream."""
HeadKind = Literal["tfidf_linear", "tfidf_em", "encoder_linear", "encoder_centroid", "encoder_em"]


class LevelSpec(ConfigModel):
    """One level below the top model."""

    kind: Literal["linear", "encoder", "adapter"] | HeadKind
    """Model of the level: hashed words, a small transformer that learns, a `tell fit` folder (of an
    adapter or a baseline), or a baseline that is refitted to the top model's labels."""
    path: str | None = Field(default=None, validate_default=True)
    """Path of the encoder or of the `tell fit` folder."""
    cache: PositiveInt = 8
    """Number of labeled inputs per update."""
    decay: float | None = Field(default=None, gt=0, lt=1)
    """γ: after n updates the level may answer with probability 1 - γ^n (policy `learned`). By
    default, the probability is 95% when the top model has labeled a tenth of the stream."""
    calibration: float = Field(default=0.4, gt=0, lt=1)
    """Target deferral probability where the level is right (policy `learned`)."""
    cost: PositiveFloat | None = None
    """Cost of an input relative to a call of the top model. By default, measured in seconds."""

    @field_validator("path")
    @classmethod
    def _is_for_models(cls, path: str | None, info: ValidationInfo) -> str | None:
        if (path is not None) != (info.data.get("kind") in ("encoder", "adapter")):
            raise ValueError("required for `encoder` and `adapter`, not allowed for other kinds")
        return path


class TopSpec(ConfigModel):
    """Top model, which labels the inputs that no level answers."""

    teacher: ApiSpec | None = None
    """Model behind an API, used in place of a local model."""
    model: str = "embedded"
    """Name of a local base model."""
    adapter: str | None = None
    """Folder of `tell fit`, used in place of a local base model."""


class CascadeSpec(ConfigModel):
    """Configuration of a cascade.

    Example:
        ```yaml
        labels: [billing, shipping, returns]
        instruction: "You route support tickets. Name the team, nothing else."
        levels:
          - {kind: linear}
          - {kind: adapter, path: runs/tickets, cache: 16, decay: 0.95}
        top: {teacher: {url: "http://localhost:8000/v1", model: large}}
        ```
    """

    labels: list[str] = Field(min_length=2)
    """Possible labels of an input."""
    instruction: str = "Name the label of the input, nothing else."
    """System message for the top model."""
    levels: list[LevelSpec] = Field(min_length=1)
    """Levels below the top model, from the cheapest up."""
    top: TopSpec
    policy: Literal["learned", "threshold", "cost_aware"] = "learned"
    """Who answers: deferral networks and random draws (`learned`), thresholds on confidence that
    keep the promised agreement (`threshold`), or those of them that cost least (`cost_aware`)."""
    agreement: float = Field(default=0.98, gt=0, lt=1)
    """Promised share of inputs whose answer is the top model's (`threshold`, `cost_aware`)."""
    price: PositiveFloat = 0.5
    """μ: price of a call to the top model, in nats of prediction loss (policy `learned`)."""
    inputs: PositiveInt | None = None
    """Expected number of inputs of the stream, to which γ is scaled. By default, the number of
    lines of the stream's file at the first call, or 25,000 without a file."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the random draws and of the initial weights."""

    @field_validator("labels")
    @classmethod
    def _are_different(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) != len(labels):
            raise ValueError("each label must be listed once")
        return labels


AnyCascade = CascadeSpec | str | Path | Mapping[str, Any]
"""Cascade argument: the settings, the path of a YAML file, or a mapping of keys."""


def as_cascade(cascade: AnyCascade) -> CascadeSpec:
    """Return the settings of a cascade.

    Raises:
        RecipeError: The settings are invalid; the message names the keys.
    """
    if isinstance(cascade, CascadeSpec):
        return cascade
    if isinstance(cascade, Mapping):
        return _checked(cascade, "cascade")
    return load_cascade(cascade)


def load_cascade(path: str | Path) -> CascadeSpec:
    """Read a cascade from its YAML file.

    Raises:
        RecipeError: The file cannot be read or is invalid; the message names the keys.
    """
    return _checked(read_yaml(Path(path), "cascade"), str(path))


def _checked(values: Mapping[str, Any], name: str) -> CascadeSpec:
    try:
        return CascadeSpec.model_validate(values)
    except ValidationError as error:
        told = "; ".join(explain(error, CascadeSpec, "cascade"))
        raise RecipeError(f"{name}: {told}.") from None
