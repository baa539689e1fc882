"""Scripts in data, names, answers, reasons and recipes are shown as text on a study's page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from telltune.html_report.page import REPORT
from telltune.study.report.page import write_report
from telltune.study.results import ANSWERS, RESULTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RUN = "document.documentElement.dataset.ran = 'yes'"
# Escapes from text, an attribute, a JSON block, a comment and a module; Vega expressions.
HOSTILE = [
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"<!--<script>{RUN}</script>",
    f'"><svg onload="{RUN}">',
    f"' onmouseover='{RUN}' x='",
    f"</pre></td></style><img src=x onerror={RUN}>",
    f"{{{{ ''.constructor.constructor(\"{RUN}\")() }}}}",
    f'<iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f"javascript:{RUN}",
    "\u2028</sc\u2029ript>",
]
EVERYTHING = " ".join(HOSTILE)


@pytest.fixture(scope="module")
def folder(write_study: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a study in which all text that a user can write is hostile."""
    folder = tmp_path_factory.mktemp("page") / f"<script>{RUN.replace('/', '')}<script>"
    folder.mkdir()
    names = {HOSTILE[0]: 0.0, HOSTILE[1]: 1.0, HOSTILE[3]: 0.5, f"failed {HOSTILE[2]}": 0.0}
    failed = [f"failed {HOSTILE[2]}"]
    write_study(
        folder,
        names,
        tasks=(HOSTILE[5],),
        seeds=(0, 1),
        sizes=(3000, 10000),
        items=30,
        prompt=f"{{}} {EVERYTHING}",
        failed=failed,
    )
    rows = [json.loads(line) for line in (folder / RESULTS).read_text().splitlines()]
    for row in rows:
        row["reason"] = row["reason"] and f"broke on {EVERYTHING}"
        row["versions"] = {HOSTILE[4]: HOSTILE[1], "code": HOSTILE[0]}
        row["hashes"] = {HOSTILE[1]: HOSTILE[3]}
        row["recipe"] = {"anchor": {"prompt": EVERYTHING, "response": HOSTILE[1]}}
    (folder / RESULTS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in (folder / ANSWERS).iterdir():
        answers = [json.loads(line) for line in path.read_text().splitlines()]
        for answer in answers:
            answer["reference"] = f"{HOSTILE[1]} {answer['reference']}"
            answer["prediction"] = f"{answer['prediction']} {EVERYTHING}"
        path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    write_report(folder, resamples=100)
    return folder


def test_no_script_of_the_data_runs_and_all_of_it_is_shown(
    folder: Path, open_page: Callable[[Path], Any]
) -> None:
    page = open_page(folder / REPORT)
    page.on("dialog", lambda dialog: page.said.append(dialog.message))
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.locator(".training .chart svg").first.wait_for()
    # Elements that react to a pointer get one, also tooltips of charts.
    for mark in page.locator(".chart svg .mark-symbol path").all()[:5]:
        mark.hover(force=True)
    assert page.evaluate("document.documentElement.dataset.ran") is None
    assert page.locator("iframe, img, svg[onload], [onmouseover], [onerror]").count() == 0
    text = page.locator("body").inner_text()
    assert page.locator("template").count() == 0
    assert page.locator("script").count() == page.locator("figure").count() + 2
    assert [part for part in HOSTILE[:9] if part not in text] == []
    assert page.said == []


def test_the_page_would_run_a_script_that_was_not_escaped(
    folder: Path, tmp_path: Path, browser: Any
) -> None:
    """The test above can fail: the page's policy alone does not stop scripts."""
    page_path = tmp_path / REPORT
    text = (folder / REPORT).read_text(encoding="utf-8")
    page_path.write_text(text.replace("</body>", f"<script>{RUN}</script></body>"), "utf-8")
    page = browser.new_page()
    page.goto(page_path.as_uri())
    assert page.evaluate("document.documentElement.dataset.ran") == "yes"
