"""Streams of inputs: a cascade of models that learns when a cheap model is good enough."""

from telltune.research.streams.cascade import Cascade, Decision

__all__ = ["Cascade", "Decision"]
