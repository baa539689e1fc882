"""Functions that read measured rows."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any] | None


def quickest(tried: dict[Any, Result], measure: str = "tokens_per_second") -> Any:
    """Return the key of the row with the highest `measure`, or None if none ran."""
    speeds = {key: row[measure] for key, row in tried.items() if measured(row)}
    return max(speeds, key=lambda key: speeds[key]) if speeds else None


def measured(row: Result) -> bool:
    """Return whether a row exists and ran."""
    return row is not None and "error" not in row


def why_not(row: Result) -> str:
    """Return why a row has no numbers, as the end of a note."""
    if row is None:
        return "; not measured"
    return f"; failed: {row['error']}" if "error" in row else ""


def rounded(value: float | None) -> float | None:
    """Return a value rounded to four places, or None."""
    return None if value is None else round(value, 4)


def speed(row: Result) -> float | None:
    """Return tokens per second, or None if the row did not run."""
    return (row or {}).get("tokens_per_second")
