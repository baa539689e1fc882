"""A study's page is drawn in a real browser: Debian's Chromium, through Playwright."""

from __future__ import annotations

import re
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from telltune.html_report.page import REPORT
from telltune.study.report.page import write_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = "<img src=http://evil.example/x onerror=alert(1)>"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 23, 28)"
RATIOS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0)
# Axis labels that overlap one another or leave their chart.
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

# Text whose contrast with its background is below WCAG's 4.5.
PALE = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = color => {
    const [r, g, b] = numbers(color).slice(0, 3)
      .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let each = element; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if ((numbers(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = new Set();
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !parent.checkVisibility()) continue;
    if (parent.closest("script, style, #vg-tooltip-element")) continue;
    const style = getComputedStyle(parent);
    const [a, b] = [parent.closest(".chart svg") ? style.fill : style.color, behind(parent)]
      .map(light);
    if ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5)
      found.add(`${parent.tagName} ${walker.currentNode.textContent.trim().slice(0, 30)}`);
  }
  return [...found];
}"""


@pytest.fixture(scope="module")
def page(
    write_study: Callable[..., Any],
    open_page: Callable[[Path], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """Return the opened report of a small study, with its charts drawn."""
    folder = tmp_path_factory.mktemp("browser")
    write_study(folder, items=40, seeds=(0, 1), sizes=(3000, 10000), ratios=RATIOS, prompt=HOSTILE)
    write_report(folder, resamples=200)
    return open_page(folder / REPORT)


def test_the_page_is_short_and_draws_the_rest_when_it_is_opened(page: Any) -> None:
    """The limits are half of those for four tasks: 900 words, 6,000 and 12,000 pixels."""
    assert page.locator(".chart svg").count() == 1 + 2
    assert len(page.locator("body").inner_text().split()) < 500
    assert height(page) < 3000
    page.set_viewport_size(PHONE)
    assert height(page) < 6000
    page.set_viewport_size(DESKTOP)
    training = page.locator(".task .training").first
    training.locator("summary").press("Enter")
    training.locator(".chart svg").nth(1).wait_for()
    assert page.locator(".chart svg").count() == 3 + 2
    page.get_by_role("link", name="Forgetting").press("Enter")
    page.locator("#forgetting .chart svg").nth(1).wait_for()
    open_all(page)
    # Losses, weights, and general tokens at two sizes, also item by item.
    assert page.locator(".chart svg").count() == 3 + 2 * (2 + 4) + 2
    for chart in page.locator(".chart svg").all():
        assert chart.locator("path[aria-roledescription], [role=graphics-symbol]").count() > 2
        assert chart.bounding_box()["height"] > 100
    assert page.locator(f"text={HOSTILE}").count() == 6
    assert page.said == []


def test_what_is_seen_has_a_name(page: Any) -> None:
    charts = page.locator("[role=img]:has(> .chart)")
    assert charts.count() == page.locator("figure").count()
    names = charts.evaluate_all("all => all.map(each => each.ariaLabel)")
    assert all(len(name) > 10 for name in names)
    tables = page.locator("main table").evaluate_all(
        "all => all.map(e => e.caption || e.ariaLabel)"
    )
    assert all(tables)
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1


def test_the_filter_hides_a_method_in_charts_and_tables(page: Any) -> None:
    box = page.get_by_label("sft_anchor", exact=True)
    row = page.locator(".task tr[data-method=sft_anchor]").first
    # All text of one name in a chart is one mark.
    name = page.locator(".chart svg .role-mark text", has_text="sft_anchor")
    assert (row.is_visible(), name.count()) == (True, 3)
    box.focus()
    page.keyboard.press("Space")
    page.wait_for_function(
        "document.querySelectorAll('.chart [aria-label*=sft_anchor]').length < 1"
    )
    assert (row.is_visible(), name.count()) == (False, 0)
    assert page.locator("[data-method=sft_anchor]:visible").count() == 0
    # The main methods are shown at first, with the ratio nearest to the default.
    tells = [page.locator(f".task tr[data-method='tell at ratio {r}']").first for r in (10, 5)]
    assert [row.is_visible() for row in tells] == [True, False]
    page.keyboard.press("Space")
    name.nth(2).wait_for()
    assert row.is_visible()
    page.locator(".filter details").evaluate("each => each.open = true")
    page.get_by_role("button", name="All").press("Enter")
    assert tells[1].is_visible()
    page.get_by_role("button", name="None").press("Enter")
    assert not tells[1].is_visible()
    assert page.said == []


def test_hovering_over_a_point_tells_its_row(page: Any) -> None:
    point = page.locator(".task .mark-symbol path[aria-label*=sft_anchor]").first
    assert not page.locator("#vg-tooltip-element").is_visible()
    point.hover(force=True)
    told = page.locator("#vg-tooltip-element.visible").inner_text().split("\n")
    told = dict(line.split("\t") for line in told if line)
    assert told["task"] == "routing"
    assert told["method"] == "sft_anchor"
    assert told["requested size"] == "3,000"
    assert told["task tokens"] == "2,980"
    assert " to " in told["95% interval"]
    assert told["seeds"] == "2"
    row = page.locator(".task tr[data-method=sft_anchor]").first
    assert told["score"] == row.locator("td").first.inner_text()
    assert page.said == []


def test_hovering_over_an_item_tells_its_course(page: Any) -> None:
    open_all(page)
    cell = page.locator(".emergence .mark-rect path").first
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
    open_all(page)
    box = f"document.querySelector('.chart svg').getBoundingClientRect().right <= {size['width']}"
    page.wait_for_function(box)
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert color(page, "body", "background-color") == (DARK if scheme == "dark" else LIGHT)
    # Charts also change, without being drawn again.
    axis = "rgb(163, 172, 184)" if scheme == "dark" else "rgb(87, 96, 106)"
    assert color(page, ".chart svg .role-axis-label text", "fill") == axis
    assert page.evaluate(PALE) == []
    assert page.evaluate(OVERLAPS) == []
    largest = page.locator(".emergence .role-axis-label text", has_text="60k").first
    assert largest.evaluate("label => getComputedStyle(label).opacity") == "1"
    # Kept for inspection in .pytest_cache/d/report/.
    picture = pytestconfig.cache.mkdir("report") / f"{scheme}-{size['width']}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000
    assert page.said == []


def test_on_a_phone_a_table_shows_at_most_five_columns_and_keeps_the_first(page: Any) -> None:
    open_all(page)
    page.set_viewport_size(DESKTOP)
    fits = "[...document.querySelectorAll('.wide')].every(e => e.scrollWidth <= e.clientWidth)"
    assert page.evaluate(fits)
    page.set_viewport_size(PHONE)
    seen = page.locator("main thead tr").evaluate_all(
        "all => all.map(row => [...row.cells].filter(c => c.getBoundingClientRect().right <= 390)"
        ".length)"
    )
    assert max(seen) <= 5
    table = "document.querySelector('.task details .wide')"
    assert page.evaluate(f"{table}.scrollWidth > {table}.clientWidth")
    # The method's name stays visible.
    page.evaluate(f"{table}.scrollTo(300, 0)")
    assert page.locator(".task details tbody tr[data-method] th").first.bounding_box()["x"] >= 0


def test_contents_stay_in_sight_on_wide_screens_and_are_a_list_on_phones(page: Any) -> None:
    page.set_viewport_size(DESKTOP)
    page.evaluate("scrollTo(0, 1500)")
    assert page.locator("nav").bounding_box()["y"] >= 0
    page.set_viewport_size(PHONE)
    page.evaluate("scrollTo(0, 1500)")
    assert page.locator("nav").bounding_box()["y"] < 0


def test_paper_is_white(page: Any) -> None:
    page.emulate_media(color_scheme="dark", media="print")
    assert color(page, "body", "background-color") == LIGHT
    page.emulate_media(media="screen")


def open_all(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.wait_for_function(
        "document.querySelectorAll('.chart svg').length "
        "=== document.querySelectorAll('figure').length && !document.querySelector('template')"
    )


def height(page: Any) -> int:
    found: int = page.evaluate("document.documentElement.scrollHeight")
    return found


def color(page: Any, selector: str, what: str) -> str:
    found: str = page.locator(selector).first.evaluate(
        f"element => getComputedStyle(element)['{what}']"
    )
    return found
