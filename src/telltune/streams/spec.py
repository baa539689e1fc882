"""What a cascade is made of, as a YAML file says it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from telltune.errors import RecipeError
from telltune.recipe import explain, read_yaml
from telltune.recipe.part import Part

if TYPE_CHECKING:
    from telltune.streams.cascade import Cascade, Rung
    from telltune.streams.levels import Level
    from telltune.streams.top import Top

__all__ = ["CascadeSpec", "load_cascade", "make_cascade"]


class LevelSpec(Part):
    """One level below the top."""

    kind: Literal["linear", "encoder", "adapter"]
    """Hashed words, a small transformer that learns, or the folder of `tell fit`, be it of an
    adapter or of a baseline."""
    path: str | None = Field(default=None, validate_default=True)
    """Of the encoder or the adapter."""
    cache: PositiveInt = 8
    """Labelled inputs that make an update."""
    decay: float = Field(default=0.97, gt=0, lt=1)
    """γ: after so many updates the level acts with chance 1 - γ^updates."""
    calibration: float = Field(default=0.4, gt=0, lt=1)
    """How much deferring is wanted where the level is right."""

    @field_validator("path")
    @classmethod
    def _is_for_models(cls, path: str | None, info: ValidationInfo) -> str | None:
        if (path is None) != (info.data.get("kind") == "linear"):
            raise ValueError("an encoder and an adapter have one, a linear level has none")
        return path


class TopSpec(Part):
    """The model that labels what the levels hand on."""

    endpoint: str | None = None
    """Of a server with OpenAI's chat completions, up to and with `/v1`."""
    model: str = "embedded"
    """The server's name for it, or a base model here."""
    adapter: str | None = None
    """The folder of `tell fit`, in place of a base model here."""
    timeout: PositiveFloat = 30.0
    """Seconds that a call to the server may take; it is tried twice."""
    key_variable: str | None = None
    """The environment variable that holds the server's key."""


class CascadeSpec(Part):
    """A cascade.

    Example:
        ```yaml
        labels: [billing, shipping, returns]
        instruction: "You route support tickets. Name the team, nothing else."
        levels:
          - {kind: linear}
          - {kind: adapter, path: runs/tickets, cache: 16, decay: 0.95}
        top: {endpoint: "http://localhost:8000/v1", model: large}
        ```
    """

    labels: list[str] = Field(min_length=2)
    """What an input may be."""
    instruction: str = "Name the label of the input, nothing else."
    """The top's system turn."""
    levels: list[LevelSpec] = Field(min_length=1)
    """From the cheapest up."""
    top: TopSpec
    price: PositiveFloat = 0.5
    """μ: what a call to the top may cost, in nats of prediction loss."""
    seed: int = Field(default=0, ge=0, lt=2**32)


def load_cascade(path: str | Path) -> CascadeSpec:
    """Read a cascade's file.

    Raises:
        RecipeError: What is wrong with it, by key.
    """
    try:
        return CascadeSpec.model_validate(read_yaml(Path(path), "cascade"))
    except ValidationError as error:
        told = "; ".join(explain(error, CascadeSpec, "cascade"))
        raise RecipeError(f"{path}: {told}.") from None


def make_cascade(spec: CascadeSpec) -> Cascade:
    """Load its models.

    Raises:
        RecipeError: The variable with the server's key is not set.
        ModelError: A model cannot be loaded.
    """
    from telltune.streams.cascade import Cascade

    rungs = [_rung(level, spec) for level in spec.levels]
    return Cascade(spec.labels, rungs, _top(spec), price=spec.price, seed=spec.seed)


def _rung(level: LevelSpec, spec: CascadeSpec) -> Rung:
    from telltune.streams.cascade import Rung
    from telltune.streams.levels import LinearLevel
    from telltune.streams.models import EncoderLevel, fitted_level

    made: Level
    if level.kind == "linear":
        made = LinearLevel(len(spec.labels))
    elif level.kind == "encoder":
        made = EncoderLevel(str(level.path), len(spec.labels), seed=spec.seed)
    else:
        made = fitted_level(Path(str(level.path)), spec.labels)
    return Rung(made, level.cache, level.decay, level.calibration)


def _top(spec: CascadeSpec) -> Top:
    from telltune.streams.top import Endpoint, local_model

    top = spec.top
    if top.endpoint is None:
        return local_model(top.model, top.adapter, spec.labels, spec.instruction)
    key = ""
    if top.key_variable is not None:
        key = os.environ.get(top.key_variable, "")
        if not key:
            raise RecipeError(
                f"top.key_variable: {top.key_variable} is not set in the environment; set it, or "
                "leave the key out for a server that wants none."
            )
    return Endpoint(
        top.endpoint, top.model, spec.labels, spec.instruction, timeout=top.timeout, key=key
    )
