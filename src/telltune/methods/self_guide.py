"""SELF-GUIDE (arXiv 2407.12874): train on examples that the model makes from demonstrations.

The demonstrations stay in the prompt during and after training. The anchor is the instruction.
"""

from telltune.fitting.trained_method import TrainedMethod

__all__ = ["SELF_GUIDE"]

SELF_GUIDE = TrainedMethod(
    "self_guide",
    "SELF-GUIDE",
    anchored=True,
    uses_general=False,
    overrides=(("synthesis.use_as", "only"),),
)
