"""Pointwise V-information (PVI): information about an example's answer in its input.

PVI(x → y) = -log2 g∅(y) + log2 g_x(y), in bits over the tokens of y (Ethayarajh et al.,
arXiv 2110.08420, eq. 4). g_x is the model trained on pairs, and g∅ is the same model trained on
answers with an empty input. A low or negative PVI marks a hard or mislabeled example. Each example
is scored by models not trained on it. Exemplars in the prompt are a cheaper alternative to training
g_x and g∅.
"""

from __future__ import annotations

import gc
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message, as_turns
from telltune.data.mixture import Mixture
from telltune.errors import DataError, RecipeError
from telltune.inference.labels import closed_set
from telltune.inference.scoring import response_nll
from telltune.models import LoadedModel, compute_dtype, context_length, model_shape
from telltune.recipe import Recipe, SelectionSpec, as_number
from telltune.storage import cache_folder, cached_json, content_key
from telltune.training.adapter import borrowing
from telltune.training.defaults import resolve
from telltune.training.processes import processes
from telltune.training.run import Trained, TrainingOptions, train
from telltune.training.training_data import LossWeights, TrainingData
from telltune.valuation.folds import assign_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.encoded import EncodedSet


@dataclass(frozen=True)
class Pvi:
    """PVI scores of all examples.

    Attributes:
        with_input: -log2 g_x(y), in bits, (examples,).
        without_input: -log2 g∅(y), in bits, (examples,).
        tokens: Number of tokens of each answer, end of turn included, (examples,).
        fold: Fold in which each example was held out, (examples,).
        training_seconds: Training time of all fold models in seconds.
        scoring_seconds: Scoring time of all held-out examples in seconds.
    """

    with_input: NDArray[np.float64]
    without_input: NDArray[np.float64]
    tokens: NDArray[np.int64]
    fold: NDArray[np.int64]
    training_seconds: float = 0.0
    scoring_seconds: float = 0.0

    @classmethod
    def of_nats(
        cls,
        with_input: NDArray[np.float64],
        without_input: NDArray[np.float64],
        tokens: NDArray[np.int64],
        fold: NDArray[np.int64],
        training_seconds: float = 0.0,
        scoring_seconds: float = 0.0,
    ) -> Pvi:
        """Return the scores for summed negative log-likelihoods in nats, (examples,) each."""
        bits = (with_input / math.log(2), without_input / math.log(2))
        return cls(*bits, tokens, fold, training_seconds, scoring_seconds)

    @property
    def bits(self) -> NDArray[np.float64]:
        """PVI of each example in bits, (examples,)."""
        return self.without_input - self.with_input

    @property
    def bits_per_token(self) -> NDArray[np.float64]:
        """PVI of each example in bits per answer token, (examples,)."""
        return self.bits / self.tokens

    @property
    def information(self) -> float:
        """V-information of the data set: the mean PVI in bits per example."""
        return float(self.bits.mean())


def without_input(examples: Sequence[Example]) -> list[Example]:
    """Return the examples with empty prompts and histories, as g∅ requires."""
    return [replace(example, prompt="", history=()) for example in examples]


def in_context(
    examples: Sequence[Example], fold: NDArray[np.int64], shots: int, seed: int
) -> list[Example]:
    """Prepend up to `shots` exemplars from other folds to each example, the same within a fold.

    `fold` is the fold of each example, (examples,).
    """
    generator = np.random.default_rng([seed, shots])
    history: dict[int, tuple[Message, ...]] = {}
    for number in np.unique(fold).tolist():
        others = np.flatnonzero(fold != number)
        chosen = generator.permutation(others)[:shots].tolist()
        history[number] = as_turns(examples[i] for i in chosen)
    return [
        replace(example, history=history[int(number)] + example.history)
        for example, number in zip(examples, fold, strict=True)
    ]


_NO_CHECKPOINTS = 10**9
_VERSION = 1
"""Version of the scoring procedure; a change invalidates cached scores."""


