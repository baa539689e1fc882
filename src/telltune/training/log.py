"""Reading of training logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from telltune.storage import jsonl_lines

LOG = "training_log.jsonl"
"""File name of the training log in a run's folder."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the complete rows of a training_log.jsonl; empty if there is no log."""
    rows = []
    if path.exists():
        for line in jsonl_lines(path):
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


WEIGHT = "weight_"
"""Prefix of the names of learned source weights in the log and in curves."""


def loss_curve(path: Path, points: int = 60) -> dict[str, list[float | None]]:
    """Return the loss of each source over the run, and learned source weights, for a chart.

    Args:
        path: Path of a training_log.jsonl.
        points: Maximum number of points; each is the mean over several consecutive steps.

    Returns:
        `step` (the last step of each point), and for each source in the run (`task`, `general`) the
        mean negative log-likelihood per response token, or None for points without such tokens.
        Learned weights have the key `weight_` plus the name of the source.
    """
    rows = read_log(path)
    if not rows:
        return {"step": []}
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
