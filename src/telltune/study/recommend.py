"""Recommendation of a recipe for a task by a small search, with its expected score."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.given import given_recipe
from telltune.data.task import TaskData, load_task, unlabeled_beside
from telltune.data.writing import check_unread
from telltune.errors import DataError, RecipeError
from telltune.evaluation.headline import task_answers
from telltune.evaluation.score import PERPLEXITY
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.model_info import load_model_info
from telltune.fitting.trained_method import TrainedMethod
from telltune.inference.labels import labels_of
from telltune.methods.baselines import CHOSEN_EM, suitable_baselines
from telltune.methods.registry import get_method
from telltune.recipe import AnyRecipe, Recipe, TaskSpec, as_recipe
from telltune.storage import write_json, write_text
from telltune.study.runner import claim_folder
from telltune.study.search import Search, search
from telltune.study.statistics.resampling import Runs, join_items, resample_runs
from telltune.study.statistics.summary import scored_run
from telltune.training.progress import phase

if TYPE_CHECKING:
    from collections.abc import Collection

    from telltune.evaluation.registry import Floats
    from telltune.study.results import ResultRow

RECOMMENDED = "recipe.yaml"
"""File name of the recommended recipe in the folder of the search."""

_MORE = 100
# With few dev items, noise decides which method looks best; docs/guides/recommend.md says at what
# cost. Fewer held-out items are replaced by more folds.
_DEV_SHARE, _DEV_ITEMS = 0.2, 60
_TAIL = (1 - 0.95) / 2
# Share of a normal distribution that lies beyond one standard error on one side.
_ONE_ERROR = 0.16
# Significance level of a baseline's lead over `chosen_em`, one-sided.
_CHANCE = 0.05
_RESAMPLES = 10_000
# Up to this number of labeled examples, picking them and the names of labels were measured to pay;
# see docs/guides/levers.md.
_FEW_LABELS = 120
_PSEUDO_LABEL = "_pseudo_label"
_NO_NAMES = (
    "The recipe does not list the labels; with few examples, a classifier learns much from their "
    "names, or from words about them, in `task.labels`."
)
_NO_WORDS = (
    "`task.labels` lists names only; with few examples, a classifier learns more from a name and a "
    'few words about it, such as `billing: "billing: invoices, charges and refunds"`.'
)
_NO_UNLABELED = (
    "The recipe has no unlabeled inputs; if you have some, add them as `task.unlabeled`, and "
    "pseudo-labels are tried too."
)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return text such as `63.1 (55.0 to 70.2)`."""
        return f"{self.value:.1f} ({self.low:.1f} to {self.high:.1f})"


