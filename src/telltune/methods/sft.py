"""Plain supervised fine-tuning on the task data: what peers do, and TELL's baseline."""

from telltune.methods.trained import Trained

__all__ = ["SFT", "SFT_ANCHOR"]

SFT = Trained("sft", "SFT", anchored=False, mixes=False)
SFT_ANCHOR = Trained("sft_anchor", "SFT + anchor", anchored=True, mixes=False)
