"""Reading a training log back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOG", "WEIGHT", "loss_curve", "read_log"]

LOG = "training_log.jsonl"
"""Name of a run's log in its folder."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a training_log.jsonl but for what a kill cut short; none if there is no log."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows


WEIGHT = "weight_"
"""Opens the name of a source's learned weight, in the log and in a curve."""


def loss_curve(path: Path, points: int = 60) -> dict[str, list[float | None]]:
    """How the loss of each source went, and its weight where that was learned; for a chart.

    Args:
        path: A training_log.jsonl.
        points: At most so many; each is the mean over the steps that it stands for.

    Returns:
        `step` (the last that a point stands for), and for each source that was trained on (`task`,
        `general`) the mean negative log-likelihood a response token; None where no step had any.
        Learned weights stand under `weight_` and the source's name.
    """
    rows = read_log(path)
    parts = [part.tolist() for part in np.array_split(np.arange(len(rows)), min(points, len(rows)))]
    curve: dict[str, list[float | None]] = {"step": [rows[part[-1]]["step"] for part in parts]}
    weights = dict.fromkeys(name for row in rows for name in row if name.startswith(WEIGHT))
    columns = {"loss_task": "task", "loss_general": "general"} | {name: name for name in weights}
    for name, source in columns.items():
        if not any(name in row for row in rows):
            continue
        curve[source] = []
        for part in parts:
            seen = [rows[i][name] for i in part if name in rows[i]]
            curve[source].append(round(float(np.mean(seen)), 4) if seen else None)
    return curve
