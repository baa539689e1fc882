"""Token-Efficient Leverage Learning (arXiv 2404.00914): anchor, extensive shuffle, LoRA."""

from telltune.methods.trained import Trained

__all__ = ["TELL"]

TELL = Trained("tell", "TELL", anchored=True, mixes=True)
