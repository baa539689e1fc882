"""The interface of metrics and their registry.

A metric is one function from predictions and references to a `Scored`. Model-based metrics such as
COMET and BLEURT are added in the same way as the built-in ones:

    from telltune.evaluation.metrics import Scored, mean_of, metric

    @metric("comet", percent=False, needs_prompts=True)
    def comet(predictions, references, prompts) -> Scored:
        '''COMET, wmt22-comet-da (Rei et al., 2022).'''
        import comet

        model = comet.load_from_checkpoint("weights/wmt22-comet-da/model.ckpt")
        rows = [
            {"src": source, "mt": prediction, "ref": reference}
            for source, prediction, reference in zip(prompts, predictions, references)
        ]
        return mean_of(model.predict(rows).scores)
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from telltune.errors import DataError, RecipeError, TellError
from telltune.plugins import load_plugins

PERPLEXITY = "perplexity"
"""Metric exp(mean negative log-likelihood per reference token), given the prompts.

It needs no answers, but the model, and is therefore no function of the registry.
"""

Floats = npt.NDArray[np.float64]

# Tolerance for rounding: BLEU of a perfect corpus is exp(log 100), slightly above 100.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Result of a metric on n predictions, in a form that makes resampling fast.

    The score of any multiset of the items is `reduce` of the sum of their statistics. A bootstrap
    is therefore one matrix product and reads no text.

    Attributes:
        per_item: Shape (n,). Score of each item on the scale of the corpus score, e.g. 100 for a
            right answer and 0 for a wrong one, or sentence chrF.
        statistics: Shape (n, k). Sufficient statistics of each item, such as n-gram counts.
        reduce: Function from summed statistics, shape (..., k), to corpus scores, shape (...).
        percent: Whether scores are on the scale 0..100.
        lowest: Lowest possible score if they are not; 1 for perplexity.
    """

    per_item: Floats
    statistics: Floats
    reduce: Callable[[Floats], Floats]
    percent: bool = True
    lowest: float = -math.inf

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest possible score, which may be infinite."""
        return (0.0, 100.0) if self.percent else (self.lowest, math.inf)

    @property
    def score(self) -> float:
        """Corpus score of all items; not always the mean of the per-item scores."""
        return float(self.reduce(self.statistics.sum(axis=0)))

    def __len__(self) -> int:
        return len(self.per_item)


def mean_of(per_item: npt.ArrayLike) -> Scored:
    """Make a `Scored` whose corpus score is the mean over items.

    Args:
        per_item: Shape (n,). Score of each item, on the scale in which the metric is reported.
    """
    scores = np.asarray(per_item, dtype=np.float64).reshape(-1)
    return Scored(scores, np.column_stack([scores, np.ones_like(scores)]), _ratio)


def _ratio(sums: Floats) -> Floats:
    quotient: Floats = sums[..., 0] / sums[..., 1]
    return quotient


@dataclass(frozen=True, slots=True)
class Metric:
    """A registered metric. Calling it with predictions and references returns a `Scored`.

    Attributes:
        name: Name in recipes.
        function: Function from (predictions, references), and prompts if needed, to a `Scored`.
        percent: Whether scores are on the scale 0..100.
        binary: Whether the score is exactly the share of right items.
        needs_prompts: Whether the function also takes the prompts, e.g. the sources for COMET.
    """

    name: str
    function: Callable[..., Scored]
    percent: bool
    binary: bool
    needs_prompts: bool

    @property
    def summary(self) -> str:
        """First line of the function's docstring."""
        lines = (self.function.__doc__ or "").strip().splitlines()
        return lines[0] if lines else ""

    def __call__(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        prompts: Sequence[str] | None = None,
    ) -> Scored:
        """Score n predictions against n references.

        Raises:
            DataError: There is nothing to score, the lengths differ, or needed prompts are missing.
            RecipeError: The metric's function failed, or returned something else than scores, or
                scores of the wrong shape or scale.
        """
        if len(references) == 0:
            raise DataError(
                f"metric '{self.name}': there are no references; give at least one test example"
            )
        columns = [("predictions", predictions)]
        if self.needs_prompts:
            if prompts is None:
                raise DataError(f"metric '{self.name}' needs the prompts, but none were given")
            columns.append(("prompts", prompts))
        for column, texts in columns:
            if len(texts) != len(references):
                raise DataError(
                    f"metric '{self.name}': {len(texts)} {column} for {len(references)} "
                    f"references; give one for each reference"
                )
        extra = [prompts] if self.needs_prompts else []
        named = f"metric '{self.name}' of `{self.function.__module__}`"
        try:
            scored = self.function(predictions, references, *extra)
        except TellError:
            raise
        except Exception as error:
            raise RecipeError(
                f"{named} failed ({type(error).__name__}: {error}); correct it, or choose "
                "another metric."
            ) from error
        if not isinstance(scored, Scored):
            raise RecipeError(
                f"{named} returned a value of type `{type(scored).__name__}`; return a `Scored`, "
                "such as `mean_of(scores)` of one score per item."
            )
        self._check(scored, len(references))
        return replace(scored, percent=self.percent)

    def _check(self, scored: Scored, n: int) -> None:
        if scored.per_item.shape != (n,) or scored.statistics.shape[:1] != (n,):
            raise RecipeError(
                f"metric '{self.name}' returned {scored.per_item.size} per-item scores and "
                f"{len(scored.statistics)} rows of statistics for {n} items; return one of each "
                f"per item"
            )
        if not (np.isfinite(scored.per_item).all() and np.isfinite(scored.statistics).all()):
            raise RecipeError(f"metric '{self.name}' returned a score that is not a finite number")
        if self.percent:
            seen = np.append(scored.per_item, scored.score)
            if seen.min() < -_ROUNDING or seen.max() > 100 + _ROUNDING:
                raise RecipeError(
                    f"metric '{self.name}' returned scores from {seen.min():g} to {seen.max():g}, "
                    f"outside 0..100; rescale them or register it with percent=False"
                )


_METRICS: dict[str, Metric] = {}


def metric(
    name: str, *, percent: bool, binary: bool = False, needs_prompts: bool = False
) -> Callable[[Callable[..., Scored]], Metric]:
    """Register a function as a metric.

    Args:
        name: Name in recipes.
        percent: Whether scores are on the scale 0..100.
        binary: Whether the score is exactly the share of right items.
        needs_prompts: Whether the function takes the prompts as a third argument.

    Raises:
        RecipeError: Another metric has that name.
    """

    def register(function: Callable[..., Scored]) -> Metric:
        if name == PERPLEXITY:
            raise RecipeError(f"metric '{name}' is one of telltune's own; choose another name")
        held = _METRICS.get(name)
        # A notebook cell that is run twice registers the same function again.
        if held is not None and _origin(held.function) != _origin(function):
            raise RecipeError(
                f"metric '{name}' is already registered by {_origin(held.function)}; "
                f"choose another name"
            )
        _METRICS[name] = Metric(name, function, percent, binary, needs_prompts)
        return _METRICS[name]

    return register


def _origin(function: Callable[..., Scored]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def get_metric(name: str) -> Metric:
    """Return the metric of a name.

    Raises:
        RecipeError: No metric has that name; the message suggests the closest one.
    """
    load_plugins()
    if name in _METRICS:
        return _METRICS[name]
    near = difflib.get_close_matches(name, metric_names(), n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise RecipeError(
        f"metrics: there is no metric '{name}'; {hint}choose from {', '.join(metric_names())}"
    )


def metric_names() -> list[str]:
    """Return the names of all registered metrics, sorted."""
    load_plugins()
    return sorted(_METRICS)
