"""Measure seconds and errors of online cascades on real streams, and of alternatives.

    python benchmarks/cascade.py   # 8 and 16 minutes on two cores; finished tasks are kept

For each of two embedded tasks, `tell fit` trains the top, TELL's adapter, on 300 training examples.
The others are the stream, in random order. `tell cascade` answers it, with a linear level on hashed
words below the top. The alternatives are:

- the top alone;
- the linear level alone, trained on the 300 examples;
- distillation: the top labels the first quarter, and the linear level learns it and answers the
  rest;
- a cascade that asks the top if the linear level is less certain than a threshold.

The top's labels and seconds are measured once for each input, and the alternatives are computed
from them. The cascade itself is run.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from machine import describe
from telltune.api import fit
from telltune.cli.console import print_table
from telltune.data.embedded import embedded_task
from telltune.research.streams.levels import LinearLevel
from telltune.research.streams.stream import DECISIONS, run_stream
from telltune.research.streams.top import local_model

HERE = Path(__file__).parent
RESULTS = HERE / "cascade.json"
WORK = HERE.parent / "runs" / "cascade"
TASKS = ("answer_kind", "medical_specialty")
LABELLED = 300
BATCH = 8
THRESHOLDS = (0.5, 0.7, 0.9)
PRICES = (0.1, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Told:
    """Labels that the top gives to a stream, and the seconds of each input."""

    labels: list[str | None]
    seconds: list[float]


def main() -> None:
    """Measure the tasks that are missing, and print the table."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": [], "linear": {}}
    done = {row["task"] for row in found["rows"]}
    for task in TASKS:
        if task not in done:
            rows, rate = measure(task)
            found["rows"] += rows
            found["linear"][task] = rate
            found["machine"] = describe()
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    shown = [
        (
            row["task"],
            row["way"],
            f"{row['accuracy']:.1f}",
            f"{row['like_top']:.1f}",
            f"{row['saved']:.0%}",
            f"{row['seconds']:.0f}",
        )
        for row in found["rows"]
    ]
    columns = ("task", "way", "right, %", "as the top, %", "top saved", "seconds")
    print_table("Streams", columns, shown)
    print({task: f"{rate:,.0f} inputs/s" for task, rate in found["linear"].items()})


def measure(name: str) -> tuple[list[dict[str, Any]], float]:
    """Return the rows of all ways on one task, and the linear level's inputs per second."""
    task = embedded_task(name)
    labels = sorted({example.completion for example in task.train})
    folder = WORK / name
    folder.mkdir(parents=True, exist_ok=True)
    labelled, rest = task.train[:LABELLED], [*task.train[LABELLED:], *task.dev, *task.test]
    order = np.random.default_rng(0).permutation(len(rest))
    texts = [rest[i].prompt for i in order]
    truth = [rest[i].completion for i in order]
    rows = [{"text": t, "label": k} for t, k in zip(texts, truth, strict=True)]
    write(folder / "stream.jsonl", rows)
    pairs = [{"prompt": e.prompt, "completion": e.completion} for e in labelled]
    write(folder / "labelled.jsonl", pairs)
    adapter = folder / "adapter"
    recipe = {
        "task": {"train": str(folder / "labelled.jsonl")},
        "general": "embedded",
        "anchor": {"prompt": task.anchor_prompt, "response": task.anchor_response},
        "mixture": {"leverage_ratio": 4, "passes": 4},
        "lora": {"dropout": 0},
        "training": {"learning_rate": 1e-3, "micro_batch_tokens": 4096},
    }
    fit(recipe, adapter)
    told = ask_all(adapter, labels, texts)
    found = [row(name, "top alone", told.labels, told, truth, asked=[True] * len(texts))]
    found += [cascade(name, folder, labels, told, truth, price) for price in PRICES]
    found += [by_threshold(name, labels, texts, told, truth, each) for each in THRESHOLDS]
    found.append(distilled(name, labels, texts, told, truth))
    level = LinearLevel(len(labels))
    for _ in range(4):
        learn(level, [(e.prompt, e.completion) for e in labelled], labels)
    alone, spent = answers_of(level, texts, labels)
    found.append(row(name, "linear alone, from the 300", alone, told, truth, spent=spent))
    return found, len(texts) / spent


def ask_all(adapter: Path, labels: list[str], texts: list[str]) -> Told:
    """Label the texts one by one with the top, as they come in a stream."""
    top = local_model("embedded", str(adapter), labels, "")
    top.label(texts[0])  # the first call also makes the engine
    said = [top.label(text) for text in texts]
    return Told([each.label for each in said], [each.seconds for each in said])


