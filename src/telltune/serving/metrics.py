"""Counts and times of requests, in the text format of Prometheus."""

from __future__ import annotations

import bisect
import json
from collections import Counter
from typing import TYPE_CHECKING

from telltune.serving.cascades import ServedCascade

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from telltune.research.streams.cascade import Cascade
    from telltune.serving.models import ServedModel

__all__ = ["Metrics"]

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

_Labels = tuple[tuple[str, str], ...]
"""Names and values of labels."""


class Metrics:
    """Counts and times of the requests to each model."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        # For each set of labels, the requests by bound, and the sum of the seconds.
        self._times: dict[_Labels, tuple[Counter[float], list[float]]] = {}

    def count(self, name: str, model: str, number: int = 1) -> None:
        """Add to one of the counters."""
        self._counts[name, model] += number

    def time(self, seconds: float, **labels: str) -> None:
        """Add the time from a request to its answer, under labels such as the model's name."""
        counts, total = self._times.setdefault(tuple(labels.items()), (Counter(), [0.0]))
        place = bisect.bisect_left(_BOUNDS, seconds)
        counts[_BOUNDS[place] if place < len(_BOUNDS) else float("inf")] += 1
        total[0] += seconds

    def text(self, models: Collection[ServedModel | ServedCascade], largest: int) -> str:
        """Return all metrics.

        Args:
            models: The served models.
            largest: Largest number of requests that were computed together.
        """
        page = _Page()
        names = [model.name for model in models]
        for name, told in _COUNTERS.items():
            counts = {_model(each): float(self._counts[name, each]) for each in names}
            page.add(f"{name}_total", "counter", told, counts)
        waiting = {_model(model.name): model.lane.waiting for model in models}
        page.add("requests_waiting", "gauge", "Requests that have not begun.", waiting)
        running = {_model(model.name): model.lane.running for model in models}
        page.add("requests_running", "gauge", "Requests that are computed now.", running)
        told = "Most requests that were computed together."
        page.add("largest_batch", "gauge", told, {(): largest})
        self._add_times(page)
        _add_cascades(
            page, {one.name: one.cascade for one in models if isinstance(one, ServedCascade)}
        )
        return page.text

    def _add_times(self, page: _Page) -> None:
        told = "Time from a request to the end of its answer."
        page.head("request_seconds", "histogram", told)
        for labels, (counts, [total]) in self._times.items():
            below = 0
            for bound in (*_BOUNDS, float("inf")):
                below += counts[bound]
                text = "+Inf" if bound == float("inf") else f"{bound:g}"
                page.value("request_seconds_bucket", (*labels, ("le", text)), below)
            page.value("request_seconds_sum", labels, total)
            page.value("request_seconds_count", labels, below)


def _add_cascades(page: _Page, cascades: Mapping[str, Cascade]) -> None:
    """Add what cascades have counted since they began, also before the server started."""
    if not cascades:
        return
    by_level = {
        (*_model(name), ("level", level)): count
        for name, cascade in cascades.items()
        for level, count in cascade.answered.items()
    }
    page.add("cascade_inputs_total", "counter", "Inputs that a level answered.", by_level)

    def each(name: str, kind: str, told: str, values: Mapping[str, float]) -> None:
        page.add(
            f"cascade_{name}", kind, told, {_model(key): value for key, value in values.items()}
        )

    items = cascades.items()
    told = "Cost of all answers, in calls of the top model."
    each("cost_total", "counter", told, {name: one.cost for name, one in items})
    told = "Inputs for which the top model was needed."
    each("top_inputs_total", "counter", told, {name: one.asked[-1] for name, one in items})
    told = "Inputs for which the top model gave no label."
    each("top_failures_total", "counter", told, {name: one.failures for name, one in items})
    told = "Tokens that the top model read and wrote."
    each("top_tokens_total", "counter", told, {name: one.tokens for name, one in items})
    known = {name: found for name, one in items if (found := one.agreement) is not None}
    told = "Estimated share of answers that are the top model's."
    each("agreement", "gauge", told, {name: found[0] for name, found in known.items()})
    told = "Lower limit of that share at 95% confidence."
    each("agreement_least", "gauge", told, {name: found[1] for name, found in known.items()})


def _model(name: str) -> _Labels:
    return (("model", name),)


class _Page:
    """Text that is written metric by metric."""

    def __init__(self) -> None:
        self.text = ""

    def add(self, name: str, kind: str, told: str, values: Mapping[_Labels, float]) -> None:
        """Add a metric with its values by labels."""
        self.head(name, kind, told)
        for labels, value in values.items():
            self.value(name, labels, value)

    def head(self, name: str, kind: str, told: str) -> None:
        """Add the description of a metric."""
        self.text += f"# HELP telltune_{name} {told}\n# TYPE telltune_{name} {kind}\n"

    def value(self, name: str, labels: _Labels, value: float) -> None:
        """Add one value."""
        given = ",".join(f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in labels)
        self.text += f"telltune_{name}{{{given}}} " if given else f"telltune_{name} "
        self.text += f"{value:g}\n" if value % 1 else f"{value:.0f}\n"
