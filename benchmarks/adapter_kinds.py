"""Measure what kinds of adapters bring: score, time and size at 60 examples of one task.

Every cell is SFT with the anchor on the embedded model, with the default settings except for the
key that names its kind. Rows are written to benchmarks/adapter_kinds.jsonl; cells that have a row
are skipped.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/adapter_kinds.py --minutes 60
    python benchmarks/adapter_kinds.py --table    # print a table of the rows
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import telltune
from machine import describe

ROWS = Path(__file__).with_suffix(".jsonl")
SEEDS = (0, 1)
TRAINING = {"early_stopping": False, "precision": "fp32"}
KINDS: dict[str, dict[str, Any]] = {
    "LoRA, rank 16": {},
    "rsLoRA": {"lora": {"use_rslora": True}},
    "DoRA": {"lora": {"use_dora": True}},
    "PiSSA": {"lora": {"init": "pissa_niter_16", "dropout": 0}},
    "OLoRA": {"lora": {"init": "olora", "dropout": 0}},
    "PiSSA, learning rate 1.3e-3": {
        "lora": {"init": "pissa_niter_16", "dropout": 0},
        "training": TRAINING | {"learning_rate": 1.3e-3},
    },
    "OLoRA, learning rate 1.3e-3": {
        "lora": {"init": "olora", "dropout": 0},
        "training": TRAINING | {"learning_rate": 1.3e-3},
    },
    "last 10 of 30 layers": {"lora": {"layers": list(range(20, 30))}},
    "QLoRA (nf4)": {"model": {"name": "embedded", "quantization": "nf4"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=600.0, help="Start no cell after that.")
    parser.add_argument("--table", action="store_true", help="Print the table; run nothing.")
    given = parser.parse_args()
    rows = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    if given.table:
        print_table(rows)
        return
    print(json.dumps(describe()))
    began = time.monotonic()
    for seed, kind in product(SEEDS, KINDS):
        cell = {"kind": kind, "seed": seed}
        if any(cell.items() <= row.items() for row in rows):
            continue
        if time.monotonic() - began > given.minutes * 60:
            break
        row = cell | run(kind, seed)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


def run(kind: str, seed: int) -> dict[str, Any]:
    """Fit and score one cell."""
    recipe = {
        "method": "sft_anchor",
        "model": "embedded",
        "task": {"embedded": "medical_specialty", "max_examples": 60},
        "training": TRAINING,
        "evaluation": {"max_items": 100},
        "seed": seed,
    } | KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        done = telltune.fit(recipe, Path(folder) / "adapter", progress=False)
        scored = telltune.evaluate(done.folder, progress=False)
        size = (Path(done.folder) / "adapter_model.safetensors").stat().st_size
    name, interval = scored.headline
    return {
        "metric": name,
        "score": round(interval.score, 1),
        "items": scored.items,
        "optimizer_steps": done.record["counts"]["optimizer_steps"],
        "trained_tokens": done.record["counts"]["trained_tokens"],
        "seconds": round(done.record["seconds"], 1),
        "answering_seconds": round(scored.seconds, 1),
        "megabytes": round(size / 1e6, 1),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print scores by seed, their mean, and the mean times and sizes of each kind."""
    print("| kind | accuracy, by seed | mean | training, s | answering, s | folder, MB |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind in KINDS:
        found = [row for row in rows if row["kind"] == kind]
        if not found:
            continue
        mean = {
            key: fmean(row[key] for row in found)
            for key in ("score", "seconds", "answering_seconds", "megabytes")
        }
        scores = ", ".join(f"{row['score']:.1f}" for row in found)
        print(
            f"| {kind} | {scores} | {mean['score']:.1f} | {mean['seconds']:.0f} | "
            f"{mean['answering_seconds']:.0f} | {mean['megabytes']:.0f} |"
        )


if __name__ == "__main__":
    main()
