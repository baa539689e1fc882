"""The page of a stream shows in words and charts what was saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from telltune.html_report.page import REPORT
from telltune.research.streams.page import StreamReport, verdict, write_page

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def report(accuracy: float | None) -> StreamReport:
    course = [{"inputs": n, "saved": n / 10, "errors": n // 50} for n in range(100, 1001, 100)]
    by = {"linear": 900, "top": 100}
    refused = {"<script>no JSON</script>": 2}
    return StreamReport(1000, by, 100, 0.9, 7000, 12.5, {}, refused, accuracy, course)


def test_it_says_what_was_saved_and_how_often_it_was_right() -> None:
    told = verdict(report(97.25))
    assert "The top model was called for 100 of 1,000 inputs; 90.0% were answered by" in told
    assert "Accuracy on inputs with a known label: 97.2%." in told
    assert "Accuracy" not in verdict(report(None))


def test_its_course_is_drawn_and_its_levels_are_counted(
    tmp_path: Path, open_page: Callable[[Path], Any]
) -> None:
    write_page(report(97.25), tmp_path)
    page = open_page(tmp_path / REPORT)
    assert page.locator(".chart svg").count() == 2
    page.locator("#course .mark-symbol path").last.hover()
    assert "1000" in page.locator("#vg-tooltip-element.visible").inner_text()
    cells = page.locator("#levels tr", has_text="linear").locator("td").all_inner_texts()
    assert cells == ["900", "90.0%"]
    assert "<script>no JSON</script>" in page.locator("#levels").inner_text()
    assert page.said == []
