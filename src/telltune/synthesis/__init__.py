"""Task data that a model generates itself from a few demonstrations."""

from telltune.synthesis.self_guide import Synthetic, synthesize

__all__ = ["Synthetic", "synthesize"]
