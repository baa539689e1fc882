"""Token-Efficient Leverage Learning (arXiv 2404.00914): anchor, extensive shuffle, LoRA.

The other methods are its controls, each without one part of TELL.
"""

from telltune.fitting.trained_method import TrainedMethod
from telltune.recipe import Order

__all__ = ["GENERAL_ONLY", "MIX", "TELL", "TELL_ORDERS"]

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
