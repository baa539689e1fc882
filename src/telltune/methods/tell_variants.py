"""Variants of TELL that select, order, weight or add task and general data."""

from telltune.fitting.trained_method import TrainedMethod

__all__ = ["TELL_VALUED"]


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
    _tell("self_guide", "with synthetic task data", ("synthesis.use_as", "task")),
    _tell(
        "auxiliary",
        "with auxiliary tasks, learned source weights (ALF2)",
        ("synthesis.make", "auxiliary"),
        ("confidence.by", "column"),
        ("training.source_weights", "alf2"),
    ),
)
