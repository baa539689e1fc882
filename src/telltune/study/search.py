"""Which settings suit a task: a small study on dev items, by successive halving.

Many settings are tried on little of the task data, the better ones on more of it, and two finalists
on all of it with several seeds (Jamieson & Talwalkar 2016, arXiv 1502.07943; here the resource is
task data, which leaves a learning curve of the winner behind). The best setting of each method
stays to the end of the halving, since methods need not rank on little data as they do on much.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, NamedTuple

from telltune.errors import DataError
from telltune.recipe import as_number
from telltune.study.planning import plan_cells
from telltune.study.runner import run_cells
from telltune.study.spec import ForgettingSpec, MethodEntry, StudySpec, cells_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.recipe import Recipe
    from telltune.study.results import Row
    from telltune.study.spec import Cell

__all__ = ["Candidate", "Rung", "Search", "candidates_of", "search"]

# Of the recipe's own learning rate and passes, which the number of examples has chosen.
_FACTORS = (0.5, 1.0, 2.0)
_RATIOS = (1.0, 4.0, 16.0)
_MOST = 24
_SEEDS = (0, 1)
_UNTRAINED = ("base", "few_shot")
_NOTHING, _BESIDE = ForgettingSpec(examples=0), ForgettingSpec(examples=32, prompts=16)
# A tenth of the finalists' data would rank settings by how quickly they begin, not by what they
# come to; a quarter is one halving of the candidates a halving of the data.
_SHARES = (0.25, 0.5, 1.0)
_LEAST = (
    "The least that a search runs (each method's own settings on a quarter and a half of the data, "
    "two finalists on all of it with two seeds) takes %s, and is run even if that is over the %g "
    "minutes given."
)
_log = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A method under settings.

    Attributes:
        method: Its name in recipes.
        learning_rate: Of `training`.
        passes: Of `mixture`.
        leverage_ratio: Of `mixture`; None where the method does not mix.
    """

    method: str
    learning_rate: float
    passes: int
    leverage_ratio: float | None

    @property
    def name(self) -> str:
        """In tables."""
        ratio = "" if self.leverage_ratio is None else f", ratio {self.leverage_ratio:g}"
        return f"{self.method}{ratio}, {self.passes} passes, lr {self.learning_rate:g}"

    @property
    def entry(self) -> MethodEntry:
        """In a study."""
        settings: dict[str, Any] = {
            "training.learning_rate": self.learning_rate,
            "mixture.passes": self.passes,
        }
        if self.leverage_ratio is not None:
            settings["mixture.leverage_ratio"] = self.leverage_ratio
        return MethodEntry(method=self.method, name=self.name, set=settings)

    @property
    def work(self) -> float:
        """Tokens to train for a task token; the anchor aside."""
        return self.passes + (self.leverage_ratio or 0.0)


@dataclass(frozen=True)
class Rung:
    """One round: the same candidates on the same task data.

    Attributes:
        size: Task tokens.
        seeds: Of each candidate.
        rows: A row a candidate and seed, failed ones included.
    """

    size: int
    seeds: tuple[int, ...]
    rows: list[Row]

    @property
    def scores(self) -> dict[str, float]:
        """The mean over seeds by a candidate's name, the best first; failed ones are not there."""
        found: dict[str, list[float]] = defaultdict(list)
        for row in self.rows:
            if row.status == "done":
                found[row.name].append(row.score)
        return dict(
            sorted(((name, fmean(s)) for name, s in found.items()), key=lambda item: -item[1])
        )


@dataclass(frozen=True)
class Search:
    """What a search tried.

    Attributes:
        rungs: The rounds, the last with all of the task data.
        candidates: By name.
        untrained: Rows of what needs no training, on the same items.
        quick: Rows of the baselines of seconds on the same items, at each size.
    """

    rungs: list[Rung]
    candidates: dict[str, Candidate]
    untrained: list[Row]
    quick: list[Row]

    def rows(self, name: str) -> dict[int, list[Row]]:
        """Return the rows of a candidate or baseline that were scored, by task tokens asked for."""
        found: dict[int, list[Row]] = {}
        for size in (rung.size for rung in self.rungs):
            rows = [*(r for rung in self.rungs for r in rung.rows), *self.quick]
            done = [r for r in rows if r.name == name and r.size == size and r.status == "done"]
            if done:
                found[size] = done
        return found


