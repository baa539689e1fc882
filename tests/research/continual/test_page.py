"""The page on a sequence of tasks has its result first, heat maps of R, and no scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from telltune.html_report.page import REPORT
from telltune.research.continual.course import ContinualReport
from telltune.research.continual.page import verdict, write_page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = "<script>document.title = 'ran'</script>"


def row(strategy: str, overall: float, backward: float, **changes: Any) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "seeds": 2,
        "overall": overall,
        "backward": backward,
        "backward_by_tasks": backward / 2,
        "valid": 0.9,
        "general": 3.0,
        "abilities": {"general": -2.25},
        "leakage": 0.25,
        "seconds": 40.0,
        "matrix": [[80.0, None], [overall, overall]],
        "warnings": [],
    } | changes


@pytest.fixture
def report() -> ContinualReport:
    rows = [row("sequential", 40.0, -30.0, general=None, leakage=None), row("tell", 70.0, -5.0)]
    return ContinualReport(["shapes", HOSTILE], rows)


def test_it_says_who_ends_highest_and_who_forgets_less(report: ContinualReport) -> None:
    first, second = verdict(report)
    assert "tell scores highest" in first
    assert "70.0" in first
    assert "TELL at every step forgets less" in second
    report.rows[1]["backward"] = -31.0
    assert "forgets no less" in verdict(report)[1]


@pytest.mark.parametrize("ends", [[40.0, 40.0], [10.0, 75.0], [0.0, 0.0]])
def test_strategies_that_tie_have_no_winner(ends: list[float]) -> None:
    other = row("replay", sum(ends) / 2 + 1, 0.0, matrix=[[80.0, None], [ends[0] + 5, ends[1] - 3]])
    rows = [row("sequential", sum(ends) / 2, 0.0, matrix=[[80.0, None], ends]), other]
    [told] = verdict(ContinualReport(["a", "b"], rows))
    assert "no strategy is clearly highest" in told
    assert "replay" not in told


def test_every_strategy_has_its_matrix(
    report: ContinualReport, tmp_path: Path, open_page: Callable[[Path], Any]
) -> None:
    write_page(report, tmp_path)
    page = open_page(tmp_path / REPORT)
    assert page.locator(".chart svg").count() == 3
    heat = page.locator("#matrices figure").nth(1)
    # The second task was not scored before it was learned.
    assert heat.locator(".mark-rect path").count() == 3
    scores = heat.locator(".mark-text.role-mark text")
    assert sorted(scores.all_text_contents()) == ["70", "70", "80"]
    scores.first.hover()
    told = page.locator("#vg-tooltip-element.visible").inner_text()
    assert "1. shapes" in told
    assert page.title() != "ran"
    assert page.said == []
