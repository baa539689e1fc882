"""Token-Efficient Leverage Learning (arXiv 2404.00914): anchor, extensive shuffle, LoRA.

The other methods are its controls, each without one part of TELL.
"""

from telltune.fitting.trained_method import Trained
from telltune.recipe import Order

__all__ = ["GENERAL_ONLY", "MIX", "TELL", "TELL_ORDERS"]

_ORDERS: tuple[tuple[Order, str], ...] = (
    ("stratified", "stratified"),
    ("task_first", "task first"),
    ("general_first", "general first"),
)

TELL = Trained("tell", "TELL", anchored=True, mixes=True)
MIX = Trained("mix", "TELL without anchor", anchored=False, mixes=True)
GENERAL_ONLY = Trained(
    "general_only",
    "general data only, evaluated with anchor",
    anchored=True,
    mixes=True,
    learns=False,
)
TELL_ORDERS = tuple(
    Trained(f"tell_{order}", f"TELL, {label}", anchored=True, mixes=True, order=order)
    for order, label in _ORDERS
)
