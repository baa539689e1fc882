"""Baselines of seconds: a small classifier, or the nearest example, on vectors of the prompts.

No language model answers. What these reach with the same labeled examples is what an adapter has to
beat; see docs/baselines.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from telltune.data.encoding import Encoder
from telltune.data.task import within
from telltune.errors import RecipeError
from telltune.inference.labels import closed_set
from telltune.methods.baseline_folder import save_baseline
from telltune.methods.baseline_predictor import BaselinePredictor, LinearScorer, text_of
from telltune.methods.features import EncoderFeatures, TfidfFeatures
from telltune.methods.protocol import Cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from telltune.data.examples import Example
    from telltune.data.task import GeneralData, TaskData
    from telltune.methods.protocol import Settings
    from telltune.models import BaseModel
    from telltune.recipe import Recipe

__all__ = [
    "ENCODER_CENTROID",
    "ENCODER_LINEAR",
    "KNN",
    "TFIDF_LINEAR",
    "Baseline",
    "labeled_examples",
]

Features = Literal["encoder", "tfidf"]
Head = Literal["centroid", "linear", "nearest"]

# Weaker than scikit-learn's default of 1, which scored 24.8 in place of 36.2 on medical_specialty
# with 20 examples and encoder vectors (8 draws), and no higher at 60 and 200 or on answer_kind.
_INVERSE_PENALTY = 10.0
# Makes a cosine the logit of a softmax, as in the loss that all-MiniLM-L6-v2 was trained with.
_COSINE_SCALE = 20.0


@dataclass(frozen=True)
class Baseline:
    """A method that learns a linear function of prompt vectors, on the CPU, in seconds.

    Attributes:
        name: Name in recipes and tables.
        label: Name for people.
        features: Vectors of prompts: a frozen sentence encoder (all-MiniLM-L6-v2), or TF-IDF of
            words.
        head: `centroid` answers with the label whose mean vector is nearest, `linear` with that of
            a logistic regression, and `nearest` with the completion of the nearest example.
    """

    name: str
    label: str
    features: Features
    head: Head
    anchored: bool = False
    mixes: bool = False
    trains: bool = False
    sized: bool = True

    def labels_of(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """Return the labels among which the method chooses; () where it needs none.

        Raises:
            RecipeError: It needs labels, and the completions are no closed set.
        """
        labels = closed_set(example.completion for example in examples)
        if self.head != "nearest" and not labels:
            raise RecipeError(
                f"method `{self.name}` chooses among labels, and the training data's answers are "
                "no closed set (at most 100, each twice on average); leave it out, or use `knn`."
            )
        return labels

    def run(
        self,
        task: TaskData,
        general: GeneralData | None,  # noqa: ARG002 - the protocol of methods
        base: BaseModel,
        settings: Settings,
    ) -> BaselinePredictor:
        """Fit the classifier; of the base model only the tokenizer is used, to count tokens.

        Raises:
            RecipeError: The answers are no closed set of labels, and the method needs one.
            ModelError: The sentence encoder is not installed.
        """
        return self.fit(task, base.tokenizer, settings)

    def fit(
        self, task: TaskData, tokenizer: PreTrainedTokenizerBase, settings: Settings
    ) -> BaselinePredictor:
        """Fit the classifier without a base model, and save it where the settings say; see `run`.

        Args:
            task: Its training examples are learned from.
            tokenizer: The base model's, to count tokens.
            settings: How the method runs.
        """
        recipe = settings.recipe
        examples, tokens = labeled_examples(task, tokenizer, recipe)
        labels = self.labels_of(examples)
        began = time.perf_counter()
        texts = [text_of(example) for example in examples]
        # Frequencies over unlabeled texts as well give common words less weight, and question words
        # are common: on answer_kind with 20 examples that scored 51 in place of 67 (4 draws, 200
        # items).
        vectorize = (
            EncoderFeatures() if self.features == "encoder" else TfidfFeatures.learned(texts)
        )
        encoder = Encoder(tokenizer)
        answers = [encoder.answer(example.completion).strip() for example in examples]
        scorer = _fit(self.head, vectorize(texts), answers)
        cost = Cost(
            task_examples=len(examples),
            task_tokens=tokens,
            seconds=time.perf_counter() - began,
        )
        predictor = BaselinePredictor(
            model=None,
            tokenizer=tokenizer,
            anchor=None,
            # It cuts nothing: answers come whole from the training data.
            max_new_tokens=recipe.training.max_length,
            evaluation=recipe.evaluation,
            labels=labels,
            cost=cost,
            vectorize=vectorize,
            scorer=scorer,
        )
        if settings.out is not None and settings.save:
            save_baseline(settings.out, self.name, predictor, task.name, examples, recipe)
        return predictor


def labeled_examples(
    task: TaskData, tokenizer: PreTrainedTokenizerBase, recipe: Recipe
) -> tuple[tuple[Example, ...], int]:
    """Return the examples that a baseline learns from, and how many tokens they have.

    Args:
        task: Has the examples.
        tokenizer: The base model's, whose tokens count.
        recipe: May limit the tokens.
    """
    lengths = Encoder(tokenizer).encode(task.train).lengths
    used = within(lengths, recipe.task.max_tokens)
    return tuple(task.train[:used]), int(lengths[:used].sum())


def _fit(head: Head, vectors: NDArray[Any], answers: Sequence[str]) -> LinearScorer:
    """Fit a head.

    Args:
        head: Which.
        vectors: Those of the labeled examples, each of length 1, (examples, width).
        answers: Their completions, (examples,).
    """
    if head == "nearest":
        return LinearScorer(_COSINE_SCALE * vectors, np.zeros(len(vectors)), tuple(answers))
    labels, targets = np.unique(np.array(answers), return_inverse=True)
    names = tuple(labels.tolist())
    if head == "centroid":
        means = np.stack([vectors[targets == i].mean(axis=0) for i in range(len(labels))])
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        weights = _COSINE_SCALE * means / np.maximum(lengths, 1e-12)
        return LinearScorer(weights, np.zeros(len(labels)), names)
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=_INVERSE_PENALTY, max_iter=2000).fit(vectors, targets)
    weights, bias = found.coef_, found.intercept_
    if len(labels) == 2:  # one row of weights: how far the second label is ahead
        weights, bias = (np.concatenate([-part / 2, part / 2]) for part in (weights, bias))
    return LinearScorer(weights, bias, names)


TFIDF_LINEAR = Baseline("tfidf_linear", "logistic regression on TF-IDF", "tfidf", "linear")
ENCODER_LINEAR = Baseline(
    "encoder_linear", "logistic regression on a sentence encoder", "encoder", "linear"
)
ENCODER_CENTROID = Baseline(
    "encoder_centroid", "nearest class mean of a sentence encoder", "encoder", "centroid"
)
KNN = Baseline("knn", "answer of the nearest training example", "encoder", "nearest")
