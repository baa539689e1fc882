"""Report of a study as one offline page: verdict, scores with intervals, costs, provenance."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import yaml

from telltune.html_report.page import REPORT, render
from telltune.storage import write_json, write_text
from telltune.study.report.charts import (
    efficiency_figures,
    emergence_figures,
    forgetting_figures,
    headline_figure,
)
from telltune.study.report.matched import match_cells
from telltune.study.report.palette import Palette
from telltune.study.report.series import series_of
from telltune.study.report.side_by_side import side_by_side
from telltune.study.report.training_charts import training_figures
from telltune.study.report.verdict import give_verdict, is_clear, reference_of
from telltune.study.results import ResultRow, Results
from telltune.study.statistics.item_changes import item_courses
from telltune.study.statistics.summary import Comparison, Point, SavedData, Summary, summarize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from telltune.html_report.drawing import Figure

SUMMARY = "summary.json"

_TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


def write_report(out: Path, *, resamples: int = 10_000) -> Summary:
    """Write `summary.json` and `report.html` to a study's folder.

    The files are a pure function of the results, so they can be compared and committed.

    Raises:
        StorageError: No cell is finished, the answers of a cell are missing, or a file cannot be
            written.
    """
    summary = summarize(out, resamples=resamples)
    rows = Results(out).of_study
    write_json(out / SUMMARY, summary.to_dict())
    write_text(out / REPORT, _page(out, summary, rows, resamples))
    return summary


def _page(out: Path, summary: Summary, rows: list[ResultRow], resamples: int) -> str:
    done = [row for row in rows if row.status == "done"]
    palette = Palette(summary.points)
    matched = match_cells(out, rows, summary.points, resamples=resamples)
    courses = item_courses(out, rows, summary.general_curves)
    folds = [
        Fold(
            "training",
            "Training curves",
            "Solid lines are task data; dashed lines are general data. Learned weights of sources "
            "start at 1.",
            training_figures(rows, summary.points, palette),
        ),
        Fold(
            "emergence",
            "Score against general tokens",
            "The same task data with increasing amounts of general data. In the item charts each "
            "row is a test item; darker means a higher mean score over seeds. Items are sorted by "
            "the number of general tokens from which they stay right. An item changes at once if "
            "its score moves by more than half of the scale between two neighboring amounts of "
            "general tokens.",
            emergence_figures(summary, courses, palette),
        ),
    ]
    return render(
        _TEMPLATE,
        title=out.resolve().name,
        summary=summary,
        rows=done,
        verdict=give_verdict(summary, matched),
        matched=matched,
        headline=headline_figure(matched, palette),
        choices=palette.choices,
        efficiency=efficiency_figures(summary.points, palette),
        folds=folds,
        reference=reference_of(summary),
        tables=_tables(summary, palette),
        forgetting=forgetting_figures(summary.points, palette),
        answers={one.task: one for one in side_by_side(out, rows, summary.points)},
        warnings=_warnings(done),
        costs=_costs(done),
        made=_made(done),
    )


class Fold(NamedTuple):
    """Charts of each task behind a heading; a task without charts lacks it."""

    css_class: str
    title: str
    text: str
    figures: Mapping[str, list[Figure]]


class TableRow(NamedTuple):
    """A method at one size, with its comparison to the reference.

    Attributes:
        shared: Remark on the difference if it covers only some seeds of the scores.
    """

    label: str
    point: Point
    comparison: Comparison | None
    saved: SavedData | None
    clear: bool
    shared: str


def _tables(summary: Summary, palette: Palette) -> dict[str, dict[int | None, list[TableRow]]]:
    """Return table rows by task and size, with the main methods first."""
    against = reference_of(summary)
    compared = {
        (c.task, c.size, series_of(c)): c for c in summary.comparisons if c.against == against
    }
    saved = {(s.task, s.size, series_of(s)): s for s in summary.saved if s.against == against}
    tables: dict[str, dict[int | None, list[TableRow]]] = {}
    for point in summary.points:
        tables.setdefault(point.task, {})
    order = [choice.key.label for choice in palette.choices]
    for point in sorted(
        summary.points,
        key=lambda point: (point.size or 0, order.index(palette.labels[series_of(point)])),
    ):
        key = (point.task, point.size or 0, series_of(point))
        comparison = compared.get(key)
        shared = ""
        if comparison is not None:
            most = summary.most_seeds(comparison)
            shared = "" if comparison.seeds == most else f" ({comparison.seeds} of {most} seeds)"
        row = TableRow(
            palette.labels[series_of(point)],
            point,
            comparison,
            saved.get(key),
            comparison is not None and is_clear(comparison),
            shared,
        )
        tables[point.task].setdefault(point.size, []).append(row)
    return tables


def _warnings(done: Sequence[ResultRow]) -> dict[str, list[str]]:
    """Return the affected cells by warning."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in done:
        size = "" if row.size is None else f", {row.size:,} task tokens"
        for sentence in row.warnings:
            found[sentence].append(f"{row.task}, {row.name}{size}, seed {row.seed}")
    return dict(found)


@dataclass(frozen=True)
class Cost:
    """Cost of the finished cells of a method.

    Attributes:
        name: Name of the method in tables; its leverage ratios are combined.
        cells: Number of finished cells.
        seconds: Total time of these cells in seconds, by phase.
        counts: Mean per cell of each counted quantity, by name.
    """

    name: str
    cells: int
    seconds: dict[str, float]
    counts: dict[str, float]


def _costs(done: Sequence[ResultRow]) -> list[Cost]:
    phases = dict.fromkeys(chain.from_iterable(row.seconds for row in done))
    counted = dict.fromkeys(chain.from_iterable(row.counts for row in done))
    by_name: dict[str, list[ResultRow]] = defaultdict(list)
    for row in done:
        by_name[row.name].append(row)
    return [
        Cost(
            name,
            len(rows),
            {phase: sum(row.seconds.get(phase, 0) for row in rows) for phase in phases},
            {what: fmean(row.counts.get(what, 0) for row in rows) for what in counted},
        )
        for name, rows in by_name.items()
    ]


@dataclass(frozen=True)
class Made:
    """Provenance of a study.

    Attributes:
        versions: Versions by package; several if rows differ.
        hashes: Hashes by task, then by data set or model; several if rows differ.
        example: The cell whose recipe is shown as an example: the one that trained longest.
        recipe: Recipe of this cell as YAML.
    """

    versions: dict[str, list[str]]
    hashes: dict[str, dict[str, list[str]]]
    example: ResultRow
    recipe: str


def _made(done: Sequence[ResultRow]) -> Made:
    example = max(done, key=lambda row: row.seconds["training"])
    tasks = dict.fromkeys(row.task for row in done)
    return Made(
        _distinct([row.versions for row in done]),
        {task: _distinct([row.hashes for row in done if row.task == task]) for task in tasks},
        example,
        yaml.safe_dump(example.recipe, sort_keys=False, allow_unicode=True, width=96),
    )


def _distinct(found: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    names = dict.fromkeys(chain.from_iterable(found))
    return {name: sorted({each[name] for each in found if name in each}) for name in names}
