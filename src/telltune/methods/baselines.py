"""Baselines of seconds: a small classifier, or the nearest example, on vectors of the prompts.

No language model answers. What these reach with the same labeled examples is what an adapter has to
beat; see docs/baselines.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from telltune.classifiers.features import prompt_text, vectorizer
from telltune.classifiers.heads import fit_head
from telltune.data.encoding import Encoder
from telltune.data.task import check_unlabeled, unlabeled_beside, within
from telltune.errors import RecipeError
from telltune.inference.labels import closed_set
from telltune.methods.protocol import Cost, Predictor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.classifiers.features import Features, Vectorize
    from telltune.classifiers.heads import Head, LinearScorer
    from telltune.data.examples import Example
    from telltune.data.task import GeneralData, TaskData
    from telltune.methods.protocol import Settings
    from telltune.models import BaseModel

__all__ = [
    "ENCODER_CENTROID",
    "ENCODER_EM",
    "ENCODER_LINEAR",
    "KNN",
    "TFIDF_EM",
    "TFIDF_LINEAR",
    "Baseline",
]


@dataclass(frozen=True)
class Baseline:
    """A method that learns a linear function of prompt vectors, on the CPU, in seconds.

    Attributes:
        name: Name in recipes and tables.
        label: Name for people.
        features: Vectors of prompts: a frozen sentence encoder (all-MiniLM-L6-v2), or TF-IDF of
            words.
        head: What chooses an answer by a vector; see `fit_head`.
    """

    name: str
    label: str
    features: Features
    head: Head
    anchored: bool = False
    mixes: bool = False
    trains: bool = False
    sized: bool = True

    def check(self, task: TaskData) -> None:
        """Refuse a task that the method cannot work with.

        Raises:
            RecipeError: The answers are no closed set of labels, or there are no unlabeled inputs,
                and the method needs them.
        """
        self.labels_of(task.train)
        if self.head == "em":
            check_unlabeled(task.unlabeled, f"method `{self.name}`")

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
            RecipeError: The answers are no closed set of labels, or there are no unlabeled inputs,
                and the method needs them.
            ModelError: The sentence encoder is not installed.
        """
        recipe = settings.recipe
        encoder = Encoder(base.tokenizer)
        encoded = encoder.encode(task.train)
        used = within(encoded.lengths, recipe.task.max_tokens)
        examples = task.train[:used]
        labels = self.labels_of(examples)
        inputs = unlabeled_beside(task, examples) if self.head == "em" else ()
        if self.head == "em":
            check_unlabeled(inputs, f"method `{self.name}`")
        began = time.perf_counter()
        texts, others = ([prompt_text(e) for e in some] for some in (examples, inputs))
        vectorize = vectorizer(self.features, texts + others)
        answers = [encoder.answer(example.completion).strip() for example in examples]
        vectors = vectorize(texts + others)
        scorer = fit_head(self.head, self.features, vectors[:used], answers, vectors[used:])
        cost = Cost(
            task_examples=used,
            task_tokens=int(encoded.lengths[:used].sum()),
            seconds=time.perf_counter() - began,
            unlabeled_examples=len(inputs),
            unlabeled_tokens=sum(map(len, encoder.prompts(inputs))),
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


@dataclass
class BaselinePredictor(Predictor):
    """Answers with one of the training data's answers.

    Attributes:
        vectorize: Turns texts into vectors, (texts, width).
        scorer: Chooses the answer of a vector.
    """

    vectorize: Vectorize = field(kw_only=True)
    scorer: LinearScorer = field(kw_only=True)

    def predict(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> list[str]:
        """Answer each example's prompt; its completion is not looked at."""
        if not examples:
            return []
        answers = self.scorer.best(self.vectorize([prompt_text(e) for e in examples]))
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


TFIDF_LINEAR = Baseline("tfidf_linear", "logistic regression on TF-IDF", "tfidf", "linear")
ENCODER_LINEAR = Baseline(
    "encoder_linear", "logistic regression on a sentence encoder", "encoder", "linear"
)
TFIDF_EM = Baseline("tfidf_em", "class means of TF-IDF, moved by unlabeled inputs", "tfidf", "em")
ENCODER_EM = Baseline(
    "encoder_em", "class means of a sentence encoder, moved by unlabeled inputs", "encoder", "em"
)
ENCODER_CENTROID = Baseline(
    "encoder_centroid", "nearest class mean of a sentence encoder", "encoder", "centroid"
)
KNN = Baseline("knn", "answer of the nearest training example", "encoder", "nearest")
