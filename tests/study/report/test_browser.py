"""The page of a study in a real browser: Debian's Chromium, through Playwright."""

from __future__ import annotations

import re
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from telltune.study.report.page import REPORT, write_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = "<img src=http://evil.example/x onerror=alert(1)>"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 23, 28)"
RATIOS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)
# Labels of an axis that touch one another, or that leave their chart.
OVERLAPS = """() => [...document.querySelectorAll('.chart svg')].flatMap(svg => {
  const chart = svg.getBoundingClientRect();
  const found = [];
  for (const axis of svg.querySelectorAll('.role-axis-label')) {
    const shown = [...axis.querySelectorAll('text')].filter(t => getComputedStyle(t).opacity > 0);
    const boxes = shown.map(text => [text.textContent, text.getBoundingClientRect()]);
    for (const [i, [text, a]] of boxes.entries()) {
      if (a.left < chart.left - 1 || a.right > chart.right + 1) found.push(`${text} leaves`);
      for (const [other, b] of boxes.slice(i + 1)) {
        const apart = a.right + 2 <= b.left || b.right + 2 <= a.left || a.bottom <= b.top + 2
          || b.bottom <= a.top + 2;
        if (!apart) found.push(`${text} on ${other}`);
      }
    }
  }
  return found;
})"""


@pytest.fixture(scope="module")
def page(
    write_study: Callable[..., Any],
    open_page: Callable[[Path], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """The report of a small study, opened and drawn."""
    folder = tmp_path_factory.mktemp("browser")
    write_study(folder, items=40, seeds=(0, 1), sizes=(3000, 10000), ratios=RATIOS, prompt=HOSTILE)
    write_report(folder, resamples=200)
    return open_page(folder / REPORT)


def test_charts_are_drawn_with_nothing_from_the_network_and_no_error(page: Any) -> None:
    # Two tasks: efficiency, emergence at two sizes, item by item too, forgetting twice, losses and
    # weights.
    assert page.locator(".chart svg").count() == 2 + 4 + 4 + 2 + 2 + 2
    for chart in page.locator(".chart svg").all():
        assert chart.locator("path[aria-roledescription], [role=graphics-symbol]").count() > 2
        assert chart.bounding_box()["height"] > 100
    assert page.locator(f"text={HOSTILE}").count() == 6
    assert page.said == []


def test_hovering_over_a_point_tells_its_row(page: Any) -> None:
    point = page.locator("#efficiency .mark-symbol path").first
    assert not page.locator("#vg-tooltip-element").is_visible()
    point.hover()
    told = page.locator("#vg-tooltip-element.visible").inner_text().split("\n")
    told = dict(line.split("\t") for line in told if line)
    assert told["task"] == "routing"
    assert told["method"] == "sft_anchor"
    assert told["requested size"] == "3,000"
    assert told["task tokens"] == "2,980"
    assert " to " in told["95% interval"]
    assert told["seeds"] == "2"
    row = page.locator("#methods tr", has_text="sft_anchor").first
    assert told["score"] == row.locator("td").first.inner_text()
    assert page.said == []


def test_hovering_over_an_item_tells_its_course(page: Any) -> None:
    cell = page.locator("#emergence .mark-rect path").first
    cell.hover()
    told = page.locator("#vg-tooltip-element.visible").inner_text().split("\n")
    told = dict(line.split("\t") for line in told if line)
    assert int(told["test item"]) in range(1, 41)
    assert told["prompt"] == HOSTILE
    assert told["general tokens"] == "0"
    seeds = [float(score) for score in re.findall(r"\d: ([\d.]+)", told["by seed"])]
    assert len(seeds) == 2
    assert float(told["score"]) == fmean(seeds)
    assert page.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_fits_the_screen_in_light_and_dark(
    page: Any, pytestconfig: pytest.Config, scheme: str, size: dict[str, int]
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(size)
    box = f"document.querySelector('.chart svg').getBoundingClientRect().right <= {size['width']}"
    page.wait_for_function(box)
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert color(page, "body", "background-color") == (DARK if scheme == "dark" else LIGHT)
    # Charts take part without being drawn again.
    axis = "rgb(163, 172, 184)" if scheme == "dark" else "rgb(87, 96, 106)"
    assert color(page, ".chart svg .role-axis-label text", "fill") == axis
    assert page.evaluate(OVERLAPS) == []
    largest = page.locator("#emergence .role-axis-label text", has_text="60k").first
    assert largest.evaluate("label => getComputedStyle(label).opacity") == "1"
    # Kept, to be looked at: .pytest_cache/d/report/.
    picture = pytestconfig.cache.mkdir("report") / f"{scheme}-{size['width']}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000
    assert page.said == []


def test_wide_tables_scroll_in_their_own_box(page: Any) -> None:
    page.set_viewport_size(DESKTOP)
    fits = "[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth)"
    assert page.evaluate(fits)
    page.set_viewport_size(PHONE)
    table = "document.querySelector('#methods h3 + .wide')"
    assert page.evaluate(f"{table}.scrollWidth > {table}.clientWidth")
    # The method's name stays in sight.
    page.evaluate(f"{table}.scrollTo(300, 0)")
    assert page.locator("#methods tbody th").nth(1).bounding_box()["x"] >= 0


def test_paper_is_white(page: Any) -> None:
    page.emulate_media(color_scheme="dark", media="print")
    assert color(page, "body", "background-color") == LIGHT
    page.emulate_media(media="screen")


def color(page: Any, selector: str, what: str) -> str:
    found: str = page.locator(selector).first.evaluate(
        f"element => getComputedStyle(element)['{what}']"
    )
    return found
