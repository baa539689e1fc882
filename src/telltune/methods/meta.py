"""Adaptation from meta-learned initial weights (arXiv 2303.02841, after 1908.10423)."""

from telltune.fitting.trained_method import TrainedMethod

__all__ = ["META", "TELL_META"]

META = TrainedMethod(
    "meta",
    "SFT + anchor from a meta-learned start",
    anchored=True,
    uses_general=True,
    # General data are used to learn the initial weights only, and are not mixed in.
    overrides=(("meta", None), ("mixture.general_examples", 0)),
)
TELL_META = TrainedMethod(
    "tell_meta",
    "TELL from a meta-learned start",
    anchored=True,
    uses_general=True,
    overrides=(("meta", None),),
)
