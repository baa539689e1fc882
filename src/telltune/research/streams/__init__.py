"""Streams of inputs: a cascade of models that learns when a cheap model is good enough."""

from telltune.research.streams.spec import CascadeSpec as CascadeSpec
from telltune.research.streams.spec import LevelSpec as LevelSpec
from telltune.research.streams.spec import TopSpec as TopSpec
