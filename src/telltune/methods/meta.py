"""Adaptation from a start that general data taught (arXiv 2303.02841, after 1908.10423)."""

from telltune.methods.trained import Trained

__all__ = ["META", "TELL_META"]

META = Trained(
    "meta",
    "SFT + anchor from a meta-learned start",
    anchored=True,
    mixes=True,
    # General data teach the start, and nothing of them is mixed in afterwards.
    sets=(("meta", None), ("mixture.general_examples", 0)),
)
TELL_META = Trained(
    "tell_meta",
    "TELL from a meta-learned start",
    anchored=True,
    mixes=True,
    sets=(("meta", None),),
)