@dataclass(frozen=True)
class Recommendation:
    """Recommended recipe with its evidence.

    Attributes:
        name: Name of the method with its settings.
        method: Name of the method in recipes.
        recipe: Complete recipe that uses all of the task data.
        metric: Name of the headline metric.
        items: Number of dev items used for the choice.
        expected: Expected score on similar items, corrected for the optimism of choosing the best.
        rivals: Score of the recommended recipe minus that of each other finalist, by name.
        beside: Forgetting of each finalist by name, averaged over seeds; empty if the recipe has no
            general data. See `ResultRow.forgetting`.
        more_examples: Expected gain from another hundred task examples; None if the method does not
            learn from them or too few sizes were tried.
        tried: Number of candidates at the smallest size.
        seconds: Total time of all cells in seconds.
        warnings: Reasons why the scores of the recommended candidate may be misleading; one
            sentence each.
        advice: Remarks on a baseline that may be enough, and on unlabeled inputs: what they
            brought, or that there are none; one sentence each.
    """

    name: str
    method: str
    recipe: Recipe
    metric: str
    items: int
    expected: Estimate
    rivals: dict[str, Estimate]
    beside: dict[str, dict[str, float]]
    more_examples: Estimate | None
    tried: int
    seconds: float
    warnings: tuple[str, ...]
    advice: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether the method trains an adapter."""
        return get_method(self.method).trains

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return asdict(self) | {"recipe": self.recipe.model_dump(mode="json")}


def recommend(
    recipe: AnyRecipe, out: str | Path, *, minutes: float = 60.0, progress: bool = True
) -> Recommendation:
    """Search for the method and settings that suit a task, on its dev items alone.

    The baselines run first. Then SFT is tried, with an anchor also SFT with the anchor, and with
    general data TELL, at several learning rates, passes and leverage ratios. If the answers are
    labels, TELL (or SFT) is combined with a classifier instead. If there are unlabeled inputs,
    pseudo-labels are tried. Base, few-shot and the baselines are compared with the finalists and
    can win. Test items are not answered, but their reference answers help to select the metric. If
    a task has no dev items, a fifth of the training data is held out for the search, and in the end
    another fifth under each seed; the recommended recipe trains on all of it.

    Args:
        recipe: Recipe with the task, the model and the initial settings.
        out: Output folder for rows, `recipe.yaml` and recommendation.json. A repeated call on the
            same folder resumes where it stopped.
        minutes: Time budget in minutes; the minimum search may take longer.
        progress: Whether to show a progress bar.

    Raises:
        RecipeError: Lower values of the metric are better.
        DataError: There is too little task data.

    Examples:
        >>> found = telltune.recommend("recipes/demo.yaml", "runs/search", minutes=30)
        >>> fitted = telltune.fit("runs/search/recipe.yaml", "runs/recommended")
    """
    out = Path(out)
    if isinstance(recipe, str | Path):
        check_unread(out / RECOMMENDED, [Path(recipe)])
    recipe = given_recipe(recipe)
    given = recipe.task
    lends = not (given.embedded or given.dev or given.dev_share)
    if lends:
        recipe = recipe.changed(task={"dev_share": _DEV_SHARE})
    with phase("reading the data", shown=progress):
        task = load_task(recipe)
    metric = task_answers(recipe, task).metrics[0]
    if metric == PERPLEXITY:
        raise RecipeError(
            "a search needs a metric where higher is better; set one in evaluation.metrics."
        )
    quick = suitable_baselines(task, [metric])
    methods = _methods(recipe, task, labels="tfidf_linear" in quick)
    plain = get_method("sft")
    assert isinstance(plain, TrainedMethod)  # by its name
    run_plan = build_run_plan(plain, task, None, load_model_info(recipe.model), recipe)
    counts = run_plan.counts
    folds = (
        min(round(1 / _DEV_SHARE), max(2, math.ceil(_DEV_ITEMS / len(task.dev)))) if lends else 1
    )
    claim_folder(out)
    found = search(
        run_plan.recipe,
        methods,
        counts.task_tokens,
        out,
        minutes=minutes,
        baselines=quick,
        folds=folds,
        progress=progress,
    )
    recommendation = _judge(found, out, recipe, given, counts.task_examples, folds)
    advice = _advice(found, recommendation, task, counts.task_examples)
    recommendation = replace(recommendation, advice=advice)
    write_json(out / "recommendation.json", recommendation.to_dict())
    write_text(
        out / RECOMMENDED,
        f"# {recommendation.name}: {metric} {recommendation.expected} expected, "
        f"by {recommendation.items} dev items.\n{recommendation.recipe.to_yaml()}",
    )
    return recommendation


def _methods(recipe: Recipe, task: TaskData, *, labels: bool) -> list[str]:
    uses_general, anchored = recipe.general is not None, task.anchor is not None
    found = ["sft_anchor", "sft"] if anchored else ["sft"]
    best = "tell" if uses_general and anchored else "sft"
    if uses_general and not (anchored and labels):
        found.insert(0, "tell" if anchored else "mix")
    unlabeled = bool(unlabeled_beside(task, task.train))
    if unlabeled:
        found.insert(0, best + _PSEUDO_LABEL)
    if labels:
        found.insert(0, f"{best}_product")
    if unlabeled and labels:
        found.insert(0, f"{best}{_PSEUDO_LABEL}_product")
    return found


def _advice(found: Search, best: Recommendation, task: TaskData, examples: int) -> tuple[str, ...]:
    """Return whether a baseline is enough, and what unlabeled inputs brought, a sentence each."""
    advice = []
    quick = {row.name for row in found.quick}
    enough = [name for name, gap in best.rivals.items() if name in quick and gap.low <= 0]
    if best.name not in quick and enough:
        advice.append(
            f"`{enough[0]}` may be enough: it takes seconds, forgets nothing, and scored "
            f"{best.rivals[enough[0]].value:.1f} points less, a difference that {best.items:,} dev "
            "items do not prove."
        )
    few = examples <= _FEW_LABELS
    if few and not task.labels and labels_of(task, task.train):
        advice.append(_NO_NAMES)
    if few and task.labels and all(label == words for label, words in task.labels.items()):
        advice.append(_NO_WORDS)
    if not task.unlabeled:
        return (*advice, _NO_UNLABELED)
    # If the recipe itself has pseudo-labels, no candidate is without.
    for rung in reversed(found.rungs if best.recipe.pseudo_label is None else ()):
        scores: dict[bool, float] = {}
        for name, score in rung.scores.items():  # the best first
            scores.setdefault(_PSEUDO_LABEL in found.candidates[name].method, score)
        if len(scores) == 2:
            advice.append(
                f"With pseudo-labels of {len(task.unlabeled):,} unlabeled inputs, the best setting "
                f"scored {scores[True]:.1f}, and {scores[False]:.1f} without, on {rung.size:,} "
                "task tokens."
            )
            break
    if best.method.startswith(("encoder", "combined", "chosen")) and few:
        advice.append(
            "Let `tell pick` choose what to label next: with few labels, picked inputs help a "
            "classifier on the sentence encoder more than random ones."
        )
    return tuple(advice)


def _judge(
    found: Search, out: Path, recipe: Recipe, task: TaskSpec, examples: int, folds: int
) -> Recommendation:
    """Choose among the finalists and the methods without training."""
    last = found.rungs[-1]
    groups: dict[str, list[ResultRow]] = {}
    quick = [row for row in found.quick if row.size == last.size]
    for row in [*last.rows, *found.untrained, *quick]:
        if row.status == "done":
            groups.setdefault(row.name, []).append(row)
    # What failed on a fold was not scored on the same items.
    names = [name for name in groups if len(groups[name]) >= folds]
    if not names:
        raise DataError("no method could be run on all parts of the data; see the warnings above.")
    runs = [[scored_run(out, row) for row in groups[name]] for name in names]
    if folds > 1:
        runs = [[join_items(group)] for group in runs]
    scores = np.array([np.mean([run.score for run in group]) for group in runs])
    drawn = resample_runs(runs, _RESAMPLES)
    flattery = optimism(scores, drawn)
    percent = runs[0][0].percent
    beside = {name: _beside(groups[name]) for name in last.scores if name in names}
    losses = {name: told["general_nll_after"] for name, told in beside.items() if told}
    best = choose(names, scores, drawn, losses, {row.name for row in quick})
    name, rows = names[best], groups[names[best]]
    return Recommendation(
        name=name,
        method=rows[0].method,
        # Use all data that the user named, including what was held out for the search.
        recipe=as_recipe(rows[0].recipe).model_copy(update={"task": task, "seed": recipe.seed}),
        metric=rows[0].metric,
        items=len(runs[best][0]),
        expected=_expected(scores[best], drawn[:, best], flattery, percent=percent),
        rivals={
            names[i]: _estimate(scores[best] - scores[i], drawn[:, best] - drawn[:, i])
            for i in np.argsort(-scores)
            if i != best
        },
        beside=beside,
        more_examples=_more(found, out, name, examples),
        tried=len(found.rungs[0].rows),
        seconds=sum(
            sum(row.seconds.values())
            for row in [
                *(r for rung in found.rungs for r in rung.rows),
                *found.untrained,
                *found.quick,
            ]
        ),
        warnings=tuple(dict.fromkeys(warning for row in rows for warning in row.warnings)),
    )


def choose(
    names: list[str],
    scores: Floats,
    drawn: Floats,
    losses: dict[str, float],
    quick: Collection[str] = (),
) -> int:
    """Return the index of the highest score, or of a safer method that is not told apart from it.

    Among equal scores, a baseline is preferred because it needs no training and forgets nothing. A
    baseline with the highest score gives way to `chosen_em`, which held-out labels have chosen,
    unless the dev items show at 95% that it is better. A finalist with the highest score gives way
    to another one that forgets less and scores within one standard error (Breiman et al. 1984). It
    does not give way to a baseline; docs/guides/recommend.md has the measurements.

    Args:
        names: The m names.
        scores: Shape (m,). Mean scores.
        drawn: Shape (resamples, m). Resampled scores.
        losses: Loss of general examples after training, by name of the finalist.
        quick: Names of the baselines.
    """
    best = max(range(len(names)), key=lambda i: (scores[i], names[i] in quick))
    if names[best] in quick and CHOSEN_EM.name in names:
        settled = names.index(CHOSEN_EM.name)
        lead = np.quantile(drawn[:, best] - drawn[:, settled], _CHANCE)
        return best if lead > 0 else settled
    if names[best] not in losses:
        return best
    noise = np.quantile(drawn[:, [best]] - drawn, _ONE_ERROR, axis=0)
    alike = [i for i, name in enumerate(names) if name in losses and noise[i] <= 0]
    return min(alike, key=lambda i: losses[names[i]])


def _beside(rows: list[ResultRow]) -> dict[str, float]:
    kinds = rows[0].forgetting
    return {kind: fmean(row.forgetting[kind] for row in rows) for kind in kinds}


def optimism(scores: Floats, drawn: Floats) -> float:
    """Estimate by how much choosing the best of several overestimates its score.

    Each resample chooses its own best, which scores higher there than in the observed scores.

    Args:
        scores: Shape (m,). Observed scores.
        drawn: Shape (resamples, m). Resampled scores.

    Returns:
        Optimism in the units of the score, at least 0.

    Source: Efron & Tibshirani (1993), section 17.6, for the choice of a model.
    """
    chosen = drawn.argmax(axis=1)
    flattery = drawn[np.arange(len(drawn)), chosen] - scores[chosen]
    return max(0.0, float(flattery.mean()))


def _expected(score: float, drawn: Floats, flattery: float, *, percent: bool) -> Estimate:
    """Subtract the optimism; scale a score in percent instead, so that it stays above 0."""
    if percent:
        kept = 1 - flattery / max(score, flattery, 1e-9)
        return _estimate(score * kept, drawn * kept)
    return _estimate(score - flattery, drawn - flattery)


def gain_of_more(curve: dict[float, Runs], now: float, more: float) -> Estimate:
    """Extrapolate the gain from further task examples along a straight line over log examples.

    Args:
        curve: Runs by number of task examples, at two or more sizes, on the same items.
        now: Current number of examples.
        more: Number of additional examples.

    Returns:
        Gain in the units of the score, at least 0: more data is assumed to do no harm. It is capped
        where the line would exceed 100%.
    """
    sizes = sorted(curve)
    groups = [curve[size] for size in sizes]
    seen = np.array([[np.mean([run.score for run in group]) for group in groups]])
    logs = np.log(sizes)
    centred = logs - logs.mean()
    weights = centred / (centred**2).sum()

    def gain(scores: Floats) -> Floats:
        slope = scores @ weights
        end = scores.mean(axis=1) + slope * (math.log(now) - logs.mean())
        # The line may leave the scale before it reaches the current number of examples.
        room = 100.0 - np.clip(end, 0.0, 100.0) if groups[0][0].percent else np.inf
        found: Floats = np.clip(slope * math.log1p(more / now), 0.0, room)
        return found

    return _estimate(float(gain(seen)[0]), gain(resample_runs(groups, _RESAMPLES)))


def _more(found: Search, out: Path, name: str, examples: int) -> Estimate | None:
    curve: dict[float, Runs] = {}
    for rows in found.rows(name).values():
        rows = [row for row in rows if not row.recipe["task"].get("dev_fold")]
        used = float(np.mean([row.counts["task_examples"] for row in rows]))
        curve[used] = [scored_run(out, row) for row in rows]
    return gain_of_more(curve, examples, _MORE) if len(curve) > 1 else None


def _estimate(value: float, drawn: Floats) -> Estimate:
    low, high = np.quantile(drawn, [_TAIL, 1 - _TAIL])
    return Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)))
