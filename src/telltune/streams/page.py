"""What became of a stream, as one page: what was saved, at which cost in errors, and when."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from telltune.pages.drawing import Figure, chart_of, layers_of, spec_of, tooltip_of
from telltune.pages.formats import number, score, share
from telltune.pages.page import REPORT, render
from telltune.storage import write_text

__all__ = ["StreamReport", "verdict", "write_page"]

_TEMPLATE = Path(__file__).parent / "templates" / "stream.html.j2"


@dataclass(frozen=True)
class StreamReport:
    """What became of a stream so far.

    Attributes:
        inputs: Decided.
        by: How many each level answered.
        top_calls: Inputs that the top was asked about.
        saved: Share of inputs that it was not asked about.
        tokens: That it read and wrote.
        seconds: Of all decisions.
        failures: Inputs that the top gave no label for, by why.
        refused: Rows that are no input, by why.
        accuracy: Percent of the rows with a label of their own; None where none has one.
        course: At fifty places of the stream: inputs so far, percent saved so far, errors so far.
    """

    inputs: int
    by: dict[str, int]
    top_calls: int
    saved: float
    tokens: int
    seconds: float
    failures: dict[str, int]
    refused: dict[str, int]
    accuracy: float | None
    course: list[dict[str, float]]


def write_page(report: StreamReport, out: Path) -> None:
    """Write report.html.

    Args:
        report: Of the stream so far.
        out: The stream's folder.
    """
    figures = [_course(report, "saved", "answered below the top, %", "Savings")]
    if report.accuracy is not None:
        figures.append(_course(report, "errors", "wrong answers so far", "Errors"))
    title = out.resolve().name
    page = render(_TEMPLATE, title=title, report=report, verdict=verdict(report), figures=figures)
    write_text(out / REPORT, page)


def verdict(report: StreamReport) -> str:
    """What was saved, and how often the answers were right."""
    told = (
        f"Of {number(report.inputs)} inputs the top was asked about {number(report.top_calls)}: "
        f"{share(report.saved)} were answered below it."
    )
    if report.accuracy is not None:
        told += f" Of the inputs with a label of their own {score(report.accuracy)}% are right."
    return told


def _course(report: StreamReport, field: str, title: str, named: str) -> Figure:
    import altair as alt

    lines = chart_of(report.course).encode(
        alt.X("inputs:Q").title("inputs"),
        alt.Y(f"{field}:Q").title(title),
        color=alt.value("var(--series-0)"),
        tooltip=tooltip_of({"inputs": "inputs", field: title}),
    )
    dots = lines.mark_point(size=60, opacity=0, filled=True)
    return Figure(named, spec_of(layers_of(lines.mark_line(), dots)), [])
