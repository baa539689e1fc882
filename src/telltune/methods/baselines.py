"""Baselines of seconds: a small classifier, or the nearest example, on vectors of the prompts.

No language model writes an answer. What these reach with the same labeled examples is what an
adapter has to beat; see docs/baselines.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.task import within
from telltune.errors import RecipeError
from telltune.inference.labels import closed_set
from telltune.methods.protocol import Cost, Predictor
from telltune.valuation.embeddings import embed
from telltune.valuation.prompt_states import prompt_states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.data.task import GeneralData, TaskData
    from telltune.methods.protocol import Settings
    from telltune.models import BaseModel

__all__ = [
    "ENCODER_CENTROID",
    "ENCODER_LINEAR",
    "KNN",
    "PROBE",
    "TFIDF_LINEAR",
    "Baseline",
    "prompt_text",
]

Features = Literal["encoder", "tfidf", "states"]
Head = Literal["centroid", "linear", "nearest"]

# Words and single punctuation marks; how a question opens and ends tells as much as its nouns.
_WORD = r"(?u)\w+|[^\w\s]"
# Weaker than scikit-learn's default of 1, which scored 24.8 in place of 36.2 on medical_specialty
# with 20 examples and encoder vectors (8 draws), and no higher at 60 and 200 or on answer_kind.
_INVERSE_PENALTY = 10.0


@dataclass(frozen=True)
class Baseline:
    """A method that learns a linear function of prompt vectors, on the CPU, in seconds.

    Attributes:
        name: Name in recipes and tables.
        label: Name for people.
        features: Vectors of prompts: a frozen sentence encoder (all-MiniLM-L6-v2), TF-IDF of words,
            or the base model's own states, frozen, behind the anchor if there is one.
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
    ) -> Predictor:
        """Fit the classifier; of the base model only the tokenizer is used, to count tokens.

        Raises:
            RecipeError: The answers are no closed set of labels, and the method needs one.
            ModelError: The sentence encoder is not installed.
        """
        recipe = settings.recipe
        encoder = Encoder(base.tokenizer)
        encoded = encoder.encode(task.train)
        used = within(encoded.lengths, recipe.task.max_tokens)
        examples = task.train[:used]
        labels = self.labels_of(examples)
        began = time.perf_counter()
        texts = [prompt_text(example) for example in examples]
        vectorize = self._vectorizer(texts, task, base)
        answers = [encoder.answer(example.completion).strip() for example in examples]
        fit = _fit_standardized if self.features == "states" else _fit
        scorer = fit(self.head, vectorize(texts), answers)
        cost = Cost(
            task_examples=used,
            task_tokens=int(encoded.lengths[:used].sum()),
            seconds=time.perf_counter() - began,
        )
        return BaselinePredictor(
            model=None,
            tokenizer=base.tokenizer,
            anchor=None,
            # It cuts nothing: answers come whole from the training data.
            max_new_tokens=recipe.training.max_length,
            evaluation=recipe.evaluation,
            labels=labels,
            cost=cost,
            vectorize=vectorize,
            scorer=scorer,
        )

    def _vectorizer(
        self, texts: Sequence[str], task: TaskData, base: BaseModel
    ) -> Callable[[Sequence[str]], NDArray[Any]]:
        """Return what turns texts into vectors, (texts, width)."""
        if self.features == "states":
            tokenizer = anchored_tokenizer(base.tokenizer, task.anchor)
            return partial(prompt_states, base.model, tokenizer)
        return embed if self.features == "encoder" else _tfidf(texts)


@dataclass
class LinearScorer:
    """Scores of answers: `vectors @ weights.T + bias`.

    Attributes:
        weights: Shape (answers, width).
        bias: Shape (answers,).
        answers: The answers, which may repeat where each example has its own.
    """

    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    answers: tuple[str, ...]

    def best(self, vectors: NDArray[Any]) -> list[str]:
        """Return the answer of the highest score for each vector, (texts, width)."""
        scores = vectors @ self.weights.T + self.bias
        return [self.answers[i] for i in scores.argmax(axis=1)]


