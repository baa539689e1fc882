"""Streams of inputs: a cascade of models that learns when a cheap model is good enough."""

from telltune.research.streams.cascade import Cascade, Decision, Rung
from telltune.research.streams.levels import Level, LinearLevel
from telltune.research.streams.spec import CascadeSpec, LevelSpec, TopSpec, make_cascade

__all__ = [
    "Cascade",
    "CascadeSpec",
    "Decision",
    "Level",
    "LevelSpec",
    "LinearLevel",
    "Rung",
    "TopSpec",
    "make_cascade",
]
