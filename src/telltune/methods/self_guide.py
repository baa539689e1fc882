"""SELF-GUIDE (arXiv 2407.12874): train on what the model makes of a few demonstrations.

The demonstrations themselves stay in the prompt, in training and afterwards; the anchor is the
instruction.
"""

from telltune.methods.trained import Trained

__all__ = ["SELF_GUIDE"]

SELF_GUIDE = Trained(
    "self_guide",
    "SELF-GUIDE",
    anchored=True,
    mixes=False,
    sets=(("synthesis.use_as", "only"),),
)
