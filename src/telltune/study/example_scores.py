"""What each training example is worth, by PVI: one base, an adapter a fold, each scored once."""

from __future__ import annotations

import gc
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from telltune.data.anchor import anchored_tokenizer
from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.data.mixture import Mixture
from telltune.data.task import load_task, within
from telltune.errors import RecipeError, StorageError
from telltune.inference.labels import closed_set
from telltune.inference.scoring import response_nll
from telltune.methods.output_folder import alone, claim, record_recipe
from telltune.models import context_length, load_base
from telltune.recipe import as_recipe
from telltune.storage import read_cached_json, write_json, write_text
from telltune.training.adapter import train
from telltune.training.loss import LossWeights
from telltune.valuation.folds import assign_folds
from telltune.valuation.pvi import Pvi, in_context, without_input

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.encoded import EncodedSet
    from telltune.data.examples import Example
    from telltune.models import BaseModel
    from telltune.recipe import AnyRecipe, Recipe

__all__ = ["SCORES", "ExampleScores", "score_by_pvi"]

SCORES = "scores.jsonl"
_REPORT = "scores.json"
_SETTINGS = "settings.json"
_PARTS = "parts"
_WORK = "work"


@dataclass(frozen=True)
class ExampleScores:
    """What the scores of a data set say.

    Attributes:
        task: Its name.
        examples: How many were scored.
        information: V-information, bits an example.
        information_per_token: Bits a token of the answers.
        negative: Examples whose input made the answer less likely.
        suspects: The ten whose label is most likely wrong, with their scores.
        seconds: Training and scoring in this call, by phase.
    """

    task: str
    examples: int
    information: float
    information_per_token: float
    negative: int
    suspects: list[dict[str, Any]]
    seconds: dict[str, float]


