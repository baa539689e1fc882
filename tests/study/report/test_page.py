"""A study's page has the numbers of its rows, and shows text as text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import pytest

from telltune.errors import StorageError
from telltune.html_report.page import REPORT
from telltune.study.report.page import write_report
from telltune.study.results import ANSWERS, RESULTS, Results

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from telltune.study.results import ResultRow

HOSTILE = "</script><img src=http://evil.example/x onerror=alert(1)> & {{ 7 * 7 }}<b>"


class Page(HTMLParser):
    """Contents of a page: table cells, text of sections, chart specifications and loaded files."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.text: dict[str, str] = {}
        self.specs: dict[str, list[dict[str, Any]]] = {}
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self._section, self._cell, self._tag = "", False, ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        found = [values[name] or "" for name in ("src", "href") if name in values]
        self.loads += [each for each in found if not each.startswith("#")]
        if tag == "section":
            self._section = values["id"] or ""
            self.text[self._section] = ""
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.rows[self._section][-1].append("")
        self._cell = self._cell or tag in ("td", "th")
        self._tag = "spec" if values.get("type") == "application/json" else tag

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag == "spec":
            self.specs.setdefault(self._section, []).append(json.loads(data))
        elif self._tag not in ("script", "style"):
            self.text[self._section] = self.text.get(self._section, "") + data
        if self._cell:
            self.rows[self._section][-1][-1] += data.strip()


def report(folder: Path) -> Page:
    write_report(folder, resamples=200)
    return Page(folder / REPORT)


