"""Search for settings that suit a task: a small study on dev items by successive halving.

Many settings are tried on a small part of the task data, the better ones on more of it, and two
finalists on all of it with several seeds (Jamieson & Talwalkar 2016, arXiv 1502.07943). Here the
resource is task data, which also yields a learning curve of the winner. The best setting of each
method is kept until the last halving, because the ranking of methods may change with more data.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

from telltune.errors import DataError
from telltune.methods.registry import get_method
from telltune.recipe import Recipe, as_number
from telltune.study.planning import plan_cells
from telltune.study.runner import run_cells
from telltune.study.spec import Cell, ForgettingSpec, MethodEntry, StudySpec, cells_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.study.results import ResultRow

# Factors of the recipe's learning rate and passes, which depend on the number of examples.
_FACTORS = (0.5, 1.0, 2.0)
_RATIOS = (1.0, 4.0, 16.0)
_MOST = 24
_SEEDS = (0, 1)
_UNTRAINED = ("base", "few_shot")
_NOTHING, _BESIDE = ForgettingSpec(examples=0), ForgettingSpec(examples=32, prompts=16)
# A tenth of the finalists' data would rank settings by their speed at the start, not by their final
# score. From a quarter on, each doubling of the data goes with one halving of the candidates.
_SHARES = (0.25, 0.5, 1.0)
_LEAST = (
    "A search runs at least each method's own settings on a quarter and a half of the data, and "
    "two finalists on all of it with %d seeds. This takes %s, and runs even if it exceeds the "
    "budget of %g minutes."
)
_log = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A method with settings.

    Attributes:
        leverage_ratio: Value of `mixture.leverage_ratio`; None if the method does not mix.
    """

    method: str
    learning_rate: float
    passes: int
    leverage_ratio: float | None

    @property
    def name(self) -> str:
        """Name in tables."""
        ratio = "" if self.leverage_ratio is None else f", ratio {self.leverage_ratio:g}"
        return f"{self.method}{ratio}, {self.passes} passes, lr {self.learning_rate:g}"

    @property
    def entry(self) -> MethodEntry:
        """Method entry of a study."""
        settings: dict[str, Any] = {
            "training.learning_rate": self.learning_rate,
            "mixture.passes": self.passes,
        }
        if self.leverage_ratio is not None:
            settings["mixture.leverage_ratio"] = self.leverage_ratio
        return MethodEntry(method=self.method, name=self.name, set=settings)

    @property
    def work(self) -> float:
        """Number of trained tokens per task token, without the anchor."""
        return self.passes + (self.leverage_ratio or 0.0)


@dataclass(frozen=True)
class Rung:
    """One round of the search: several candidates on the same task data.

    Attributes:
        size: Number of task tokens.
        rows: One row per candidate and seed, including failed ones.
    """

    size: int
    seeds: tuple[int, ...]
    rows: list[ResultRow]

    @property
    def scores(self) -> dict[str, float]:
        """Mean score over seeds by candidate name, the best first; failed ones are excluded."""
        found: dict[str, list[float]] = defaultdict(list)
        for row in self.rows:
            if row.status == "done":
                found[row.name].append(row.score)
        return dict(
            sorted(((name, fmean(s)) for name, s in found.items()), key=lambda item: -item[1])
        )


@dataclass(frozen=True)
class Search:
    """Results of a search.

    Attributes:
        rungs: Rounds of the search; the last one uses all of the task data.
        untrained: Rows of the methods without training, on the same items.
        quick: Rows of the baselines on the same items, at each size.
    """

    rungs: list[Rung]
    candidates: dict[str, Candidate]
    untrained: list[ResultRow]
    quick: list[ResultRow]

    def rows(self, name: str) -> dict[int, list[ResultRow]]:
        """Return the scored rows of a candidate or baseline by requested task tokens."""
        found: dict[int, list[ResultRow]] = {}
        for size in (rung.size for rung in self.rungs):
            rows = [*(r for rung in self.rungs for r in rung.rows), *self.quick]
            done = [r for r in rows if r.name == name and r.size == size and r.status == "done"]
            if done:
                found[size] = done
        return found


