"""Measure how far the choice of `tell recommend` falls behind the best method, on the study's rows.

    python benchmarks/leverage/regret.py runs/leverage

The study's answers stand in for those of a search. In each replicate, some test items serve as dev
items, two seeds of each trained method as its finalist, and one seed of each baseline. `choose`
picks a method from these, by the rule of `tell recommend`. The rest of the items and all seeds say
what each method is worth. Regret is the best method's score minus that of the choice, and the loss
to baselines is the best baseline's score minus that of the choice, or 0. Both are also given for a
search without `chosen_em`. Methods with fewer draws than `MIN_DRAWS` are left out.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from telltune.methods.baselines import CHOSEN_EM, Baseline
from telltune.methods.registry import get_method
from telltune.study.recommend import choose
from telltune.study.results import Results
from telltune.study.statistics.resampling import resample_runs
from telltune.study.statistics.summary import scored_run

if TYPE_CHECKING:
    from telltune.evaluation.registry import Scored

DEV_ITEMS = {900: 20, 2700: 60}
"""Dev items by tokens of labeled examples: as many as labels, which a search holds out in folds."""
MIN_DRAWS = 6
REPLICATES = 100
RESAMPLES = 1000
SEEDS = 2
HEAD = (
    "| task | labels | words about labels | methods | draws | regret | to baselines "
    "| without `chosen_em`: regret | to baselines |\n|---|---:|---|---:|---:|---:|---:|---:|---:|"
)


def part(run: Scored, items: np.ndarray) -> Scored:
    """Return the run on some of its items."""
    return replace(run, per_item=run.per_item[items], statistics=run.statistics[items])


def lost_by(runs: dict[str, list[Scored]], quick: set[str], dev: int) -> list[float]:
    """Return the regret and the loss to baselines, with `chosen_em` and without it.

    Args:
        runs: The runs of each method, one per seed, all on the same items.
        quick: Names of the baselines.
        dev: Number of dev items.
    """
    rng = np.random.default_rng(0)
    names = list(runs)
    methods = [name.partition(" ")[0] for name in names]  # without the words about labels
    fast = [method for method, name in zip(methods, names, strict=True) if name in quick]
    first = next(iter(runs.values()))
    every = list(range(len(names)))
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
        found = []
        for among in (every, [i for i in every if methods[i] != CHOSEN_EM.name]):
            best = choose([methods[i] for i in among], scores[among], drawn[:, among], {}, fast)
            own = worth[among[best]]
            found += [max(worth) - own, max(0.0, quickest - own)]
        lost.append(found)
    return [float(mean) for mean in np.mean(lost, axis=0)]


def faced(names: list[str], known: str) -> list[str]:
    """Return the methods among which a search with these words about the labels chooses."""
    if not known:
        return [name for name in names if "+" not in name]
    # Plain training does not read the words.
    return [name for name in names if name.endswith(f"+ {known}") or name in ("sft", "tell")]


def main(folder: Path) -> None:
    found: dict[tuple[str, int], dict[str, dict[int, Scored]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    quick = set()
    for row in Results(folder).rows:
        if row.status == "done" and row.size in DEV_ITEMS:
            found[row.task, row.size][row.name][row.seed] = scored_run(folder, row)
            if isinstance(get_method(row.method), Baseline):
                quick.add(row.name)
    print(HEAD)
    for (task, size), methods in sorted(found.items()):
        often = [name for name, drawn in methods.items() if len(drawn) >= MIN_DRAWS]
        for known in ("", "names", "descriptions"):
            names = faced(often, known)
            if len(quick.intersection(names)) < 2:
                continue
            seeds = sorted(set.intersection(*(set(methods[name]) for name in names)))
            runs = {name: [methods[name][seed] for seed in seeds] for name in names}
            lost = lost_by(runs, quick.intersection(names), DEV_ITEMS[size])
            cells = f"{task} | {DEV_ITEMS[size]} | {known or '-'} | {len(names)} | {len(seeds)}"
            print(f"| {cells} | {' | '.join(f'{mean:.1f}' for mean in lost)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
