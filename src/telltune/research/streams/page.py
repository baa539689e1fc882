"""Report page of a stream: saved calls and errors over the course of the stream."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from telltune.html_report.drawing import Figure, chart_of, layers_of, spec_of, tooltip_of
from telltune.html_report.formats import number, score, share
from telltune.html_report.page import REPORT, render
from telltune.storage import write_text

_TEMPLATE = Path(__file__).parent / "templates" / "stream.html.j2"


@dataclass(frozen=True)
class StreamReport:
    """Summary of a stream so far.

    Attributes:
        inputs: Number of decided inputs.
        by: Number of inputs that each level answered.
        top_calls: Number of inputs for which the top model was called.
        saved: Share of inputs for which the top model was not called, 0 to 1.
        tokens: Number of tokens that the top model read and wrote.
        seconds: Total time of all decisions in seconds.
        failures: Number of inputs for which the top model gave no label, by reason.
        refused: Number of rows that are not valid inputs, by reason.
        accuracy: Accuracy in percent on the rows with a known label; None without such rows.
        course: Inputs, percent saved and errors so far, at up to fifty places of the stream.
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
        report: Summary of the stream so far.
        out: Output folder of the stream.
    """
    figures = [_course(report, "saved", "answered by lower levels, %", "Savings")]
    if report.accuracy is not None:
        figures.append(_course(report, "errors", "wrong answers so far", "Errors"))
    title = out.resolve().name
    page = render(_TEMPLATE, title=title, report=report, verdict=verdict(report), figures=figures)
    write_text(out / REPORT, page)


def verdict(report: StreamReport) -> str:
    """Return the share of inputs answered below the top model, and the accuracy."""
    told = (
        f"The top model was called for {number(report.top_calls)} of {number(report.inputs)} "
        f"inputs; {share(report.saved)} were answered by lower levels."
    )
    if report.accuracy is not None:
        told += f" Accuracy on inputs with a known label: {score(report.accuracy)}%."
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
