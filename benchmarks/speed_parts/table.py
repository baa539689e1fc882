"""The one table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """One thing compared.

    Attributes:
        name: What.
        ours: Our number.
        peer: What it is held against.
        ratio: ours / peer.
        goal: Such as ">= 4", of the ratio; "" where it is only for reference.
        unit: Of both numbers.
        note: Against what exactly, and what a reader should know.
        details: For JSON only, such as the answers that differ.
    """

    name: str
    ours: float | None
    peer: float | None
    goal: str
    unit: str
    note: str
    details: Any = None

    @property
    def ratio(self) -> float | None:
        """Ours to theirs."""
        if self.ours is None or not self.peer:
            return None
        return round(self.ours / self.peer, 3)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a number."""
        if not self.goal or self.ratio is None:
            return None
        sign, _, bound = self.goal.partition(" ")
        return self.ratio >= float(bound) if sign == ">=" else self.ratio <= float(bound)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self) | {"ratio": self.ratio, "met": self.met}
        order = ("name", "ours", "peer", "ratio", "goal", "met", "unit", "note", "details")
        return {k: values[k] for k in order if k != "details" or values[k] is not None}


def show(lines: list[Line]) -> None:
    """Print it."""
    print(
        f"\n{'what':60} {'ours':>9} {'peer':>9} {'ratio':>7} {'goal':>7} {'met':>4}  unit, against"
    )
    for line in lines:
        met = {True: "yes", False: "no", None: "-"}[line.met]
        print(
            f"{line.name:60} {_number(line.ours):>9} {_number(line.peer):>9} "
            f"{_number(line.ratio):>7} {line.goal or '-':>7} {met:>4}  {line.unit}; {line.note}"
        )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