def pvi_scores(
    base: LoadedModel,
    examples: Sequence[Example],
    anchor: Anchor | None,
    recipe: Recipe,
    spec: SelectionSpec,
    *,
    progress: bool = False,
) -> Pvi:
    """Score examples by PVI with models trained on the other folds.

    Each fold uses the recipe's training settings, `mixture.passes` and `lora`, or in-context
    exemplars instead of training if `spec` asks for them. The scores of each fold are cached on
    disk. An interrupted call resumes at the fold where it stopped, and the same examples, settings
    and base are never scored twice. The base model is unchanged on return.

    Raises:
        RecipeError: All weights are trained, or fold models would be trained in more than one
            process.
        DataError: There are fewer distinct prompts than folds, a label occurs in only one fold, or
            an example is too long for the model, with its exemplars or alone.
    """
    if recipe.training.full_parameters:
        raise RecipeError(
            "PVI needs adapters, but `training.full_parameters` trains none; remove that key."
        )
    labels = closed_set(example.completion for example in examples)
    fold = assign_folds(examples, spec.folds, recipe.seed, labels)
    tokenizer = anchored_tokenizer(base.tokenizer, anchor)
    context, shots = context_length(base.model.config), spec.in_context
    encoder = Encoder(tokenizer)
    recipe, _ = resolve(recipe, len(examples), model_shape(base.model.config))
    scorer = _Scorer(base, recipe, fold, trains=not shots, progress=progress)
    nll, tokens = {}, np.zeros(len(examples), np.int64)
    for side, shown in (("input", list(examples)), ("empty", without_input(examples))):
        asked = in_context(shown, fold, shots, recipe.seed) if shots else shown
        digest = contents_of(asked).digest
        encoded = encoder.encode(asked)
        # Answers are not truncated: both models must score the same tokens.
        if (long := np.flatnonzero(encoded.lengths > context)).size:
            told = f" with {shots} exemplars in the prompt" if shots else ""
            remedy = "lower selection.in_context (0 trains instead), or " if shots else ""
            raise DataError(
                f"{examples[long[0]].origin}: PVI scores whole examples, but this one has "
                f"{encoded.lengths[long[0]]} tokens{told}, longer than the model's context of "
                f"{context} ({long.size} of {len(examples)} are); {remedy}shorten the examples."
            )
        tokens = encoded.response_lengths
        nll[side] = scorer.nll(side, encoded, shown, f"{digest}|{anchor}")
    return Pvi.of_nats(
        nll["input"],
        nll["empty"],
        tokens,
        fold,
        scorer.training_seconds,
        scorer.scoring_seconds,
    )


@dataclass
class _Scorer:
    """Trains and scores fold by fold on one base; finished folds are cached on disk."""

    base: LoadedModel
    recipe: Recipe
    fold: NDArray[np.int64]
    trains: bool
    progress: bool
    training_seconds: float = 0.0
    scoring_seconds: float = 0.0

    def nll(
        self, side: str, encoded: EncodedSet, examples: Sequence[Example], digest: str
    ) -> NDArray[np.float64]:
        """Return each answer's held-out negative log-likelihood in nats, (examples,)."""
        folder = cache_folder("pvi", self._key(digest))
        found = np.zeros(len(encoded))
        for number in np.unique(self.fold).tolist():
            kept = cached_json(
                folder / f"{number}.json",
                partial(self._one, f"{side}, fold {number + 1}", number, encoded, examples),
            )
            found[self.fold == number] = kept["nll"]
            # Cached folds count with their original time, so the cost does not depend on the cache.
            self.training_seconds += kept["training"]
            self.scoring_seconds += kept["scoring"]
        return found

    def _key(self, digest: str) -> str:
        settings = self.recipe.training
        return content_key(
            _VERSION,
            self.base.speaker,
            digest,
            self.fold.tolist(),
            # Training settings do not affect in-context scores.
            (
                settings.model_dump(exclude={"report_to"}),
                self.recipe.lora.model_dump(),
                self.recipe.mixture.passes,
            )
            if self.trains
            else None,
            str(compute_dtype(settings.precision)),
            self.recipe.seed,
        )

    def _one(
        self, title: str, number: int, encoded: EncodedSet, examples: Sequence[Example]
    ) -> dict[str, Any]:
        """Return the held-out answers' NLL, and the training and scoring times in seconds."""
        held, others = np.flatnonzero(self.fold == number), np.flatnonzero(self.fold != number)
        model, training = self.base.model, 0.0
        if self.trains:
            model, training, _ = self._train(
                title, encoded.take(others), [examples[i] for i in others.tolist()]
            )
        with borrowing(model):
            began = time.perf_counter()
            nll = response_nll(model, encoded.take(held)).tolist()
            scoring = time.perf_counter() - began
        gc.collect()
        return {"nll": nll, "training": training, "scoring": scoring}

    def _train(self, title: str, encoded: EncodedSet, examples: Sequence[Example]) -> Trained:
        if processes().count > 1:
            raise RecipeError(
                "fold models are trained in one process; run `tell score RECIPE --by pvi` first, "
                "which caches the scores, and then launch the processes."
            )
        recipe = self.recipe
        settings = recipe.training.model_copy(update={"save_steps": _NO_CHECKPOINTS})
        mixture = Mixture(
            task_examples=len(encoded),
            general_examples=0,
            general_available=0,
            passes=1,
            order="shuffled",
            seed=recipe.seed,
            batch_size=as_number(settings.batch_size),
        )
        weights = LossWeights(settings.loss_average, 1.0, 1.0, 1.0)
        return train(
            self.base,
            recipe.model_copy(update={"training": settings}),
            TrainingData(encoded, None, mixture, as_number(recipe.mixture.passes), weights),
            TrainingOptions(description=title, progress=self.progress, texts=(examples, None)),
        )
