"""Table of the comparison."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """Line of the table: one comparison.

    Attributes:
        name: Name of the quantity.
        ours: Number of telltune.
        peer: Number to compare with.
        ratio: ours / peer.
        goal: Goal for the ratio, such as ">= 4"; "" if the line is for reference only.
        unit: Unit of both numbers.
        note: Settings of the peer, and what a reader should know.
        details: Details for JSON only, such as the answers that differ.
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
        """Ratio of our number to the peer's."""
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
        """Return the line as a dictionary for JSON."""
        values = asdict(self) | {"ratio": self.ratio, "met": self.met}
        order = ("name", "ours", "peer", "ratio", "goal", "met", "unit", "note", "details")
        return {k: values[k] for k in order if k != "details" or values[k] is not None}


def show(lines: list[Line]) -> None:
    """Print the table."""
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