def cascade(
    name: str, folder: Path, labels: list[str], told: Told, truth: list[str], price: float
) -> dict[str, Any]:
    """Run `tell cascade`, and return its row."""
    spec = {
        "labels": labels,
        "levels": [{"kind": "linear", "decay": 0.97}],
        "top": {"adapter": str(folder / "adapter")},
        "price": price,
    }
    (folder / "cascade.yaml").write_text(yaml.safe_dump(spec))
    out = folder / f"out-{price}"
    run_stream(folder / "cascade.yaml", folder / "stream.jsonl", out)
    decisions = [json.loads(line) for line in (out / DECISIONS).read_text().splitlines()]
    asked = [d["by"] == "top" or "failure" in d for d in decisions]
    said = [d["label"] for d in decisions]
    spent = sum(d["seconds"] for d in decisions)
    way = f"cascade, price {price:g}"
    return row(name, way, said, told, truth, asked=asked, spent=spent)


def by_threshold(
    name: str,
    labels: list[str],
    texts: list[str],
    told: Told,
    truth: list[str],
    threshold: float,
) -> dict[str, Any]:
    """Ask the top below a threshold of confidence; the linear level learns from its labels."""
    level = LinearLevel(len(labels))
    kept: list[tuple[str, str]] = []
    said: list[str | None] = []
    asked = []
    began = time.perf_counter()
    for place, text in enumerate(texts):
        likely = level.likelihoods([text])[0]
        asked.append(bool(likely.max() < threshold))
        label = told.labels[place] if asked[-1] else None
        said.append(label if asked[-1] else labels[int(likely.argmax())])
        if label is not None:
            kept.append((text, label))
            if len(kept) == BATCH:
                learn(level, kept, labels)
                kept.clear()
    spent = time.perf_counter() - began
    spent += sum(s for s, was in zip(told.seconds, asked, strict=True) if was)
    way = f"threshold {threshold:g}"
    return row(name, way, said, told, truth, asked=asked, spent=spent)


def distilled(
    name: str, labels: list[str], texts: list[str], told: Told, truth: list[str]
) -> dict[str, Any]:
    """Label a quarter with the top; the linear level learns it and answers the rest."""
    first = len(texts) // 4
    level = LinearLevel(len(labels))
    pairs = [(t, k) for t, k in zip(texts[:first], told.labels[:first], strict=True) if k]
    began = time.perf_counter()
    for _ in range(4):
        learn(level, pairs, labels)
    rest, _ = answers_of(level, texts[first:], labels)
    spent = time.perf_counter() - began + sum(told.seconds[:first])
    asked = [place < first for place in range(len(texts))]
    said = [*told.labels[:first], *rest]
    return row(name, "distillation of a quarter", said, told, truth, asked=asked, spent=spent)


def learn(level: LinearLevel, pairs: list[tuple[str, str]], labels: list[str]) -> None:
    """Train on texts with their labels, in batches of the size that a cascade uses."""
    for start in range(0, len(pairs), BATCH):
        texts, said = zip(*pairs[start : start + BATCH], strict=True)
        level.learn(texts, [labels.index(label) for label in said])


def answers_of(
    level: LinearLevel, texts: list[str], labels: list[str]
) -> tuple[list[str | None], float]:
    """Return the level's answers and the seconds that they take, 32 inputs at a time."""
    began = time.perf_counter()
    said: list[str | None] = []
    for start in range(0, len(texts), 32):
        likely = level.likelihoods(texts[start : start + 32])
        said += [labels[int(i)] for i in likely.argmax(1)]
    return said, time.perf_counter() - began


def row(
    task: str,
    way: str,
    said: list[str | None],
    told: Told,
    truth: list[str],
    *,
    asked: list[bool] | None = None,
    spent: float | None = None,
) -> dict[str, Any]:
    """Return the row of a way; regret is its errors minus those of the top, by quarter."""
    asked = asked or [False] * len(said)
    like_top = np.array([s == t for s, t in zip(said, told.labels, strict=True)])
    wrong = np.array([s != t for s, t in zip(said, truth, strict=True)])
    base = np.array([s != t for s, t in zip(told.labels, truth, strict=True)])
    quarters = [len(said) * k // 4 for k in (1, 2, 3, 4)]
    return {
        "task": task,
        "way": way,
        "inputs": len(said),
        "accuracy": round(100 * float(1 - wrong.mean()), 2),
        "like_top": round(100 * float(like_top.mean()), 2),
        "saved": round(1 - sum(asked) / len(said), 4),
        "seconds": round(sum(told.seconds) if spent is None else spent, 2),
        "regret": [int(wrong[:q].sum() - base[:q].sum()) for q in quarters],
        "saved_by_quarter": [round(1 - float(np.mean(asked[:q])), 4) for q in quarters],
    }


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")


if __name__ == "__main__":
    main()
