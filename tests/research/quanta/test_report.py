"""Reports on recorded trainings have known orders, and numbers that JSON can hold."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from telltune.research.quanta.report import judge

STEPS = [0, 4, 8, 12, 16]
# Three clusters of four tokens, two tokens per held-out example; the last has none.
LABELS = [0] * 4 + [1] * 4 + [2] * 4
OWNERS = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def record(method: str, *steps: float) -> dict[str, Any]:
    """Return a training that learned each cluster at a step, from likelihood 0.01 to 0.99."""
    at = np.array(steps)[LABELS]
    level = np.where(np.array(STEPS)[:, None] >= at, 0.99, 0.01)
    other = np.full((len(STEPS), 1), 5.0)
    return {
        "method": method,
        "label": method.upper(),
        "counts": {"task_tokens": 300, "general_tokens": 0, "optimizer_steps": 16},
        "seconds": 1.5,
        "steps": STEPS,
        "losses": np.hstack([other, -np.log(level)]).tolist(),
    }


@pytest.fixture
def reference() -> dict[str, Any]:
    """Return a training that learned cluster 0 first and 2 last, and never token 0."""
    return record("reference", 4, 8, 12) | {
        "counted": {"response": 13, "not_learned": 1, "chosen": 12, "without_gradient": 0},
        "tokens": list(range(1, 13)),
        "labels": LABELS,
        "owners": OWNERS,
        "texts": ["a", "a", "b", "a"] + ["c"] * 8,
    }


def test_orders_are_held_against_the_reference(reference: dict[str, Any]) -> None:
    runs = [record("same", 4, 8, 16), record("opposite", 12, 8, 4), record("part", 4, 99, 99)]
    report = judge("shapes", {"clusters": 3}, [reference, *runs], seed=0)
    same, opposite, part = report.methods
    assert (same.tau, opposite.tau) == (1, -1)
    assert part.tau == pytest.approx(2 / 6**0.5, abs=1e-4)
    # Half of the way is in the middle of the four steps before.
    assert same.learned == [2, 6, 14]
    assert part.learned == [2, None, None]
    assert opposite.difference == -2
    assert (same.method, same.label, same.optimizer_steps) == ("same", "SAME", 16)


def test_quanta_are_described(reference: dict[str, Any]) -> None:
    first, *_ = judge("shapes", {}, [reference, record("same", 4, 8, 12)], seed=0).quanta
    assert (first.tokens, first.items, first.texts) == (4, 2, {"a": 3, "b": 1})
    assert (first.start, first.end, first.learned) == (0.01, 0.99, 2)


def test_a_method_that_learned_nothing_can_be_written_as_json(reference: dict[str, Any]) -> None:
    nothing = record("nothing", 99, 99, 99)
    report = judge("shapes", {}, [reference, nothing], seed=0)
    [order] = json.loads(json.dumps(asdict(report), allow_nan=False))["methods"]
    assert order["tau"] is order["low"] is order["difference"] is None
    assert order["learned"] == [None] * 3
