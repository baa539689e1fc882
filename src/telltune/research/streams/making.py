"""The models that a cascade's settings name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from telltune.inference.api_client import api_client
from telltune.research.streams.heads import HeadLevel
from telltune.research.streams.levels import Level, LinearLevel
from telltune.research.streams.models import EncoderLevel, FittedLevel
from telltune.research.streams.top import Endpoint, Top, local_model

if TYPE_CHECKING:
    from telltune.research.streams.spec import CascadeSpec, LevelSpec


def make_levels(spec: CascadeSpec) -> list[Level]:
    """Load the levels of a cascade.

    Raises:
        RecipeError: A folder of `tell fit` knows none of the labels.
        ModelError: A model cannot be loaded.
    """
    return [_level(level, spec) for level in spec.levels]


def make_top(spec: CascadeSpec) -> Top:
    """Load the top model of a cascade, or make its client.

    Raises:
        RecipeError: The variable with the server's key is not set.
        ModelError: The model cannot be loaded.
    """
    top = spec.top
    if top.teacher is not None:
        return Endpoint(api_client(top.teacher), spec.labels, spec.instruction)
    return local_model(top.model, top.adapter, spec.labels, spec.instruction)


def _level(level: LevelSpec, spec: CascadeSpec) -> Level:
    if level.kind == "linear":
        return LinearLevel(len(spec.labels))
    if level.kind == "encoder":
        return EncoderLevel(str(level.path), len(spec.labels), seed=spec.seed)
    if level.kind == "adapter":
        return FittedLevel(Path(str(level.path)), spec.labels)
    return HeadLevel(level.kind, len(spec.labels))
