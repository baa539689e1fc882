"""Numbers as a report shows them."""

from __future__ import annotations

import math

__all__ = [
    "FORMATS",
    "duration",
    "interval",
    "loss",
    "number",
    "p_value",
    "score",
    "share",
    "signed",
]

NOTHING = "–"


def score(value: float | None) -> str:
    """One decimal, such as `54.2`."""
    return NOTHING if value is None or math.isnan(value) else _minus(f"{value:.1f}")


def signed(value: float) -> str:
    """A difference, such as `+4.2` or `−0.3`."""
    return _minus(f"{value:+.1f}")


def interval(low: float, high: float) -> str:
    """Such as `48.0 to 60.3`."""
    return NOTHING if math.isnan(low) or math.isnan(high) else f"{score(low)} to {score(high)}"


def p_value(value: float) -> str:
    """Such as `0.012`; bootstraps of some thousand draws tell no more."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def number(value: float) -> str:
    """Such as `12,345`."""
    return f"{value:,.0f}"


def loss(value: float) -> str:
    """In nats, such as `2.413`."""
    return f"{value:.3f}"


def share(value: float) -> str:
    """A part of 1, in percent with a decimal."""
    return f"{_minus(f'{100 * value:.1f}')}%"


def duration(seconds: float) -> str:
    """In the unit that suits it, such as `42 s` or `3.1 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _minus(text: str) -> str:
    return text.replace("-", "−")


FORMATS = {
    each.__name__: each
    for each in (score, signed, interval, p_value, number, loss, share, duration)
}
"""By name, for templates."""
