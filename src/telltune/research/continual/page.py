"""Report page of continual learning: a table, and the score matrix R as heat maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from telltune.html_report.drawing import (
    COLORS,
    Figure,
    Key,
    chart_of,
    layers_of,
    spec_of,
    tooltip_of,
)
from telltune.html_report.formats import score, signed
from telltune.html_report.page import REPORT, render
from telltune.research.continual.abilities import ABILITIES
from telltune.storage import write_text

_TEMPLATE = Path(__file__).parent / "templates" / "continual.html.j2"


@dataclass(frozen=True)
class ContinualReport:
    """Results of each strategy, averaged over seeds.

    Attributes:
        tasks: Names of the tasks in order.
        rows: One dictionary per strategy: `overall` (OP), `backward` and `backward_by_tasks` (BWT
            with both denominators), `general` (change of the general loss, percent), `abilities`
            (ΔG, ΔI and ΔS in points, by ability; empty if not measured), `leakage` (share of
            general prompts answered in a task's format at the end), `valid` (share of the tasks'
            answers in the right format at the end), `seconds`, `seeds`, `matrix` (R; None above the
            diagonal) and `warnings` (reasons why scores may be misleading; one sentence each, with
            the task and the tasks after which it was scored). Values that were not measured are
            None.
    """

    tasks: list[str]
    rows: list[dict[str, Any]]

    @property
    def abilities(self) -> dict[str, str]:
        """Names of the measured changes (ΔG, ΔI, ΔS), by ability."""
        return {key: name for key, name in ABILITIES.items() if key in self.rows[0]["abilities"]}


def write_page(report: ContinualReport, out: Path) -> None:
    """Write report.html.

    Args:
        report: Report with at least one finished strategy.
        out: Folder of the run.
    """
    page = render(
        _TEMPLATE,
        title=out.resolve().name,
        report=report,
        abilities=report.abilities,
        verdict=verdict(report),
        courses=[_courses(report)],
        matrices=[_matrix(report.tasks, row) for row in report.rows],
    )
    write_text(out / REPORT, page)


def verdict(report: ContinualReport) -> list[str]:
    """Report the best strategy, and whether TELL forgets less than sequential SFT.

    A strategy is named as the best only if it ends clearly above every other one.
    """
    best = max(report.rows, key=lambda row: row["overall"])
    others = [row for row in report.rows if row is not best]
    if all(_clearly_above(best["matrix"][-1], row["matrix"][-1]) for row in others):
        ends = f"{best['strategy']} scores highest over all of them ({score(best['overall'])})"
    else:
        least = min(row["overall"] for row in report.rows)
        ends = f"no strategy is clearly highest ({score(least)} to {score(best['overall'])})"
    told = [f"After {len(report.tasks)} tasks {ends}."]
    rows = {row["strategy"]: row for row in report.rows}
    if {"tell", "sequential"} <= set(rows):
        tell, plain = rows["tell"]["backward"], rows["sequential"]["backward"]
        less = "less" if tell > plain else "no less"
        told.append(
            f"TELL at every step forgets {less} than sequential SFT: earlier tasks change by "
            f"{signed(tell)} against {signed(plain)} points, with one adapter for all tasks."
        )
    return told


def _clearly_above(best: list[float], other: list[float]) -> bool:
    """Return whether the 95% interval (Student's t) of the mean difference is above 0."""
    from scipy.stats import t

    differences = np.array(best) - np.array(other)
    error = float(differences.std(ddof=1)) / len(differences) ** 0.5
    return bool(differences.mean() > t.ppf(0.975, len(differences) - 1) * error)


def _courses(report: ContinualReport) -> Figure:
    """Plot OP after each task, one line per strategy."""
    import altair as alt

    names = [row["strategy"] for row in report.rows]
    values = [
        {
            "strategy": row["strategy"],
            "after": number,
            "task": task,
            "overall": round(sum(line[:number]) / number, 2),
        }
        for row in report.rows
        for number, (task, line) in enumerate(
            zip(report.tasks, row["matrix"], strict=True), start=1
        )
    ]
    lines = chart_of(values).encode(
        alt.X("after:Q").title("tasks learned").axis(tickCount=len(report.tasks), format="d"),
        alt.Y("overall:Q").title("mean score on these tasks, %"),
        alt.Color("strategy:N").scale(domain=names, range=COLORS).legend(None),
        tooltip=tooltip_of({"strategy": "strategy", "task": "last task", "overall": "mean score"}),
    )
    dots = lines.mark_point(size=60, filled=True)
    keys = [Key(name, color, "circle") for name, color in zip(names, COLORS, strict=False)]
    return Figure("All tasks so far", spec_of(layers_of(lines.mark_line(), dots)), keys)


def _matrix(tasks: list[str], row: dict[str, Any]) -> Figure:
    """Draw R of a strategy: rows are the last task learned, columns the task asked."""
    import altair as alt

    values = [
        {"after": f"{t + 1}. {tasks[t]}", "task": f"{i + 1}. {tasks[i]}", "score": value}
        for t, line in enumerate(row["matrix"])
        for i, value in enumerate(line)
        if value is not None
    ]
    order = [f"{i + 1}. {task}" for i, task in enumerate(tasks)]
    cells = chart_of(values).encode(
        alt.X("task:N").sort(order).title("asked").axis(labelAngle=-40),
        alt.Y("after:N").sort(order).title("learned last").axis(grid=False),
        tooltip=tooltip_of({"after": "learned last", "task": "asked", "score": "score, %"}),
    )
    fills = cells.mark_rect(color="var(--accent)").encode(
        alt.Opacity("score:Q").scale(domain=[0, 100], range=[0.04, 0.6]).legend(None)
    )
    numbers = cells.mark_text(color="var(--text)", fontSize=12).encode(
        alt.Text("score:Q").format(".0f")
    )
    notes = [f"OP {score(row['overall'])}, BWT {signed(row['backward'])}.", *row["warnings"]]
    return Figure(row["strategy"], spec_of(layers_of(fills, numbers), height=280), [], notes)