@dataclass
class BaselinePredictor(Predictor):
    """Answers with one of the training data's answers.

    Attributes:
        vectorize: Turns texts into vectors, (texts, width).
        scorer: Chooses the answer of a vector.
    """

    vectorize: Callable[[Sequence[str]], NDArray[Any]] = field(kw_only=True)
    scorer: LinearScorer = field(kw_only=True)

    def predict(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> list[str]:
        """Answer each example's prompt; its completion is not looked at."""
        if not examples:
            return []
        answers = self.scorer.best(self.vectorize([prompt_text(example) for example in examples]))
        if on_done is not None:
            on_done(len(examples))
        return answers

    def nll(self, examples: Sequence[Example]) -> Any:  # noqa: ARG002 - the predictor's protocol
        """Raise an error, because no language model gives likelihoods.

        Raises:
            RecipeError: Always.
        """
        raise RecipeError(
            "a baseline without a language model has no perplexity; name other metrics under "
            "evaluation.metrics, or leave the baseline out."
        )


def prompt_text(example: Example) -> str:
    """Return the prompt and the turns before it, without the system turn."""
    turns = [turn.content for turn in example.history if turn.role != "system"]
    return "\n".join([*turns, example.prompt])


def _tfidf(texts: Sequence[str]) -> Callable[[Sequence[str]], NDArray[Any]]:
    """Learn words and their document frequencies from the labeled texts alone.

    Frequencies over unlabeled texts as well give common words less weight, and question words are
    common: on answer_kind with 20 examples that scored 51 in place of 67 (4 draws, 200 items).
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=_WORD)
    vectorizer.fit(texts)

    def vectorize(some: Sequence[str]) -> NDArray[Any]:
        found: NDArray[Any] = vectorizer.transform(some).toarray()
        return found

    return vectorize


def _fit(head: Head, vectors: NDArray[Any], answers: Sequence[str]) -> LinearScorer:
    """Fit a head.

    Args:
        head: Which.
        vectors: Those of the labeled examples, each of length 1 or each number of them brought to
            a deviation of 1, (examples, width).
        answers: Their completions, (examples,).
    """
    if head == "nearest":
        return LinearScorer(vectors, np.zeros(len(vectors)), tuple(answers))
    labels, targets = np.unique(np.array(answers), return_inverse=True)
    names = tuple(labels.tolist())
    if head == "centroid":
        means = np.stack([vectors[targets == i].mean(axis=0) for i in range(len(labels))])
        lengths = np.linalg.norm(means, axis=1, keepdims=True)
        return LinearScorer(means / np.maximum(lengths, 1e-12), np.zeros(len(labels)), names)
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=_INVERSE_PENALTY, max_iter=2000).fit(vectors, targets)
    if len(labels) == 2:  # one row of weights, for the second label
        weights = np.concatenate([-found.coef_, found.coef_])
        return LinearScorer(weights, np.concatenate([-found.intercept_, found.intercept_]), names)
    return LinearScorer(found.coef_, found.intercept_, names)


def _fit_standardized(head: Head, vectors: NDArray[Any], answers: Sequence[str]) -> LinearScorer:
    """Fit a head where each number has mean 0 and deviation 1 over the labeled examples.

    A few numbers of a language model's states are larger than all others by orders of magnitude,
    whatever the text. With vectors of length 1 the probe scored 34.1 in place of 53.8 on
    medical_specialty with 60 examples (8 draws, 100 dev items).
    """
    mean, deviation = vectors.mean(axis=0), np.maximum(vectors.std(axis=0), 1e-6)
    found = _fit(head, (vectors - mean) / deviation, answers)
    weights = found.weights / deviation
    return LinearScorer(weights, found.bias - weights @ mean, found.answers)


TFIDF_LINEAR = Baseline("tfidf_linear", "logistic regression on TF-IDF", "tfidf", "linear")
ENCODER_LINEAR = Baseline(
    "encoder_linear", "logistic regression on a sentence encoder", "encoder", "linear"
)
ENCODER_CENTROID = Baseline(
    "encoder_centroid", "nearest class mean of a sentence encoder", "encoder", "centroid"
)
KNN = Baseline("knn", "answer of the nearest training example", "encoder", "nearest")
PROBE = Baseline("probe", "logistic regression on the base's own states", "states", "linear")
