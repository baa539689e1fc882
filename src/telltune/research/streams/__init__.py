"""Streams of inputs: a cascade of models that learns when a cheap model is good enough."""

from telltune.research.streams.cascade import Cascade, CascadeAnswer
from telltune.research.streams.levels import Level, LinearLevel
from telltune.research.streams.spec import CascadeSpec, LevelSpec, TopSpec

__all__ = [
    "Cascade",
    "CascadeAnswer",
    "CascadeSpec",
    "Level",
    "LevelSpec",
    "LinearLevel",
    "TopSpec",
]
