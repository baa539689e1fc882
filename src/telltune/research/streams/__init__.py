"""Streams of inputs: a cascade of models that learns when a cheap model is good enough."""

from telltune.research.streams.cascade import Cascade as Cascade
from telltune.research.streams.levels import Level as Level
from telltune.research.streams.levels import LinearLevel as LinearLevel
from telltune.research.streams.records import CascadeAnswer as CascadeAnswer
from telltune.research.streams.spec import CascadeSpec as CascadeSpec
from telltune.research.streams.spec import LevelSpec as LevelSpec
from telltune.research.streams.spec import TopSpec as TopSpec
