"""Supervised fine-tuning on the task data alone, and its variants."""

from telltune.fitting.trained_method import TrainedMethod

__all__ = ["SFT", "SFT_ANCHOR", "SFT_ANCHOR_STEPS", "SFT_PRODUCT", "SFT_PSEUDO_LABEL"]

SFT = TrainedMethod("sft", "SFT", anchored=False, uses_general=False)
SFT_ANCHOR = TrainedMethod("sft_anchor", "SFT + anchor", anchored=True, uses_general=False)
SFT_PSEUDO_LABEL = TrainedMethod(
    "sft_pseudo_label",
    "SFT with pseudo-labels",
    anchored=False,
    uses_general=False,
    overrides=(("pseudo_label", None),),
)
SFT_PRODUCT = TrainedMethod(
    "sft_product",
    "SFT, product of experts",
    anchored=False,
    uses_general=False,
    overrides=(("product_of_experts", None),),
)
# General data also add optimizer steps. This control separates the two effects.
SFT_ANCHOR_STEPS = TrainedMethod(
    "sft_anchor_steps",
    "SFT + anchor, TELL's steps",
    anchored=True,
    uses_general=True,
    equal_steps=True,
)