def candidates_of(recipe: Recipe, methods: Sequence[str]) -> list[Candidate]:
    """Settings to try, the likeliest first: the recipe's own of each method, then random others.

    These are neighbors of the recipe's own: half, the same or twice of its learning rate and of its
    passes. Random search, since few of the settings matter on any one task and which is not known
    (Bergstra & Bengio 2012). The draw is a function of the methods and the recipe's own settings,
    none of which is `auto`.
    """
    own = [
        Candidate(
            method,
            as_number(recipe.training.learning_rate),
            as_number(recipe.mixture.passes),
            recipe.mixture.leverage_ratio if _mixes(method) else None,
        )
        for method in methods
    ]
    others = []
    for first in own:
        ratios: Sequence[float | None] = _RATIOS if _mixes(first.method) else (None,)
        rates = [first.learning_rate * factor for factor in _FACTORS]
        passes = sorted({max(1, round(first.passes * factor)) for factor in _FACTORS})
        drawn = [Candidate(first.method, *s) for s in itertools.product(rates, passes, ratios)]
        random.Random(first.method).shuffle(drawn)  # a string seeds alike in every process
        others.append([one for one in drawn if one not in own])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*others))
    return [*own, *(one for one in turns if one is not None)][:_MOST]


def _mixes(method: str) -> bool:
    from telltune.methods.registry import get_method

    return get_method(method).mixes


def search(
    recipe: Recipe,
    methods: Sequence[str],
    task_tokens: int,
    out: Path,
    *,
    minutes: float,
    baselines: Sequence[str] = (),
    progress: bool = True,
) -> Search:
    """Try settings on the task's dev items within a budget of time.

    Called again on the same folder it goes on where it was: what is tried follows from rows that
    are there.

    Args:
        recipe: What all share.
        methods: Names of methods that train.
        task_tokens: All that there are.
        out: Where rows go.
        minutes: That the cells may take, as the first of them took. The least that can be done
            (each method's own settings, and two finalists) is done in any case.
        baselines: Names of the baselines of seconds, which are run first.
        progress: Show a bar.

    Raises:
        DataError: There is too little task data for a search, or no candidate could be trained.
    """
    sizes = [int(task_tokens * share) for share in _SHARES]

    if progress:
        _say_least(_least(recipe, methods, sizes), out, minutes)

    def run(
        names: Sequence[MethodEntry],
        size: int,
        seeds: tuple[int, ...],
        beside: ForgettingSpec = _NOTHING,
    ) -> list[Row]:
        return run_cells(
            _cells(recipe, names, size, seeds),
            beside,
            out,
            split="dev",
            general=recipe if recipe.general else None,
            progress=progress,
        )

    quick = []
    for size in sizes if baselines else ():
        entries = [MethodEntry(method=name, name=name) for name in baselines]
        quick += run(entries, size, _SEEDS if size == sizes[-1] else _SEEDS[:1])
    alive = candidates_of(recipe, methods)
    known = {candidate.name: candidate for candidate in alive}
    own = alive[: len(methods)]
    first = _some_done(run([one.entry for one in own], sizes[0], _SEEDS[:1]))
    costs = _Costs.of(first, known)
    if progress and (least := _seconds(own, costs)) > 60 * minutes:
        _log.warning(_LEAST, f"about {least / 60:,.1f} minutes as the first cells took", minutes)
    alive = alive[: _affordable(alive, len(own), costs, 60 * minutes)]
    rungs = []
    for size in sizes[:-1]:
        rows = _some_done(run([one.entry for one in alive], size, _SEEDS[:1]))
        rungs.append(Rung(size, _SEEDS[:1], rows))
        alive = [known[name] for name in _better_half(rungs[-1].scores, known)]
    # One of a method each: what a method saves shows only beside another.
    best = {known[name].method: known[name] for name in reversed(rungs[-1].scores)}
    ranked = sorted(best.values(), key=lambda one: -rungs[-1].scores[one.name])[:2]
    rows = _some_done(run([one.entry for one in ranked], sizes[-1], _SEEDS, _BESIDE))
    rungs.append(Rung(sizes[-1], _SEEDS, rows))
    plain = [MethodEntry(method=name, name=name) for name in _UNTRAINED]
    return Search(rungs, known, run(plain, sizes[-1], _SEEDS[:1]), quick)


