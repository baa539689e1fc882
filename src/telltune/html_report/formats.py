"""Number formats of reports."""

from __future__ import annotations

import math

from telltune.result_table import NOTHING, between


def score(value: float | None) -> str:
    """Format a score with one decimal, such as `54.2`."""
    return NOTHING if value is None or math.isnan(value) else _minus(f"{value:.1f}")


def signed(value: float) -> str:
    """Format a difference, such as `+4.2` or `−0.3`."""
    return _minus(f"{value:+.1f}")


def interval(low: float, high: float) -> str:
    """Format an interval, such as `48.0 to 60.3`."""
    return _minus(between(low, high))


def p_value(value: float) -> str:
    """Format a p-value, such as `0.012`, the precision of some thousand bootstrap draws."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def number(value: float) -> str:
    """Format a whole number, such as `12,345`."""
    return f"{value:,.0f}"


def loss(value: float) -> str:
    """Format a loss in nats, such as `2.413`."""
    return f"{value:.3f}"


def share(value: float) -> str:
    """Format a share of 1 as percent with one decimal."""
    return f"{_minus(f'{100 * value:.1f}')}%"


def duration(seconds: float) -> str:
    """Format a duration in a suitable unit, such as `42 s` or `3.1 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _minus(text: str) -> str:
    return text.replace("-", "−")


FORMATS = {
    each.__name__: each
    for each in (score, signed, interval, p_value, number, loss, share, duration)
}
"""Format functions by name, as filters of templates."""
