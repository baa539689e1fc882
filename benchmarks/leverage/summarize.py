"""Write summary.json from the folders of studies, and the README's picture.

    python benchmarks/leverage/summarize.py runs/leverage runs/leverage_gemma

For each model, task and size, summary.json has the best recipe, the other recipes that train, and
the baselines, each with its data-saving factor (see docs/guides/studies.md). The best recipe is the
one with the highest score on the test items, so its score is slightly too high. Recipes with fewer
than three draws come last.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt

from telltune.methods.baselines import Baseline
from telltune.methods.registry import get_method
from telltune.recipe import ModelSpec
from telltune.study.results import Results
from telltune.study.statistics.summary import summarize

if TYPE_CHECKING:
    from telltune.study.statistics.summary import Point

_HERE = Path(__file__).parent
_PICTURE = _HERE.parents[1] / "docs" / "images" / "leverage.svg"
_DRAWN = ("medical_specialty", 900)
_NAMES = {
    "tell": "TELL",
    "encoder_em": "classifier with unlabeled inputs",
    "combined_em + names": "classifier that also knows the labels' names",
    "sft_pseudo_label + names": "SFT taught by that classifier",
}


def told(point: Point) -> dict[str, Any]:
    """Return a method's point as a dictionary for JSON."""
    scores = {key: round(getattr(point, key), 1) for key in ("score", "low", "high", "seconds")}
    return {"method": point.name, "labeled_tokens": point.size, **scores, "draws": point.seeds}


def tell_tasks(folder: Path) -> list[dict[str, Any]]:
    """Return a summary of each task of a study at each size with a lever."""
    summary = summarize(folder)
    [model] = {ModelSpec.model_validate(row.recipe["model"]).name for row in Results(folder).rows}
    saved = {(one.task, one.size, one.name): one for one in summary.saved if one.against == "sft"}
    tasks = []
    for task, size in sorted({(task, size) for task, size, _ in saved}):
        points = [p for p in summary.points if (p.task, p.size) == (task, size) and p.name != "sft"]
        points.sort(key=lambda p: (p.seeds < 3, -p.score))
        quick = {p.name for p in points if isinstance(get_method(p.method), Baseline)}
        best, *_ = rows = [
            told(p) | {"data_saving_factor": saved[task, size, p.name].text} for p in points
        ]
        curve = [p for p in summary.points if (p.task, p.name) == (task, "sft") and p.size >= size]
        curve.sort(key=lambda p: p.size)
        tasks.append(
            {
                "model": Path(model).stem,
                "task": task,
                "metric": points[0].metric,
                "best": best,
                "others": [r for r in rows if r["method"] not in quick and r != best],
                "baselines": [r for r in rows if r["method"] in quick],
                "sft": list(map(told, curve)),
            }
        )
    return tasks


def draw(task: dict[str, Any]) -> alt.LayerChart:
    """Draw SFT's curve over labeled tokens, and the scores of others with the fewest labels."""
    sft = alt.Chart(alt.Data(values=task["sft"]))
    methods = {row["method"]: row for row in (task["best"], *task["others"], *task["baselines"])}
    others = [methods[name] | {"name": shown} for name, shown in _NAMES.items() if name in methods]
    tokens = [row["labeled_tokens"] for row in task["sft"]]
    x = (
        alt.X("labeled_tokens:Q", title="labeled tokens")
        .scale(type="log", domain=[0.85 * min(tokens), 1.15 * max(tokens)])
        .axis(values=tokens, format=",")
    )
    shown = alt.Scale(domain=[35, 80])
    y = alt.Y("score:Q", title="accuracy, %").scale(shown)
    low, high = alt.Y("low:Q").scale(shown), alt.Y2("high:Q")
    others.sort(key=lambda row: row["score"])
    for number, row in enumerate(others):
        # Names of neighbors would cover each other.
        row["at"] = max([row["score"] - 1, *(other["at"] + 2.4 for other in others[:number])])
    points = alt.Chart(alt.Data(values=others)).encode(x)
    ink = "#1f6f5c"
    title = f"{task['task']}: SFT (line) and what pays with the fewest labels"
    return (
        alt.layer(
            sft.mark_area(color="#888", opacity=0.2).encode(x, low, high),
            sft.mark_line(color="#666", point={"color": "#666"}).encode(x, y),
            points.mark_point(size=70, filled=True, opacity=1, color=ink).encode(y),
            points.mark_text(align="left", dx=8, color=ink).encode(
                alt.Y("at:Q").scale(shown), text="name:N"
            ),
        )
        .properties(width=520, height=280, title=title)
        .configure(background="white")
    )


def main(folders: list[Path]) -> None:
    """Write the summary of several studies, and the picture of the first one."""
    tasks = [task for folder in folders for task in tell_tasks(folder)]
    (_HERE / "summary.json").write_text(json.dumps(tasks, indent=1) + "\n", encoding="utf-8")
    drawn = (t for t in tasks if (t["task"], t["best"]["labeled_tokens"]) == _DRAWN)
    draw(next(drawn)).save(_PICTURE)


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
