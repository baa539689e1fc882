"""What the parts read from measured rows."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any] | None


def quickest(tried: dict[Any, Result], measure: str = "tokens_per_second") -> Any:
    """The key of the row with the highest `measure`; None where none ran."""
    speeds = {key: row[measure] for key, row in tried.items() if measured(row)}
    return max(speeds, key=lambda key: speeds[key]) if speeds else None


def measured(row: Result) -> bool:
    """Whether a row is there and ran."""
    return row is not None and "error" not in row


def why_not(row: Result) -> str:
    """Why a row has no numbers, to put behind a note."""
    if row is None:
        return "; not measured"
    return f"; failed: {row['error']}" if "error" in row else ""


def rounded(value: float | None) -> float | None:
    """To four places, None left alone."""
    return None if value is None else round(value, 4)


def speed(row: Result) -> float | None:
    """Tokens a second, None where the row did not run."""
    return (row or {}).get("tokens_per_second")
