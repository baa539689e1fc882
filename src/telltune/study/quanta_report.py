"""What the recorded trainings say of quanta and of the orders in which they were learned."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.methods.adapter_folder import versions
from telltune.valuation.quanta_losses import LossCurves
from telltune.valuation.quanta_order import Agreement, Quanta, compare_orders

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["LearnedOrder", "QuantaReport", "Quantum", "judge"]

_SHOWN_TEXTS = 4


@dataclass(frozen=True)
class Quantum:
    """A cluster of held-out tokens.

    Attributes:
        tokens: How many.
        items: How many held-out examples they come from.
        texts: The most frequent of them, with how often each is there.
        start: Their mean probability before training.
        end: And at the end of the reference.
        learned: The reference's step half-way.
    """

    tokens: int
    items: int
    texts: dict[str, int]
    start: float
    end: float
    learned: float


@dataclass(frozen=True)
class LearnedOrder:
    """How one method learned them.

    Attributes:
        method: Its name in recipes.
        label: For people.
        task_tokens: Distinct task tokens that it used.
        general_tokens: General tokens that it used.
        optimizer_steps: Of training.
        learned: Of each quantum: the step half-way, or None where it never came there.
        tau: Agreement with the reference's order, Kendall's tau-b; None where there is no order.
        low: Of its 95% interval.
        high: Of its 95% interval.
        difference: Tau, less that of the first method.
        difference_low: Of its 95% interval.
        difference_high: Of its 95% interval.
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
    """What `quanta.json` holds.

    Attributes:
        task: Its name.
        settings: As they were given, and hashes of the data.
        reference: What the reference was trained on: tokens, steps.
        tokens: Held-out response tokens: how many, and why some were not clustered.
        quanta: The clusters, the largest first.
        methods: In the order in which they were named.
        seconds: Of each training, what it took to look at held-out tokens included.
        versions: Of telltune and the libraries.
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
    """Hold the methods' orders against the reference's.

    Args:
        task: Its name.
        settings: For the report.
        records: What `telltune.study.quanta` recorded of each training, the reference first.
        seed: Of the bootstrap.

    Raises:
        DataError: There are too few quanta to be in any order.
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
    """For JSON, which has no infinity and no NaN."""
    return round(float(value), digits) if math.isfinite(value) else None
