"""Token-Efficient Leverage Learning (arXiv 2404.00914): anchor, extensive shuffle, LoRA.

The others are its controls: each takes one part of it away.
"""

from telltune.methods.trained import Trained
from telltune.recipe import Order

__all__ = ["GENERAL_ONLY", "MIX", "TELL", "TELL_BY_PVI", "TELL_ORDERS"]

_ORDERS: tuple[tuple[Order, str], ...] = (
    ("stratified", "stratified"),
    ("task_first", "task first"),
    ("general_first", "general first"),
)

TELL = Trained("tell", "TELL", anchored=True, mixes=True)
MIX = Trained("mix", "TELL without anchor", anchored=False, mixes=True)
GENERAL_ONLY = Trained(
    "general_only", "general data only, asked with anchor", anchored=True, mixes=True, learns=False
)
TELL_ORDERS = tuple(
    Trained(f"tell_{order}", f"TELL, {label}", anchored=True, mixes=True, order=order)
    for order, label in _ORDERS
)

# Leaving out the easiest fifth lies in the middle of what was published (arXiv 2501.09631).
_CHOICES: tuple[tuple[str, str, str, object], ...] = (
    ("easy_first", "easy first", "order", "easy_first"),
    ("hard_first", "hard first", "order", "hard_first"),
    ("without_easiest", "without the easiest 20%", "drop_easiest", 0.2),
    ("without_hardest", "without the hardest 10%", "drop_hardest", 0.1),
)
TELL_BY_PVI = tuple(
    Trained(
        f"tell_{name}",
        f"TELL, {label} by PVI",
        anchored=True,
        mixes=True,
        selects=(("by", "pvi"), (key, value)),
    )
    for name, label, key, value in _CHOICES
)
"""Examples scored by models trained on the others (arXiv 2110.08420)."""
