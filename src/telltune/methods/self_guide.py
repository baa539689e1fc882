"""SELF-GUIDE (arXiv 2407.12874): train on examples that the model makes from demonstrations.

The demonstrations stay in the prompt during and after training. The anchor is the instruction.
"""

from telltune.fitting.trained_method import Trained

__all__ = ["SELF_GUIDE"]

SELF_GUIDE = Trained(
    "self_guide",
    "SELF-GUIDE",
    anchored=True,
    mixes=False,
    sets=(("synthesis.use_as", "only"),),
)
