"""Measure how far the choice of `tell recommend` falls behind the best method, on the study's rows.

    python benchmarks/leverage/regret.py runs/leverage

The study's answers stand in for those of a search. In each replicate, some test items serve as dev
items, two seeds of each trained method as its finalist, and one seed of each baseline. `choose`
picks a method from these, by the rule of `tell recommend`. The rest of the items and all seeds say
what each method is worth. Regret is the best method's score minus that of the choice, and the loss
to baselines is the best baseline's score minus that of the choice, or 0. Beside the rule is another
one, which prefers a baseline within one standard error of the best score. Methods with fewer draws
than `MIN_DRAWS` are left out.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from telltune.methods.baselines import Baseline
from telltune.methods.registry import get_method
from telltune.study.recommend import choose
from telltune.study.results import Results
from telltune.study.statistics.resampling import resample_runs
from telltune.study.statistics.summary import scored_run

if TYPE_CHECKING:
    from telltune.evaluation.registry import Floats, Scored

SIZES = (900, 2700)  # tokens of labeled examples; the larger sizes are SFT's alone
MIN_DRAWS = 6
DEV_ITEMS = (12, 30, 60, 100)
REPLICATES = 100
RESAMPLES = 1000
SEEDS = 2


def part(run: Scored, items: np.ndarray) -> Scored:
    """Return the run on some of its items."""
    return replace(run, per_item=run.per_item[items], statistics=run.statistics[items])


def prefer_baseline(names: list[str], scores: Floats, drawn: Floats, quick: set[str]) -> int:
    """Return the index of the best baseline within one standard error, else of the best score."""
    best = int(scores.argmax())
    noise = np.quantile(drawn[:, [best]] - drawn, 0.16, axis=0)
    alike = [i for i, name in enumerate(names) if name in quick and noise[i] <= 0]
    return max(alike or [best], key=lambda i: scores[i])


def lost_by(runs: dict[str, list[Scored]], quick: set[str], dev: int) -> list[float]:
    """Return the regret and the loss to baselines, by the rule and by the other one.

    Args:
        runs: The runs of each method, one per seed, all on the same items.
        quick: Names of the baselines.
        dev: Number of dev items.
    """
    rng = np.random.default_rng(0)
    names = list(runs)
    first = next(iter(runs.values()))
    lost = []
    for _ in range(REPLICATES):
        items = rng.permutation(len(first[0]))
        seeds = rng.permutation(len(first))[:SEEDS]
        tried = [
            [part(runs[name][s], items[:dev]) for s in seeds[: 1 if name in quick else SEEDS]]
            for name in names
        ]
        scores = np.array([fmean(run.score for run in group) for group in tried])
        drawn = resample_runs(tried, RESAMPLES)
        worth = [fmean(part(run, items[dev:]).score for run in runs[name]) for name in names]
        quickest = max(w for w, name in zip(worth, names, strict=True) if name in quick)
        chosen = [
            worth[choose(names, scores, drawn, {}, quick)],
            worth[prefer_baseline(names, scores, drawn, quick)],
        ]
        lost.append([x for own in chosen for x in (max(worth) - own, max(0.0, quickest - own))])
    return [float(mean) for mean in np.mean(lost, axis=0)]


def main(folder: Path) -> None:
    found: dict[tuple[str, int], dict[str, dict[int, Scored]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    quick = set()
    for row in Results(folder).rows:
        if row.status == "done" and row.size in SIZES:
            found[row.task, row.size][row.name][row.seed] = scored_run(folder, row)
            if isinstance(get_method(row.method), Baseline):
                quick.add(row.name)
    print(
        "| task, labeled tokens | methods, paired draws | dev items | regret | to baselines |",
        end="",
    )
    print(" other rule: regret | to baselines |\n|---|---|---:|---:|---:|---:|---:|")
    for (task, size), methods in sorted(found.items()):
        methods = {name: drawn for name, drawn in methods.items() if len(drawn) >= MIN_DRAWS}
        if methods.keys() <= quick or not methods.keys() & quick:
            continue
        seeds = sorted(set.intersection(*(set(by_seed) for by_seed in methods.values())))
        runs = {name: [by_seed[seed] for seed in seeds] for name, by_seed in methods.items()}
        for dev in DEV_ITEMS:
            cells = " | ".join(f"{mean:.1f}" for mean in lost_by(runs, quick & runs.keys(), dev))
            print(f"| {task}, {size:,} | {len(runs)}, {len(seeds)} | {dev} | {cells} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
