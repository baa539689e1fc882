"""Supervised fine-tuning on the task data alone, and its variants."""

from telltune.fitting.trained_method import Trained

__all__ = ["SFT", "SFT_ANCHOR", "SFT_ANCHOR_STEPS", "SFT_PRODUCT", "SFT_PSEUDO_LABEL"]

SFT = Trained("sft", "SFT", anchored=False, mixes=False)
SFT_ANCHOR = Trained("sft_anchor", "SFT + anchor", anchored=True, mixes=False)
SFT_PSEUDO_LABEL = Trained(
    "sft_pseudo_label",
    "SFT with pseudo-labels",
    anchored=False,
    mixes=False,
    sets=(("pseudo_label", None),),
)
SFT_PRODUCT = Trained(
    "sft_product",
    "SFT, product of experts",
    anchored=False,
    mixes=False,
    sets=(("product_of_experts", None),),
)
# General data also add optimizer steps. This control separates the two effects.
SFT_ANCHOR_STEPS = Trained(
    "sft_anchor_steps",
    "SFT + anchor, TELL's steps",
    anchored=True,
    mixes=True,
    equal_steps=True,
)
