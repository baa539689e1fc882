"""Count how often `find_jump` reports a jump on smooth curves, and on real jumps.

    python benchmarks/emergence.py   # 4 minutes on one core

Each simulated study has 5 to 8 sizes of general data (2 to 10-fold apart, the first is zero), 1 to
3 seeds, 100 to 400 items, and a rise of 15 to 70 points. Items differ in difficulty (a standard
deviation of 1.5 logits), and their difficulty differs between sizes (0.7). Seeds differ by 0.2
logits (some 4 points) if a study has several. Studies with a single seed, whose luck is not
visible, are measured separately.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest

from telltune.cli.console import print_table
from telltune.evaluation.metrics import mean_of
from telltune.study.statistics.emergence import find_jump

if TYPE_CHECKING:
    from collections.abc import Callable

    from telltune.evaluation.registry import Floats
    from telltune.study.statistics.resampling import Runs

    # A function from general tokens and a random generator to values from 0 to 1.
    Shape = Callable[[Floats, np.random.Generator], Floats]

RESULTS = Path(__file__).with_suffix(".json")
TASK = 1e4
CURVES = 1000
DIFFICULTY = np.random.default_rng(0).normal(0, np.hypot(1.5, 0.7), 4000)
LOGITS = np.linspace(-14, 14, 561)
SHARES = (1 / (1 + np.exp(-(LOGITS[:, None] + DIFFICULTY)))).mean(axis=1)


def _logs(general: Floats) -> Floats:
    logs = np.log(TASK + general)
    share: Floats = (logs - logs[0]) / (logs[-1] - logs[0])
    return share


def _logistic(slope: float) -> Shape:
    def shape(general: Floats, rng: np.random.Generator) -> Floats:
        logs = np.log(TASK + general)
        return 1 / (1 + np.exp(-slope * (logs - rng.uniform(logs[0], logs[-1]))))

    return shape


def _exponential(general: Floats, rng: np.random.Generator) -> Floats:
    """Return a saturating curve: a rate per token between the smallest and largest size."""
    return 1 - np.exp(-general / np.exp(rng.uniform(*np.log(general[[1, -1]]))))


def _power(general: Floats, rng: np.random.Generator) -> Floats:
    return 1 - (1 + general / TASK) ** -rng.uniform(0.1, 1.5)


def _curved(general: Floats, rng: np.random.Generator) -> Floats:
    """Return a power of the share of log tokens: accelerating (above 1) or leveling off (below)."""
    return _logs(general) ** rng.uniform(0.4, 3)


def _skills(general: Floats, rng: np.random.Generator) -> Floats:
    """Return the mean of five skills, each a logistic curve with its own midpoint."""
    return np.mean([_logistic(2.0)(general, rng) for _ in range(5)], axis=0)


SMOOTH: dict[str, Shape] = {
    "flat": lambda general, _: np.zeros(len(general)),
    "linear in log tokens": lambda general, _: _logs(general),
    "power of log tokens": _curved,
    "power law": _power,
    "saturating exponential": _exponential,
    "logistic, slope 1": _logistic(1.0),
    "logistic, slope 2": _logistic(2.0),
    "five skills": _skills,
}


def _step(general: Floats, rng: np.random.Generator) -> Floats:
    """Return a jump with at least two sizes on each side."""
    return (np.arange(len(general)) >= rng.integers(2, len(general) - 1)).astype(float)


def _step_on_slope(general: Floats, rng: np.random.Generator) -> Floats:
    """Return a jump of four fifths of the rise; the rest is linear in log tokens."""
    return 0.8 * _step(general, rng) + 0.2 * _logs(general)


def study(
    shape: Shape, rng: np.random.Generator, *, rise: float | None, seeds: int, luck: float
) -> dict[float, Runs]:
    """Draw a study whose mean score follows the shape."""
    points = int(rng.integers(5, 9))
    factor = rng.choice([2.0, 3.0, 4.0, 10.0])
    general = np.concatenate([[0.0], TASK * factor ** np.arange(points - 1)])
    rise = float(rng.uniform(0.15, 0.7)) if rise is None else rise
    mean = rng.uniform(0.1, 0.95 - rise) + rise * shape(general, rng)
    items = int(rng.choice([100, 200, 400]))
    logits = (
        np.interp(mean, SHARES, LOGITS)[:, None, None]
        + rng.normal(0, 1.5, items)
        + rng.normal(0, 0.7, (points, 1, items))
        + rng.normal(0, luck, (points, seeds, 1))
    )
    right = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
    return {
        size: [mean_of(100.0 * run) for run in runs]
        for size, runs in zip(general.tolist(), right, strict=True)
    }


def called(
    shape: Shape, curves: int, *, rise: float | None = None, seeds: int | None = None
) -> dict[str, object]:
    """Count the shapes that `find_jump` reports for simulated studies.

    Args:
        seeds: Number of seeds, by default 1 to 3 at random. A given single seed has luck that the
            study cannot show.
    """
    rng = np.random.default_rng(0)
    found: Counter[str] = Counter()
    for number in range(curves):
        count = int(rng.integers(1, 4)) if seeds is None else seeds
        luck = 0.0 if count == 1 and seeds is None else 0.2
        runs = study(shape, rng, rise=rise, seeds=count, luck=luck)
        found[find_jump(runs, TASK, resamples=1000, seed=number).shape] += 1
    low, high = binomtest(found["jump"], curves).proportion_ci(method="wilson")
    return {
        "curves": curves,
        **{kind: found[kind] for kind in ("flat", "gradual", "jump")},
        "jump_share": round(found["jump"] / curves, 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }


def main() -> None:
    """Run all, and print the table."""
    result = {
        "smooth": {name: called(shape, CURVES) for name, shape in SMOOTH.items()},
        "one seed with unseen luck": {
            name: called(SMOOTH[name], CURVES, seeds=1)
            for name in ("flat", "linear in log tokens", "logistic, slope 2")
        },
        "beyond smooth": {"logistic, slope 4": called(_logistic(4.0), CURVES)},
        "jumps": {
            f"{name} of {100 * rise:.0f} points": called(shape, CURVES // 2, rise=rise, seeds=3)
            for name, shape in (("step", _step), ("step on a slope", _step_on_slope))
            for rise in (0.1, 0.2, 0.3, 0.4, 0.6)
        },
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    rows = [
        (
            name,
            str(row["curves"]),
            *(f"{100 * float(row[k]):.1f}" for k in ("jump_share", "low", "high")),
        )
        for part in result.values()
        for name, row in part.items()
    ]
    print_table("A jump is called, %", ("course", "curves", "share", "from", "to"), rows)


if __name__ == "__main__":
    main()