def candidates_of(recipe: Recipe, methods: Sequence[str]) -> list[Candidate]:
    """Return the settings to try: the recipe's own for each method, then random neighbors.

    Neighbors have half, the same or twice the recipe's learning rate and passes. They are sampled
    at random because only a few settings matter on a given task, and these are unknown (Bergstra &
    Bengio 2012). The draw depends only on the methods and the recipe's settings, none of which may
    be `auto`.
    """
    own = [
        Candidate(
            method,
            as_number(recipe.training.learning_rate),
            as_number(recipe.mixture.passes),
            recipe.mixture.leverage_ratio if get_method(method).uses_general else None,
        )
        for method in methods
    ]
    others = []
    for first in own:
        ratios: Sequence[float | None] = _RATIOS if first.leverage_ratio is not None else (None,)
        rates = [first.learning_rate * factor for factor in _FACTORS]
        passes = sorted({max(1, round(first.passes * factor)) for factor in _FACTORS})
        drawn = [Candidate(first.method, *s) for s in itertools.product(rates, passes, ratios)]
        random.Random(first.method).shuffle(drawn)  # a string seed is the same in every process
        others.append([one for one in drawn if one not in own])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*others))
    return [*own, *(one for one in turns if one is not None)][:_MOST]


def search(
    recipe: Recipe,
    methods: Sequence[str],
    task_tokens: int,
    out: Path,
    *,
    minutes: float,
    baselines: Sequence[str] = (),
    folds: int = 1,
    progress: bool = True,
) -> Search:
    """Try settings on the task's dev items within a budget of time.

    A repeated call on the same folder resumes where it stopped, because the candidates follow from
    the existing rows.

    Args:
        recipe: Recipe shared by all candidates.
        methods: Names of methods that train.
        task_tokens: Number of available task tokens.
        out: Folder to which rows are written.
        minutes: Time budget of the cells in minutes, estimated from the first cells. The minimum
            search (each method's own settings, and two finalists) runs in any case.
        baselines: Names of the baselines, which run first.
        folds: Number of parts of the training data that serve as dev data in turn. With more than
            one, all that is compared in the end runs once on each, and all before on the first.
        progress: Whether to show a progress bar.

    Raises:
        DataError: There is too little task data for a search, or no candidate could be trained.
    """
    sizes = [int(task_tokens * share) for share in _SHARES]
    last = tuple(range(folds)) if folds > 1 else _SEEDS
    unseeded = last if folds > 1 else _SEEDS[:1]

    def cells(entries: Sequence[MethodEntry], size: int, seeds: tuple[int, ...]) -> list[Cell]:
        return [
            cell
            for seed in seeds
            for cell in _cells(recipe, entries, size, seed, fold=seed if folds > 1 else None)
        ]

    if progress:
        tried = [one.entry for one in candidates_of(recipe, methods)[: len(methods)]]
        least = [cell for size in sizes[:-1] for cell in cells(tried, size, _SEEDS[:1])]
        _say_least([*least, *cells(tried[:2], sizes[-1], last)], len(last), out, minutes)

    def run(
        names: Sequence[MethodEntry],
        size: int,
        seeds: tuple[int, ...],
        beside: ForgettingSpec = _NOTHING,
    ) -> list[ResultRow]:
        return run_cells(
            cells(names, size, seeds),
            beside,
            out,
            split="dev",
            general=recipe if recipe.general else None,
            progress=progress,
        )

    quick = []
    for size in sizes if baselines else ():
        entries = [MethodEntry(method=name, name=name) for name in baselines]
        quick += run(entries, size, last if size == sizes[-1] else _SEEDS[:1])
    alive = candidates_of(recipe, methods)
    known = {candidate.name: candidate for candidate in alive}
    own = alive[: len(methods)]
    first = _some_done(run([one.entry for one in own], sizes[0], _SEEDS[:1]))
    costs = _Costs.of(first, known)
    if progress and (expected := _seconds(own, costs, len(last))) > 60 * minutes:
        by_first = f"about {expected / 60:,.1f} minutes, judging by the first cells"
        _log.warning(_LEAST, len(last), by_first, minutes)
    alive = alive[: _affordable(alive, len(own), costs, 60 * minutes, len(last))]
    rungs = []
    for size in sizes[:-1]:
        rows = _some_done(run([one.entry for one in alive], size, _SEEDS[:1]))
        rungs.append(Rung(size, _SEEDS[:1], rows))
        alive = [known[name] for name in _better_half(rungs[-1].scores, known)]
    # The finalists are two different methods, so that they can be compared.
    best = {known[name].method: known[name] for name in reversed(rungs[-1].scores)}
    ranked = sorted(best.values(), key=lambda one: -rungs[-1].scores[one.name])[:2]
    rows = _some_done(run([one.entry for one in ranked], sizes[-1], last, _BESIDE))
    rungs.append(Rung(sizes[-1], last, rows))
    plain = [MethodEntry(method=name, name=name) for name in _UNTRAINED]
    return Search(rungs, known, run(plain, sizes[-1], unseeded), quick)


