"""Methods that are a fit with some settings changed.

TELL is Token-Efficient Leverage Learning (arXiv 2404.00914): anchor, extensive shuffle, LoRA. Most
others are its controls, each without one part of TELL, or variants that select, order, weight or
add data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from telltune.fitting.trained_method import TrainedMethod

if TYPE_CHECKING:
    from telltune.recipe import Order

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
SFT_PSEUDO_LABEL_PRODUCT = TrainedMethod(
    "sft_pseudo_label_product",
    "SFT with pseudo-labels, product of experts",
    anchored=False,
    uses_general=False,
    overrides=(*SFT_PSEUDO_LABEL.overrides, *SFT_PRODUCT.overrides),
)
# General data also add optimizer steps. This control separates the two effects.
SFT_ANCHOR_STEPS = TrainedMethod(
    "sft_anchor_steps",
    "SFT + anchor, TELL's steps",
    anchored=True,
    uses_general=True,
    equal_steps=True,
)


_ORDERS: tuple[tuple[Order, str], ...] = (
    ("stratified", "stratified"),
    ("task_first", "task first"),
    ("general_first", "general first"),
)

TELL = TrainedMethod("tell", "TELL", anchored=True, uses_general=True)
MIX = TrainedMethod("mix", "TELL without anchor", anchored=False, uses_general=True)
GENERAL_ONLY = TrainedMethod(
    "general_only",
    "general data only, evaluated with anchor",
    anchored=True,
    uses_general=True,
    learns=False,
)
TELL_ORDERS = tuple(
    TrainedMethod(f"tell_{order}", f"TELL, {label}", anchored=True, uses_general=True, order=order)
    for order, label in _ORDERS
)


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


SELF_GUIDE = TrainedMethod(
    "self_guide",
    "SELF-GUIDE",
    anchored=True,
    uses_general=False,
    overrides=(("synthesis.use_as", "only"),),
)


def _tell(name: str, label: str, *overrides: tuple[str, object]) -> TrainedMethod:
    return TrainedMethod(
        f"tell_{name}", f"TELL, {label}", anchored=True, uses_general=True, overrides=overrides
    )


# Pointwise V-information, from models trained on the other examples (arXiv 2110.08420).
_PVI = ("selection.by", "pvi")
# After LESS (arXiv 2402.04333).
_NEAREST = ("general_choice.take", "nearest")

TELL_VALUED = (
    _tell("easy_first", "easy first by PVI", _PVI, ("selection.order", "easy_first")),
    _tell("hard_first", "hard first by PVI", _PVI, ("selection.order", "hard_first")),
    # 20% is the middle of the published range (arXiv 2501.09631).
    _tell("without_easiest", "without 20% of highest PVI", _PVI, ("selection.drop_easiest", 0.2)),
    _tell("without_hardest", "without 10% of lowest PVI", _PVI, ("selection.drop_hardest", 0.1)),
    # Facts that the base answers correctly some of the time (arXiv 2409.15825).
    _tell(
        "half_known",
        "facts of memory levels 1 to 3",
        ("selection.by", "memory"),
        ("selection.levels", (1, 2, 3)),
    ),
    # This method and the next two are from MT-ISA (arXiv 2412.09046).
    _tell("trusting", "loss scaled by confidence from PVI", ("confidence.by", "pvi")),
    _tell("alf1", "learned source weights (ALF1)", ("training.source_weights", "alf1")),
    _tell("alf2", "learned source weights (ALF2)", ("training.source_weights", "alf2")),
    _tell("nearest", "nearest general data by embeddings", _NEAREST),
    _tell(
        "nearest_gradients",
        "nearest general data by gradients",
        _NEAREST,
        ("general_choice.by", "gradients"),
    ),
    _tell("diverse", "most diverse general data", ("general_choice.take", "diverse")),
    _tell("pseudo_label", "with pseudo-labels", ("pseudo_label", None)),
    _tell("product", "product of experts", ("product_of_experts", None)),
    _tell(
        "pseudo_label_product",
        "with pseudo-labels, product of experts",
        ("pseudo_label", None),
        ("product_of_experts", None),
    ),
    _tell("self_guide", "with synthetic task data", ("synthesis.use_as", "task")),
    _tell(
        "auxiliary",
        "with auxiliary tasks, learned source weights (ALF2)",
        ("synthesis.make", "auxiliary"),
        ("confidence.by", "column"),
        ("training.source_weights", "alf2"),
    ),
)