def _some_done(rows: list[Row]) -> list[Row]:
    """Return the rows, of which one at least must be done.

    Raises:
        DataError: All have failed.
    """
    if all(row.status == "failed" for row in rows):
        raise DataError(f"no candidate could be run: {rows[0].reason}")
    return rows


def _least(recipe: Recipe, methods: Sequence[str], sizes: Sequence[int]) -> list[Cell]:
    """The cells that a search runs however little time it has, with each method's own settings."""
    own = [one.entry for one in candidates_of(recipe, methods)[: len(methods)]]
    return [
        *(cell for size in sizes[:-1] for cell in _cells(recipe, own, size, _SEEDS[:1])),
        *_cells(recipe, own[:2], sizes[-1], _SEEDS),
    ]


def _say_least(cells: Sequence[Cell], out: Path, minutes: float) -> None:
    """Say what is run whatever the budget, and how long its training takes where that is known."""
    seconds = [one.training_seconds for one in plan_cells(cells, out, measure=False)]
    known = [one for one in seconds if one is not None]
    if len(known) < len(seconds):
        _log.warning(_LEAST, "a time that is not known before the first cells have run", minutes)
    elif sum(known) > 60 * minutes:
        _log.warning(_LEAST, f"about {sum(known) / 60:,.1f} minutes of training alone", minutes)


def _cells(
    recipe: Recipe, entries: Sequence[MethodEntry], size: int, seeds: tuple[int, ...]
) -> list[Cell]:
    shared = recipe.model_dump(mode="json", exclude_unset=True)
    # Dev items choose among candidates here; weights that they chose would score too high.
    shared.setdefault("training", {})["early_stopping"] = False
    spec = StudySpec(
        recipe=shared,
        methods=list(entries),
        sizes=[size],
        seeds=list(seeds),
    )
    return cells_of(spec, name="the search")


def _better_half(scores: dict[str, float], known: dict[str, Candidate]) -> list[str]:
    """The better half, and the best of each method whatever its rank."""
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
    """Seconds of a cell, as the first cells took them at the smallest size.

    Attributes:
        training: By method, of a unit of `work`.
        besides: Of answering and all else, a cell.
    """

    training: dict[str, float]
    besides: float

    @classmethod
    def of(cls, rows: Sequence[Row], known: dict[str, Candidate]) -> _Costs:
        done = [row for row in rows if row.status == "done"]
        return cls(
            {row.method: row.seconds["training"] / known[row.name].work for row in done},
            median(sum(row.seconds.values()) - row.seconds["training"] for row in done),
        )

    def seconds(self, candidate: Candidate, share: float) -> float:
        rate = self.training.get(candidate.method, max(self.training.values()))
        return self.besides + rate * candidate.work * share / _SHARES[0]


def _affordable(candidates: Sequence[Candidate], least: int, costs: _Costs, seconds: float) -> int:
    """How many of the candidates, from the first, can go through all rungs in so many seconds."""
    count = least
    for more in range(least + 1, len(candidates) + 1):
        if _seconds(candidates[:more], costs) > seconds:
            break
        count = more
    return count


def _seconds(tried: Sequence[Candidate], costs: _Costs) -> float:
    """How long all rounds take for so many candidates at the start."""
    mean = [fmean(costs.seconds(one, share) for one in tried) for share in _SHARES]
    rest = mean[1] * ((len(tried) + 1) // 2) + mean[2] * 2 * len(_SEEDS)
    return mean[0] * len(tried) + rest + costs.besides * len(_UNTRAINED)