def _some_done(rows: list[ResultRow]) -> list[ResultRow]:
    """Return the rows unchanged if at least one is done.

    Raises:
        DataError: All rows have failed.
    """
    if all(row.status == "failed" for row in rows):
        raise DataError(f"no candidate could be run: {rows[0].reason}")
    return rows


def _say_least(cells: Sequence[Cell], seeds: int, out: Path, minutes: float) -> None:
    """Warn if the minimum search may exceed the budget, with its training time if known."""
    planned = plan_cells(cells, out, _NOTHING, measure=False, split="dev")
    seconds = [one.training_seconds for one in planned]
    known = [one for one in seconds if one is not None]
    if len(known) < len(seconds):
        _log.warning(_LEAST, seeds, "an unknown time until the first cells have run", minutes)
    elif sum(known) > 60 * minutes:
        alone = f"about {sum(known) / 60:,.1f} minutes of training alone"
        _log.warning(_LEAST, seeds, alone, minutes)


def _cells(
    recipe: Recipe, entries: Sequence[MethodEntry], size: int, seed: int, *, fold: int | None
) -> list[Cell]:
    shared = recipe.model_dump(mode="json", exclude_unset=True)
    if fold is not None:
        shared["task"]["dev_fold"] = fold
    # Dev items select the candidates; early stopping on the same items would bias their scores.
    shared.setdefault("training", {})["early_stopping"] = False
    spec = StudySpec(
        recipe=shared,
        methods=list(entries),
        sizes=[size],
        seeds=[seed],
    )
    cells = cells_of(spec, name="the search")
    # A method that does not use a seed has one cell for all of them, but one for each fold.
    return cells if fold is None else [replace(cell, seed=seed) for cell in cells]


def _better_half(scores: dict[str, float], known: dict[str, Candidate]) -> list[str]:
    """Return the better half, plus the best candidate of each method regardless of its rank."""
    ranked = list(scores)
    kept = ranked[: (len(ranked) + 1) // 2]
    methods = {known[name].method for name in kept}
    for name in ranked:
        if known[name].method not in methods:
            methods.add(known[name].method)
            kept.append(name)
    return kept


@dataclass(frozen=True)
class _Costs:
    """Time of a cell in seconds, measured on the first cells at the smallest size.

    Attributes:
        training: Training time per unit of `work`, by method.
        besides: Time per cell outside training.
    """

    training: dict[str, float]
    besides: float

    @classmethod
    def of(cls, rows: Sequence[ResultRow], known: dict[str, Candidate]) -> _Costs:
        done = [row for row in rows if row.status == "done"]
        return cls(
            {row.method: row.seconds["training"] / known[row.name].work for row in done},
            median(sum(row.seconds.values()) - row.seconds["training"] for row in done),
        )

    def seconds(self, candidate: Candidate, share: float) -> float:
        rate = self.training.get(candidate.method, max(self.training.values()))
        return self.besides + rate * candidate.work * share / _SHARES[0]


def _affordable(
    candidates: Sequence[Candidate], least: int, costs: _Costs, seconds: float, seeds: int
) -> int:
    """Return how many of the first candidates fit into a search of the given seconds."""
    count = least
    for more in range(least + 1, len(candidates) + 1):
        if _seconds(candidates[:more], costs, seeds) > seconds:
            break
        count = more
    return count


def _seconds(tried: Sequence[Candidate], costs: _Costs, seeds: int) -> float:
    """Estimate the seconds of all rounds for the initial candidates."""
    mean = [fmean(costs.seconds(one, share) for one in tried) for share in _SHARES]
    rest = mean[1] * ((len(tried) + 1) // 2) + mean[2] * 2 * seeds
    return mean[0] * len(tried) + rest + costs.besides * len(_UNTRAINED)
