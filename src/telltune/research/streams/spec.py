"""Configuration of a cascade, read from a YAML file."""

from __future__ import annotations

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
from telltune.inference.api_client import api_client
from telltune.recipe import ApiSpec, explain, read_yaml
from telltune.recipe.base import ConfigModel
from telltune.research.streams.cascade import PUBLISHED_INPUTS, PolicyName

if TYPE_CHECKING:
    from telltune.research.streams.cascade import Cascade, Rung
    from telltune.research.streams.levels import Level
    from telltune.research.streams.top import Top

__all__ = ["CascadeSpec", "LevelSpec", "TopSpec", "load_cascade", "make_cascade"]


class LevelSpec(ConfigModel):
    """One level below the top model."""

    kind: Literal[
        "linear",
        "tfidf_linear",
        "tfidf_em",
        "encoder_linear",
        "encoder_centroid",
        "encoder_em",
        "encoder",
        "adapter",
    ]
    """Model of the level: hashed words, a baseline that is refitted to the top model's labels, a
    small transformer that learns, or a `tell fit` folder (of an adapter or a baseline)."""
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
    policy: PolicyName = "learned"
    """Who answers: deferral networks and random draws (`learned`), thresholds on confidence that
    keep the promised agreement (`threshold`), or those of them that cost least (`cost_aware`)."""
    agreement: float = Field(default=0.98, gt=0, lt=1)
    """Promised share of inputs whose answer is the top model's (`threshold`, `cost_aware`)."""
    price: PositiveFloat = 0.5
    """μ: price of a call to the top model, in nats of prediction loss (policy `learned`)."""
    inputs: PositiveInt | None = None
    """Expected number of inputs of the stream, to which γ is scaled. By default, the number of
    lines of the stream's file at the first call."""
    seed: int = Field(default=0, ge=0, lt=2**32)


def load_cascade(path: str | Path) -> CascadeSpec:
    """Read a cascade from its YAML file.

    Raises:
        RecipeError: The file cannot be read or is invalid; the message names the keys.
    """
    try:
        return CascadeSpec.model_validate(read_yaml(Path(path), "cascade"))
    except ValidationError as error:
        told = "; ".join(explain(error, CascadeSpec, "cascade"))
        raise RecipeError(f"{path}: {told}.") from None


def make_cascade(spec: CascadeSpec, inputs: int = PUBLISHED_INPUTS) -> Cascade:
    """Load the models of a cascade.

    Args:
        spec: The configuration.
        inputs: Expected number of inputs of the stream, if the configuration has none.

    Raises:
        RecipeError: The variable with the server's key is not set, or a baseline knows none of the
            labels.
        ModelError: A model cannot be loaded.
    """
    from telltune.research.streams.cascade import Cascade

    rungs = [_rung(level, spec) for level in spec.levels]
    return Cascade(
        spec.labels,
        rungs,
        _top(spec),
        policy=spec.policy,
        agreement=spec.agreement,
        price=spec.price,
        inputs=spec.inputs or inputs,
        seed=spec.seed,
    )


def _rung(level: LevelSpec, spec: CascadeSpec) -> Rung:
    from telltune.research.streams.cascade import Rung
    from telltune.research.streams.heads import HeadLevel
    from telltune.research.streams.levels import LinearLevel
    from telltune.research.streams.models import EncoderLevel, fitted_level

    made: Level
    if level.kind == "linear":
        made = LinearLevel(len(spec.labels))
    elif level.kind == "encoder":
        made = EncoderLevel(str(level.path), len(spec.labels), seed=spec.seed)
    elif level.kind == "adapter":
        made = fitted_level(Path(str(level.path)), spec.labels)
    else:
        made = HeadLevel(level.kind, len(spec.labels))
    return Rung(made, level.cache, level.decay, level.calibration, level.cost)


def _top(spec: CascadeSpec) -> Top:
    from telltune.research.streams.top import Endpoint, local_model

    top = spec.top
    if top.teacher is not None:
        return Endpoint(api_client(top.teacher), spec.labels, spec.instruction)
    return local_model(top.model, top.adapter, spec.labels, spec.instruction)
