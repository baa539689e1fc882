"""Report of the quanta and of the orders in which methods learned them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from telltune.fitting.adapter_folder import versions
from telltune.research.quanta.losses import LossCurves
from telltune.research.quanta.order import Agreement, Quanta, compare_orders

_SHOWN_TEXTS = 4


@dataclass(frozen=True)
class Quantum:
    """A cluster of held-out tokens.

    Attributes:
        tokens: Number of tokens.
        items: Number of held-out examples that the tokens come from.
        texts: The most frequent token texts, with their counts.
        start: Mean probability of the tokens before training.
        end: Mean probability of the tokens at the end of the reference training.
        learned: Step at which the reference is half-way from `start` to `end`.
    """

    tokens: int
    items: int
    texts: dict[str, int]
    start: float
    end: float
    learned: float


@dataclass(frozen=True)
class LearnedOrder:
    """Order in which one method learned the quanta.

    Attributes:
        method: Name of the method in recipes.
        label: Display label.
        task_tokens: Number of distinct task tokens used.
        general_tokens: Number of general tokens used.
        optimizer_steps: Number of optimizer steps.
        learned: Half-way step of each quantum; None if it was never reached.
        tau: Agreement with the reference's order, Kendall's tau-b; None if there is no order.
        low: Lower bound of the 95% interval of `tau`.
        high: Upper bound of the 95% interval of `tau`.
        difference: `tau` minus that of the first method.
        difference_low: Lower bound of the 95% interval of `difference`.
        difference_high: Upper bound of the 95% interval of `difference`.
    """

    method: str
    label: str
    task_tokens: int
    general_tokens: int
    optimizer_steps: int
    learned: list[float | None]
    tau: float | None
    low: float | None
    high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None


@dataclass(frozen=True)
class QuantaReport:
    """Content of `quanta.json`.

    Attributes:
        task: Name of the task.
        settings: Settings of the run, and hashes of the data.
        reference: Tokens and steps of the reference training.
        tokens: Number of held-out response tokens, and why some were not clustered.
        quanta: The clusters, the largest first.
        methods: Results of the methods, in the order in which they were given.
        seconds: Time of each training in seconds, including the measurements on held-out tokens.
        versions: Versions of telltune and its libraries.
    """

    task: str
    settings: dict[str, Any]
    reference: dict[str, Any]
    tokens: dict[str, int]
    quanta: list[Quantum]
    methods: list[LearnedOrder]
    seconds: dict[str, float]
    versions: dict[str, str]


def judge(
    task: str, settings: dict[str, Any], records: Sequence[Mapping[str, Any]], seed: int
) -> QuantaReport:
    """Compare the learning orders of the methods with that of the reference.

    Args:
        task: Name of the task.
        settings: Settings to include in the report.
        records: Record of each training from `analysis`, the reference first.
        seed: Seed of the bootstrap.

    Raises:
        DataError: There are too few quanta to define an order.
    """
    reference, *others = records
    tokens = reference["tokens"]
    curves = [
        LossCurves(np.array(record["steps"]), np.array(record["losses"])[:, tokens])
        for record in records
    ]
    clusters = Quanta(np.array(reference["owners"]), np.array(reference["labels"]), curves[0])
    agreements = compare_orders(clusters, curves[1:], seed=seed)
    return QuantaReport(
        task,
        settings,
        reference["counts"],
        reference["counted"],
        _quanta(clusters, reference["texts"]),
        [_order(record, found) for record, found in zip(others, agreements, strict=True)],
        {record["method"]: record["seconds"] for record in records},
        versions(),
    )


def _quanta(clusters: Quanta, texts: Sequence[str]) -> list[Quantum]:
    [levels] = clusters.probabilities(clusters.reference)
    [learned] = clusters.learned_at(clusters.reference)
    found = []
    for cluster in range(clusters.count):
        inside = np.flatnonzero(clusters.labels == cluster)
        said = Counter(texts[int(token)] for token in inside)
        found.append(
            Quantum(
                len(inside),
                len(set(clusters.owners[inside])),
                dict(said.most_common(_SHOWN_TEXTS)),
                round(float(levels[cluster, 0]), 4),
                round(float(levels[cluster, -1]), 4),
                round(float(learned[cluster]), 2),
            )
        )
    return found


def _order(record: Mapping[str, Any], found: Agreement) -> LearnedOrder:
    counts = record["counts"]
    return LearnedOrder(
        record["method"],
        record["label"],
        counts["task_tokens"],
        counts["general_tokens"],
        counts["optimizer_steps"],
        [_finite(step, 2) for step in found.learned],
        *(_finite(value, 4) for value in astuple(found)[1:]),
    )


def _finite(value: float, digits: int) -> float | None:
    """Round a value for JSON, which has no infinity and no NaN."""
    return round(float(value), digits) if math.isfinite(value) else None
