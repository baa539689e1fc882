"""Counts, time and memory of a run before it is trained."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from telltune.fitting.forecast import forecast
from telltune.fitting.pre_training import describe_pre_training
from telltune.models import compute_dtype
from telltune.result_table import InNotebooks, ResultTable

if TYPE_CHECKING:
    from telltune.checked_run import CheckedBaseline, CheckedRun
    from telltune.recipe import Recipe


class Plan(dict[str, Any], InNotebooks):
    """Result of `telltune.plan`: a dictionary, which notebooks show as a table."""

    def tables(self) -> list[ResultTable]:
        """Return the plan as one table."""
        rows = self._rows() if self["trained_tokens"] else self._baseline_rows()
        return [ResultTable("Plan", ("", ""), rows, self["warnings"])]

    def _task(self) -> list[tuple[str, str]]:
        inputs = self["unlabeled_examples"]
        return [
            ("task", f"{self['task_examples']:,} examples, {self['task_tokens']:,} tokens"),
            *([("unlabeled", f"{inputs:,} inputs")] if inputs else []),
        ]

    def _baseline_rows(self) -> list[tuple[str, str]]:
        labels = len(self["labels"])
        return [
            ("method", f"{self['method']} on {self['task']}"),
            *self._task(),
            ("answers", f"{labels} labels" if labels else "answers of the examples"),
            ("training", "none: a baseline only fits a small classifier"),
        ]

    def _rows(self) -> list[tuple[str, str]]:
        def chosen(key: str) -> str:
            return " (auto)" if key in self["auto"] else ""

        seconds, dev = self["estimated_seconds"], self["dev_examples"]
        time = (
            "not known yet; `tell plan` measures it"
            if seconds is None
            else f"about {seconds / 60:,.1f} minutes"
        )
        general = f"{self['general_examples']:,} examples, {self['general_tokens']:,} tokens"
        rate = f"{self['learning_rate']:g}{chosen('training.learning_rate')}"
        early = [("early stopping", f"{dev:,} dev examples, scored during the run")] if dev else []
        return [
            ("method", f"{self['method']} on {self['task']}, {self['precision']}"),
            *self._task(),
            ("general", f"{general} (leverage ratio {self['leverage_ratio']:g})"),
            ("passes", f"{self['passes']}{chosen('mixture.passes')}"),
            ("learning rate", f"{rate}, {self['schedule']}"),
            ("batch size", f"{self['batch_size']}{chosen('training.batch_size')}"),
            ("optimizer steps", f"{self['optimizer_steps']:,}"),
            (
                "tokens to train",
                f"{self['trained_tokens']:,}, {self['computed_tokens']:,} computed",
            ),
            ("time", time),
            ("memory", f"about {self['estimated_memory_gib']:.1f} GiB"),
            *early,
        ]


def plan_run(recipe: Recipe, ready: CheckedRun, *, measure: bool) -> Plan:
    """Return the plan of a run that trains; see `telltune.plan`."""
    expected = forecast(ready.run_plan, ready.shape, measure=measure, ready_seconds=ready.seconds)
    bf16 = compute_dtype(recipe.training.precision).itemsize == 2
    training = ready.run_plan.recipe.training
    return Plan(
        method=ready.method.name,
        task=ready.task.name,
        **asdict(ready.run_plan.counts),
        unlabeled_examples=ready.unlabeled,
        learning_rate=training.learning_rate,
        schedule=training.schedule,
        batch_size=training.batch_size,
        auto=sorted(ready.run_plan.settings),
        computed_tokens=expected.computed_tokens,
        precision="bf16" if bf16 else "fp32",
        estimated_seconds=None if expected.seconds is None else round(expected.seconds, 1),
        estimated_memory_gib=round(expected.memory_gib, 2),
        before_training=describe_pre_training(ready.method, ready.run_plan.recipe),
        warnings=list(ready.warnings),
    )


def plan_baseline(ready: CheckedBaseline) -> Plan:
    """Return the plan of a baseline; see `telltune.plan`."""
    return Plan(
        method=ready.method.name,
        task=ready.task.name,
        **ready.data.cost.counts(),
        labels=list(ready.data.labels),
        warnings=list(ready.warnings),
    )
