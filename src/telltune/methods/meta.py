"""Adaptation from meta-learned initial weights (arXiv 2303.02841, after 1908.10423)."""

from telltune.fitting.trained_method import Trained

__all__ = ["META", "TELL_META"]

META = Trained(
    "meta",
    "SFT + anchor from a meta-learned start",
    anchored=True,
    mixes=True,
    # General data are used to learn the initial weights only, and are not mixed in.
    sets=(("meta", None), ("mixture.general_examples", 0)),
)
TELL_META = Trained(
    "tell_meta",
    "TELL from a meta-learned start",
    anchored=True,
    mixes=True,
    sets=(("meta", None),),
)
