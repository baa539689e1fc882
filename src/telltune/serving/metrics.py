"""Counts and times of requests, in the text format of Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from telltune.serving.cascades import ServedCascade

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from prometheus_client import Metric

    from telltune.serving.models import ServedModel

_COUNTERS = {
    "requests": "Requests for an answer.",
    "requests_finished": "Requests that were answered.",
    "requests_cancelled": "Requests whose client hung up.",
    "requests_failed": "Requests whose answer could not be computed.",
    "prompt_tokens": "Tokens of prompts.",
    "completion_tokens": "Generated tokens.",
}
"""Descriptions of the counters by name."""
_BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the times in a histogram, in seconds."""


class Metrics:
    """Counts and times of the requests to each model.

    Args:
        models: The served models.
    """

    def __init__(self, models: Collection[ServedModel | ServedCascade]) -> None:
        self._registry = CollectorRegistry()
        self._counters = {
            name: Counter(f"telltune_{name}", told, ["model"], registry=self._registry)
            for name, told in _COUNTERS.items()
        }
        self._largest = Gauge(
            "telltune_largest_batch",
            "Most requests that were computed together.",
            registry=self._registry,
        )
        self._seconds = Histogram(
            "telltune_request_seconds",
            "Time from a request to the end of its answer.",
            ["model", "level"],
            buckets=_BOUNDS,
            registry=self._registry,
        )
        self._registry.register(_Models(models))
        for model in models:
            for counter in self._counters.values():
                counter.labels(model.name)  # A counter is 0 before its first event.

    def count(self, name: str, model: str, number: int = 1) -> None:
        """Add to one of the counters."""
        self._counters[name].labels(model).inc(number)

    def time(self, seconds: float, model: str, level: str = "") -> None:
        """Add the time from a request to its answer, by the level of a cascade if one answered."""
        self._seconds.labels(model, level).observe(seconds)

    def text(self, largest: int) -> str:
        """Return all metrics; `largest` requests were computed together at most."""
        self._largest.set(largest)
        return generate_latest(self._registry).decode()


class _Models(Collector):
    """What models count themselves; cascades also what they counted before the server started."""

    def __init__(self, models: Collection[ServedModel | ServedCascade]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        waiting = GaugeMetricFamily(
            "telltune_requests_waiting", "Requests that have not begun.", labels=["model"]
        )
        running = GaugeMetricFamily(
            "telltune_requests_running", "Requests that are computed now.", labels=["model"]
        )
        for model in self._models:
            waiting.add_metric([model.name], model.lane.waiting)
            running.add_metric([model.name], model.lane.running)
        yield from (waiting, running)
        cascades = [one for one in self._models if isinstance(one, ServedCascade)]
        if cascades:
            yield from _of_cascades(cascades)


def _of_cascades(served: list[ServedCascade]) -> Iterator[Metric]:
    inputs = CounterMetricFamily(
        "telltune_cascade_inputs", "Inputs that a level answered.", labels=["model", "level"]
    )
    told = {
        "cost": "Cost of all answers, in calls of the top model.",
        "top_inputs": "Inputs for which the top model was needed.",
        "top_failures": "Inputs for which the top model gave no label.",
        "top_tokens": "Tokens that the top model read and wrote.",
    }
    counters = {
        name: CounterMetricFamily(f"telltune_cascade_{name}", text, labels=["model"])
        for name, text in told.items()
    }
    agreement = GaugeMetricFamily(
        "telltune_cascade_agreement",
        "Estimated share of answers that are the top model's.",
        labels=["model"],
    )
    least = GaugeMetricFamily(
        "telltune_cascade_agreement_least",
        "Lower limit of that share at 95% confidence.",
        labels=["model"],
    )
    for one in served:
        cascade = one.cascade
        for level, count in cascade.answered.items():
            inputs.add_metric([one.name, level], count)
        values = (cascade.cost, cascade.asked[-1], cascade.failures, cascade.tokens)
        for counter, value in zip(counters.values(), values, strict=True):
            counter.add_metric([one.name], value)
        if cascade.agreement is not None:
            for family, share in zip((agreement, least), cascade.agreement, strict=True):
                family.add_metric([one.name], share)
    yield from (inputs, *counters.values(), agreement, least)
