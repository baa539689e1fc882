"""Results are tables in notebooks, with every text escaped."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import telltune
from telltune.api import Fit
from telltune.evaluation.intervals import Interval
from telltune.evaluation.score import Evaluation
from telltune.fitting.model_card import _score_table
from telltune.planned import Plan
from telltune.result_table import InNotebooks, ResultTable
from telltune.study.compare import Comparison, ComparisonRow


class Cells(HTMLParser):
    """Texts of the cells of an HTML table, and the tags in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)


def cells(result: InNotebooks) -> list[str]:
    found = Cells(result._repr_html_())
    assert found.tags <= {"p", "b", "table", "thead", "tr", "th", "td"}
    return found.texts


def test_texts_are_escaped() -> None:
    table = ResultTable("a < b", ("method", "score"), [("<script>x</script>", "1")], ["a & b"])
    found = Cells(table.html())
    assert "script" not in found.tags
    assert found.texts == ["a < b", "method", "score", "<script>x</script>", "1", "Warning: a & b"]


def test_evaluations_and_comparisons_show_scores() -> None:
    scores = {"accuracy": Interval(75, 50, 90)}
    shown = cells(Evaluation(scores, {}, [], 12, 1.0, ("Few items.",), 0.9))
    assert shown == [
        *("12 items", "metric", "score", "90% interval"),
        *("accuracy", "75.0", "50.0 to 90.0", "Warning: Few items."),
    ]
    row = ComparisonRow("sft", 75, 50, 90, "accuracy", 1200, 0, 3.2, 12, ["Few items."])
    shown = cells(Comparison([row], 0.95))
    assert shown[:4] == ["12 test items, accuracy", "method", "score", "95% interval"]
    assert "general loss" not in shown, "columns without a value are left out"
    assert shown[-1] == "Warning: sft: Few items."


def test_an_interval_that_does_not_exist_is_a_dash() -> None:
    nan = math.nan
    shown = cells(Evaluation({"perplexity": Interval(3, nan, nan)}, {}, [], 1, 1.0))
    assert shown[4:] == ["perplexity", "3.0", "–"]
    row = ComparisonRow("tell", 3, nan, nan, "level", 1200, 0, 3.2, 1, [], difference=0.0)
    row = replace(row, difference_low=nan, difference_high=nan)
    assert {"–", "+0.0 (–)"} < {*cells(Comparison([row], 0.95))}
    saved = {"task": "t", "split": "test", "items": 1, "of": 1, "confidence": 0.95, "warnings": []}
    scores = {"perplexity": {"score": 3.0, "low": None, "high": None}}
    assert "| 3.0 | – (95%) |" in _score_table([saved | {"scores": scores}])


def test_fits_and_plans_show_counts() -> None:
    counts = {"task_examples": 24, "task_tokens": 1200}
    record = {"method": "tell", "counts": counts, "seconds": 3.25}
    shown = cells(Fit(Path("out"), record, ("It learned nothing.",), "24 examples, 3 labels"))
    assert "24 examples, 1,200 tokens" in shown
    assert "24 examples, 3 labels" in shown
    assert shown[-1] == "Warning: It learned nothing."
    more = {"trained_tokens": 0, "unlabeled_examples": 5, "task": "t", "labels": ["a", "b"]}
    shown = cells(Plan(method="knn", **counts, **more, warnings=[]))
    assert "5 inputs" in shown
    assert "2 labels" in shown


def test_checks_show_findings() -> None:
    found = telltune.check([{"prompt": "a", "completion": "b"}] * 2)
    counts, findings = found
    assert (counts, len(findings)) == ({"train": 2}, 1)
    shown = cells(found)
    assert shown[0] == "2 train examples; 0 refused, 1 warnings."
    assert "list:2" in shown
