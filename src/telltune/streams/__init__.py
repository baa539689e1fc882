"""Inputs without end: a cascade of models that learns when the cheap ones are enough."""

from telltune.streams.cascade import Cascade, Decision

__all__ = ["Cascade", "Decision"]