@pytest.fixture(scope="module")
def study(
    write_study: Callable[..., list[ResultRow]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[ResultRow], Page]:
    folder = tmp_path_factory.mktemp("study")
    rows = write_study(folder)
    return folder, rows, report(folder)


def test_the_verdict_comes_first_and_names_tell(study: Any) -> None:
    _, rows, page = study
    assert list(page.text)[:3] == ["", "verdict", "task-1"]
    verdict = " ".join(page.text["verdict"].split())
    ours, theirs = (
        fmean(row.score for row in rows if (row.name, row.leverage_ratio) == series)
        for series in (("tell", 5), ("sft_anchor", None))
    )
    assert (
        "Over 18 cells of 2 tasks matched by task, size and seed, tell at ratio 5 scores "
        f"{ours:.1f} against {theirs:.1f} for sft_anchor ({ours - theirs:+.1f} points, 95% interval"
    ) in verdict
    assert "general text by +0.8% against +12.5%" in verdict
    assert "5.0% of unrelated prompts in the task's format, against 60.0%" in verdict
    assert re.search(r"trains [\d,]+ s per cell against \d+ s, on [\d,]+ general tokens", verdict)
    assert "tell at ratio 20 and tell at ratio 5 tie for the most net clear gains" in verdict


def test_every_number_of_the_tables_comes_from_rows(study: Any) -> None:
    folder, rows, page = study
    tables = [row for row in page.rows["task-1"] if row[0] == "tell at ratio 20"]
    shown = next(row for row in tables if len(row) == 4)
    cells = next(row for row in tables if len(row) == 9)
    own = [
        row
        for row in rows
        if (row.task, row.name, row.size, row.leverage_ratio) == ("routing", "tell", 3000, 20)
    ]
    reference = [
        row for row in rows if (row.task, row.name, row.size) == ("routing", "sft_anchor", 3000)
    ]
    assert len(own) == len(reference) == 3
    scores = [row.score for row in own]
    assert shown[1] == f"{fmean(scores):.1f}"
    assert shown[3] == f"{fmean(scores) - fmean(row.score for row in reference):+.1f}"
    assert cells[2] == shown[3]
    assert cells[1] == f"{stdev(scores):.1f} (3)"
    assert cells[6] == "2.400 → 2.420"
    assert cells[7] == "0.0% → 5.0%"
    assert cells[8] == f"{own[0].seconds['training']:.0f}"
    summary = json.loads((folder / "summary.json").read_text())
    [point] = [
        p
        for p in summary["points"]
        if (p["task"], p["size"], p["leverage_ratio"]) == ("routing", 3000, 20)
    ]
    assert shown[2] == f"{point['low']:.1f} to {point['high']:.1f}"
    [saved] = [
        s
        for s in summary["saved"]
        if (s["task"], s["size"], s["leverage_ratio"]) == ("routing", 3000, 20)
    ]
    assert cells[5] == saved["text"]
    assert 1 < saved["low"] < saved["data_saving_factor"]


def test_a_difference_on_fewer_seeds_than_the_scores_says_so(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    write_study(tmp_path)
    rows = (tmp_path / RESULTS).read_text().splitlines(keepends=True)
    parts = [json.loads(row) for row in rows]
    (tmp_path / RESULTS).write_text(
        "".join(
            row
            for row, part in zip(rows, parts, strict=True)
            if (part["name"], part["size"], part["seed"]) != ("sft_anchor", 3000, 2)
        )
    )
    found = [row for row in report(tmp_path).rows["task-1"] if row[0] == "tell at ratio 20"]
    short, long = ([row for row in found if len(row) == count] for count in (4, 9))
    for cells in ([row[3] for row in short], [row[2] for row in long]):
        assert cells[0].endswith(" (2 of 3 seeds)")
        assert not any("seeds" in cell for cell in cells[1:])


def test_charts_hold_every_point_with_what_hovering_tells(study: Any) -> None:
    _, rows, page = study
    # Per task: scores, losses, weights, and general tokens at three sizes.
    assert {name: len(specs) for name, specs in page.specs.items()} == {
        "verdict": 1,
        "task-1": 6,
        "task-2": 6,
        "forgetting": 2,
    }
    headline = values_of(page.specs["verdict"][0])
    assert {v["method"] for v in headline if "left" in v} == {"sft_anchor", "tell at ratio 5"}
    dots = [v for v in values_of(page.specs["task-1"][0]) if v["size"] == "3,000"]
    told = {(v["method"], v["score"], v["seeds"], v["general"]) for v in dots}
    score = fmean(r.score for r in rows if r.key.startswith("routing_tell_3000_20"))
    assert ("tell at ratio 20", f"{score:.1f}", 3, "59,600") in told
    # Points of one size are within 2% of their place.
    assert all(abs(v["x"] / 2980 - 1) < 0.0201 for v in dots if "at" not in v)
    curve, weights = (values_of(spec) for spec in page.specs["task-1"][1:3])
    assert {v["source"] for v in curve} == {v["source"] for v in weights} == {"task", "general"}
    assert {v["method"].split()[0] for v in weights} == {"tell"}
    tell = next(r for r in rows if (r.name, r.seed, r.size) == ("tell", 0, 3000))
    [line] = [v for v in curve if (v["method"], v["source"]) == ("tell at ratio 5", "task")]
    assert (line["step"], line["y"]) == (tell.curve["step"], tell.curve["task"])


def values_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [value for values in spec["datasets"].values() for value in values]


def test_items_are_shown_one_by_one_where_general_data_grow(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    rows = write_study(tmp_path, **small(ratios=(0.0, 1.0, 5.0, 20.0), sizes=(3000,)))
    page = report(tmp_path)
    items = page.specs["task-1"][-1]
    [shown] = items["datasets"].values()
    assert sorted(value["item"] for value in shown) == list(range(1, 41))
    seventh = next(value for value in shown if value["item"] == 7)
    assert seventh["prompt"] == "item 6"
    assert seventh["general"] == [0, 2980, 14900, 59600]
    own = [r for r in rows if (r.name, r.leverage_ratio) == ("tell", 5.0)]
    scores = [row.per_item["accuracy"][6] for row in own]
    assert seventh["score"][2] == pytest.approx(fmean(scores), abs=0.1)
    assert seventh["seeds"][2] == ", ".join(f"{s}: {v:.1f}" for s, v in enumerate(scores))
    [told] = json.loads((tmp_path / "summary.json").read_text())["general_curves"]
    assert sum(told["items"].values()) == 40
    assert f"{told['items']['wavering']} more than once" in page.text["task-1"]


def test_of_many_items_some_are_shown_and_it_says_so(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    write_study(
        tmp_path,
        {"tell": 1.0},
        **small(ratios=(0.0, 1.0, 5.0, 20.0), sizes=(3000,), seeds=(0,), items=450),
    )
    page = report(tmp_path)
    [shown] = page.specs["task-1"][-1]["datasets"].values()
    assert len(shown) == 150
    assert "150 of 450 items are drawn" in page.text["task-1"]


def test_it_says_where_the_time_went(study: Any) -> None:
    _, rows, page = study
    whole = sum(sum(row.seconds.values()) for row in rows)
    other = sum(row.seconds["other"] for row in rows)
    assert f"Overhead is {100 * other / whole:.1f}% of" in " ".join(page.text["costs"].split())


def test_answers_are_those_on_which_methods_differ(study: Any) -> None:
    _, _, page = study
    assert page.text["task-1"].count("✓ right") > 5
    assert page.text["task-1"].count("✗ wrong") > 5
    assert "seed 0" in page.text["task-1"]


def test_it_says_how_it_was_made(study: Any) -> None:
    _, _, page = study
    text = " ".join(page.text["made"].split())
    for told in ("--out .", "2.13.0", "train-shapes-2", "0123abcd", "method: tell"):
        assert told in text


def test_a_page_loads_nothing_and_is_the_same_again(study: Any) -> None:
    folder, _, page = study
    assert page.loads == ["data:,"]
    before = (folder / "report.html").read_bytes()
    assert before.count(b"window.vegaEmbed=") == 1
    report(folder)
    assert (folder / "report.html").read_bytes() == before


def small(**values: Any) -> dict[str, Any]:
    return {"tasks": ("routing",), "sizes": (3000, 10000), "ratios": (5.0,), "items": 40} | values


def test_hostile_text_stays_text(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    names = {HOSTILE: 0.5, "sft": 0.0}
    write_study(
        tmp_path, names, **small(tasks=(HOSTILE,), seeds=(0,), sizes=(3000,), prompt=HOSTILE)
    )
    page = report(tmp_path)
    assert page.loads == ["data:,"]
    assert not {"img", "b"} & page.tags
    assert HOSTILE in page.text["task-1"]
    assert any(HOSTILE in json.dumps(spec, ensure_ascii=False) for spec in page.specs["task-1"])


def test_one_seed_is_no_certainty(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    write_study(tmp_path, **small(seeds=(0,)))
    verdict = report(tmp_path).text["verdict"]
    assert "There is only one seed" in verdict


@pytest.mark.parametrize(
    ("tell", "said"), [(0.0, "all tie"), (-2.5, "No method is clearly ahead of sft.")]
)
def test_no_gain_is_told_as_it_is(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path, tell: float, said: str
) -> None:
    write_study(tmp_path, {"sft": 0.0, "tell": tell}, **small(items=80))
    verdict = " ".join(report(tmp_path).text["verdict"].split())
    assert "tell scores" in verdict
    assert said in verdict


def test_one_method_alone_is_no_comparison(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    write_study(tmp_path, {"tell": 1.0}, **small())
    page = report(tmp_path)
    assert "Data saving and TELL's gain over SFT" in page.text["verdict"]
    assert "Highest scores: tell with 10,000" in page.text["verdict"]


def test_failed_cells_are_named(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    write_study(
        tmp_path, {"sft": 0.0, "tell": 1.0, "few_shot": 0.0}, failed=["few_shot"], **small()
    )
    page = report(tmp_path)
    assert "6 cells failed" in page.text["verdict"]
    assert ["few_shot", "routing", "3,000", "0", "few_shot: no memory"] in page.rows["made"]


def test_warnings_are_listed_with_their_cells(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    write_study(tmp_path, {"sft": 0.0, "tell": 1.0}, **small(seeds=(0,)))
    assert "warnings" not in report(tmp_path).text
    results = Results(tmp_path)
    doubtful = [row for row in results.rows if row.name == "sft"]
    for row in doubtful:
        results.append(replace(row, warnings=["4 of 40 answers are empty."]))
    told = " ".join(report(tmp_path).text["warnings"].split())
    assert told.count("4 of 40 answers are empty.") == 1
    assert "2 of 4 cells" in told
    assert "routing, sft, 3,000 task tokens, seed 0; routing, sft, 10,000" in told


def test_a_search_says_that_its_items_are_dev_items(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    write_study(tmp_path, {"sft": 0.0, "tell": 1.0}, **small(seeds=(0,)))
    write_report(tmp_path, resamples=100)
    assert "the dev items of a search" not in (tmp_path / REPORT).read_text()
    rows = tmp_path / RESULTS
    rows.write_text(rows.read_text().replace('"split": "test"', '"split": "dev"'))
    write_report(tmp_path, resamples=100)
    assert "the dev items of a search" in (tmp_path / REPORT).read_text()


def test_nothing_finished_is_no_report(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    write_study(tmp_path, {"tell": 1.0}, failed=["tell"], **small())
    with pytest.raises(StorageError, match="cells of the study failed: tell: no memory"):
        write_report(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {RESULTS}


def test_a_missing_file_of_answers_is_named(
    write_study: Callable[..., list[ResultRow]], tmp_path: Path
) -> None:
    row = write_study(tmp_path, {"tell": 1.0}, **small())[0]
    (tmp_path / ANSWERS / f"{row.key}.jsonl").unlink()
    with pytest.raises(StorageError, match=rf"{row.key}\.jsonl: the answers of a finished cell"):
        write_report(tmp_path)
