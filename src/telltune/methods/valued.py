"""TELL that asks what its examples are worth: chosen, ordered or weighed task and general data."""

from telltune.methods.trained import Trained

__all__ = ["TELL_VALUED"]


def _tell(name: str, label: str, *sets: tuple[str, object]) -> Trained:
    return Trained(f"tell_{name}", f"TELL, {label}", anchored=True, mixes=True, sets=sets)


# Scored by models trained on the other examples (arXiv 2110.08420).
_PVI = ("selection.by", "pvi")
# After LESS (arXiv 2402.04333).
_NEAREST = ("general_choice.take", "nearest")

TELL_VALUED = (
    _tell("easy_first", "easy first by PVI", _PVI, ("selection.order", "easy_first")),
    _tell("hard_first", "hard first by PVI", _PVI, ("selection.order", "hard_first")),
    # A fifth is the middle of what was published (arXiv 2501.09631).
    _tell("without_easiest", "without 20% of highest PVI", _PVI, ("selection.drop_easiest", 0.2)),
    _tell("without_hardest", "without 10% of lowest PVI", _PVI, ("selection.drop_hardest", 0.1)),
    # Facts that the base says sometimes (arXiv 2409.15825).
    _tell(
        "half_known",
        "facts of memory levels 1 to 3",
        ("selection.by", "memory"),
        ("selection.levels", (1, 2, 3)),
    ),
    # By MT-ISA (arXiv 2412.09046), as are the next two.
    _tell("trusting", "loss scaled by confidence from PVI", ("confidence.by", "pvi")),
    _tell("alf1", "weights of sources learned (ALF1)", ("training.source_weights", "alf1")),
    _tell("alf2", "weights of sources learned (ALF2)", ("training.source_weights", "alf2")),
    _tell("nearest", "general data nearest by embeddings", _NEAREST),
    _tell(
        "nearest_gradients",
        "general data nearest by gradients",
        _NEAREST,
        ("general_choice.by", "gradients"),
    ),
    _tell("diverse", "general data most varied", ("general_choice.take", "diverse")),
    _tell("pseudo_label", "with pseudo-labels", ("pseudo_label", None)),
    _tell("product", "x a small classifier", ("product_of_experts", None)),
    _tell("self_guide", "beside task data that the model made", ("synthesis.use_as", "task")),
    _tell(
        "auxiliary",
        "beside auxiliary tasks, weights learned (ALF2)",
        ("synthesis.make", "auxiliary"),
        ("confidence.by", "column"),
        ("training.source_weights", "alf2"),
    ),
)
