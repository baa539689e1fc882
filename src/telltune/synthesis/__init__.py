"""Task data that a model makes itself, from a handful of demonstrations."""

from telltune.synthesis.self_guide import Synthetic, synthesize

__all__ = ["Synthetic", "synthesize"]