def score_by_pvi(
    recipe: AnyRecipe,
    *,
    out: str | Path,
    folds: int = 5,
    shots: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> ExampleScores:
    """Score each training example of a recipe's task by pointwise V-information.

    Called again on the same folder it goes on with the fold where it was cut short.

    Args:
        recipe: A file, a dictionary or a `Recipe`; its training settings and `mixture.passes` are
            those of every fold's two trainings.
        out: Where scores.jsonl goes, a row an example in the data's order.
        folds: Each is scored by models trained on the others.
        shots: Exemplars in the prompt in place of training; 0 trains.
        overwrite: Begin anew where another run is.
        progress: Show bars.

    Raises:
        RecipeError: Fewer than two folds, or every weight is trained.
        DataError: Too few examples for so many folds, or a label that one fold holds alone.
        StorageError: The folder holds something else.
    """
    recipe, out = as_recipe(recipe), Path(out)
    if folds < 2:
        raise RecipeError(f"--folds is 2 or more, not {folds}: none is scored by its own model.")
    if recipe.training.full_parameters:
        raise RecipeError(
            "`training.full_parameters` has no adapters to switch; leave it out here."
        )
    with alone(out):
        claim(out, recipe, overwrite=overwrite)
        task = load_task(recipe)
        base = load_base(recipe.model, recipe.training.precision)
        examples = task.train[: within(_lengths(base, task.train), recipe.task.max_tokens)]
        labels = closed_set(example.completion for example in examples)
        fold = assign_folds(examples, folds, recipe.seed, labels)
        settings = {
            "folds": folds,
            "shots": shots,
            "base": base.revision,
            "data": contents_of(examples).digest,
        }
        _check_settings(out, settings, overwrite=overwrite)
        record_recipe(out, recipe, overwrite=overwrite)
        write_json(out / _SETTINGS, settings)
        scorer = _Scorer(base, recipe, fold, shots, out, progress)
        tokenizer = anchored_tokenizer(base.tokenizer, task.anchor)
        encoder = Encoder(tokenizer, max_length=context_length(base.model.config))
        sides: list[NDArray[np.float64]] = []
        for side, shown in (("input", list(examples)), ("empty", without_input(examples))):
            asked = in_context(shown, fold, shots, recipe.seed) if shots else shown
            sides.append(scorer.nll(side, encoder.encode(asked), shown))
        tokens = np.array([len(row) for row in encoder.completions(examples)], np.int64)
        pvi = Pvi.of_nats(*sides, tokens, fold)
        rows = _rows(examples, pvi)
        write_text(out / SCORES, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
        report = ExampleScores(
            task.name,
            len(rows),
            round(pvi.information, 4),
            round(float(pvi.bits.sum() / tokens.sum()), 4),
            int((pvi.bits < 0).sum()),
            [rows[i] for i in pvi.suspects[:10].tolist()],
            {phase: round(spent, 1) for phase, spent in scorer.seconds.items()},
        )
        write_json(out / _REPORT, asdict(report))
        shutil.rmtree(out / _PARTS, ignore_errors=True)
        return report


def _lengths(base: BaseModel, examples: Sequence[Example]) -> NDArray[np.int64]:
    return Encoder(base.tokenizer).encode(examples).lengths


def _check_settings(out: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    before = read_cached_json(out / _SETTINGS)
    if overwrite or before is None:
        shutil.rmtree(out / _PARTS, ignore_errors=True)
    elif before != settings:
        changed = ", ".join(name for name in settings if settings[name] != before.get(name))
        raise StorageError(
            f"{out} holds a run with other {changed}; choose another --out, or give --overwrite."
        )


class _Scorer:
    """Trains and scores fold by fold on one base; what is finished is on the disk."""

    def __init__(
        self,
        base: BaseModel,
        recipe: Recipe,
        fold: NDArray[np.int64],
        shots: int,
        out: Path,
        progress: bool,
    ) -> None:
        self.base, self.recipe, self.fold, self.shots = base, recipe, fold, shots
        self.out, self.progress = out, progress
        self.seconds = {"training": 0.0, "scoring": 0.0}

    def nll(
        self, side: Literal["input", "empty"], encoded: EncodedSet, examples: Sequence[Example]
    ) -> NDArray[np.float64]:
        """Of each answer, by a model that did not see it, in nats, (examples,)."""
        found = np.zeros(len(encoded))
        for number in np.unique(self.fold).tolist():
            held = np.flatnonzero(self.fold == number)
            path = self.out / _PARTS / f"{side}-{number}.json"
            kept = read_cached_json(path)
            if kept is None:
                kept = self._one(f"{side}, fold {number + 1}", number, encoded, examples)
                write_json(path, kept)
            found[held] = kept
        return found

    def _one(
        self, title: str, number: int, encoded: EncodedSet, examples: Sequence[Example]
    ) -> list[float]:
        held, others = (
            np.flatnonzero(found) for found in (self.fold == number, self.fold != number)
        )
        model: Any = self.base.model
        if not self.shots:
            model, seconds = self._train(title, encoded.take(others), [examples[i] for i in others])
            self.seconds["training"] += seconds
        began = time.perf_counter()
        nll = response_nll(model, encoded.take(held)).tolist()
        self.seconds["scoring"] += time.perf_counter() - began
        if not self.shots:
            # The next one gets the base as it was.
            model.unload()
            gc.collect()
        return nll

    def _train(
        self, title: str, encoded: EncodedSet, examples: Sequence[Example]
    ) -> tuple[Any, float]:
        recipe = self.recipe
        mixture = Mixture(
            task_examples=len(encoded),
            general_examples=0,
            general_available=0,
            passes=1,
            order="shuffled",
            seed=recipe.seed,
            batch_size=recipe.training.batch_size,
        )
        work = self.out / _WORK
        trained = train(
            self.base,
            recipe,
            task=encoded,
            general=None,
            mixture=mixture,
            epochs=recipe.mixture.passes,
            weights=LossWeights(recipe.training.loss_average, 1.0, 1.0, 1.0),
            out=work,
            description=title,
            progress=self.progress,
            texts=(examples, None),
        )
        shutil.rmtree(work, ignore_errors=True)
        return trained


def _rows(examples: Sequence[Example], pvi: Pvi) -> list[dict[str, Any]]:
    rank = np.empty(len(examples), np.int64)
    rank[pvi.suspects] = np.arange(len(examples))
    return [
        {
            "origin": example.origin,
            "prompt": example.prompt,
            "completion": example.completion,
            "pvi": round(float(pvi.bits[i]), 4),
            "pvi_per_token": round(float(pvi.bits_per_token[i]), 4),
            "bits": round(float(pvi.with_input[i]), 4),
            "bits_without_input": round(float(pvi.without_input[i]), 4),
            "tokens": int(pvi.tokens[i]),
            "fold": int(pvi.fold[i]),
            "suspicion_rank": int(rank[i]) + 1,
        }
        for i, example in enumerate(examples)
    ]
