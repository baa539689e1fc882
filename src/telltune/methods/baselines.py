"""Fast baselines: a small classifier or the nearest example on prompt vectors.

No language model generates answers. The scores of the baselines are a reference for adapters
trained on the same labeled examples; see docs/guides/baselines.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from telltune.classifiers.choice import choose_classifier
from telltune.classifiers.classifier import fit_classifier
from telltune.classifiers.features import StateFeatures, learn_features, prompt_text
from telltune.clock import clock
from telltune.data.encoding import Encoder
from telltune.data.task import TaskData, check_unlabeled, count_within_budget, unlabeled_beside
from telltune.errors import RecipeError
from telltune.fitting.baseline_folder import save_baseline
from telltune.fitting.predictor import BaselinePredictor, Cost
from telltune.fitting.protocol import Method, Settings
from telltune.inference.labels import labels_of, need_labels
from telltune.valuation.embeddings import is_installed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

    from telltune.classifiers.features import FeatureKind, Features
    from telltune.classifiers.heads import Head
    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.models import LoadedModel
    from telltune.recipe import Recipe


class BaselineData(NamedTuple):
    """Training data of a baseline.

    Attributes:
        labeled: The labeled examples.
        known: The labeled examples, and the names of the task's labels; see `TaskData`.
        unlabeled: The unlabeled inputs; () if the method needs none.
        labels: The labels to choose from; () if the answers are not a closed set.
        cost: Counts of the data, without time.
    """

    labeled: tuple[Example, ...]
    known: tuple[Example, ...]
    unlabeled: tuple[Example, ...]
    labels: tuple[str, ...]
    cost: Cost


@dataclass(frozen=True)
class Baseline(Method):
    """Method that learns a linear function of prompt vectors, on the CPU, in seconds.

    Attributes:
        features: Kind of prompt vectors: a frozen sentence encoder (all-MiniLM-L6-v2), TF-IDF of
            words, both, or hidden states of the frozen base model, with the anchor if there is one.
            `chosen` is the first, second or third, by `choose_classifier`.
        head: Kind of classifier on the vectors; see `fit_head`.
    """

    features: FeatureKind | Literal["chosen"]
    head: Head

    def data(
        self, task: TaskData, tokenizer: PreTrainedTokenizerBase, recipe: Recipe
    ) -> BaselineData:
        """Return the training data of the method; the tokenizer of the base model counts tokens.

        Raises:
            RecipeError: The method needs a closed set of labels or unlabeled inputs, and the task
                has none.
        """
        encoder = Encoder(tokenizer)
        lengths = encoder.encode(task.train).lengths
        used = count_within_budget(lengths, recipe.task.max_tokens)
        labeled = task.train[:used]
        # A classifier needs no spelling of a label with white space, which an adapter writes.
        labels = tuple(map(str.strip, labels_of(task, labeled)))
        if not labeled and self.head == "nearest":
            raise RecipeError(f"method `{self.name}` needs labeled examples; set `task.train`.")
        if self.head != "nearest":
            answers = [example.completion for example in labeled]
            need_labels(labels, f"method `{self.name}`", "remove it, use `knn`", answers)
        unlabeled: tuple[Example, ...] = ()
        if self.head == "em":
            unlabeled = unlabeled_beside(task, labeled)
            check_unlabeled(unlabeled, f"method `{self.name}`", task.given_unlabeled)
        cost = Cost(
            task_examples=used,
            task_tokens=int(lengths[:used].sum()),
            unlabeled_examples=len(unlabeled),
            unlabeled_tokens=sum(map(len, encoder.prompts(unlabeled))),
        )
        # The answer of `knn` is that of an example.
        known = labeled if self.head == "nearest" else (*labeled, *task.named_labels)
        return BaselineData(labeled, known, unlabeled, labels, cost)

    def run(
        self,
        task: TaskData,
        general: GeneralData | None,  # noqa: ARG002 - the protocol of methods
        base: LoadedModel,
        settings: Settings,
    ) -> BaselinePredictor:
        """Fit the classifier. Only `probe` uses the base model, the others just its tokenizer.

        Raises:
            RecipeError: See `data`.
            ModelError: The sentence encoder is not installed.
        """
        return self.fit(task, base.tokenizer, settings, base)

    def fit(
        self,
        task: TaskData,
        tokenizer: PreTrainedTokenizerBase,
        settings: Settings,
        base: LoadedModel | None = None,
    ) -> BaselinePredictor:
        """Fit the classifier, and save it in `settings.out` if given; see `run`.

        `probe` loads the base model if none is given.
        """
        recipe = settings.recipe
        data = self.data(task, tokenizer, recipe)
        began = clock()
        answer, inputs = Encoder(tokenizer).answer, data.unlabeled
        known = [replace(one, completion=answer(one.completion).strip()) for one in data.known]
        if self.features == "chosen":
            count = len(data.labeled)
            choice = choose_classifier(known[:count], inputs, recipe.seed, named=known[count:])
            classifier, notes = choice.classifier, choice.notes
        else:
            vectorize: Features
            if self.features == "states":
                vectorize = StateFeatures.of(recipe.model, task.anchor, base)
            else:
                vectorize = learn_features(self.features, list(map(prompt_text, (*known, *inputs))))
            classifier, _ = fit_classifier(self.head, self.features, vectorize, known, inputs)
            notes = ()
        cost = replace(data.cost, seconds=clock() - began)
        predictor = BaselinePredictor(
            model=None,
            tokenizer=tokenizer,
            anchor=None,
            # This has no effect on answers, which are copied from the training data.
            max_new_tokens=recipe.training.max_length,
            evaluation=recipe.evaluation,
            labels=data.labels,
            cost=cost,
            classifier=classifier,
            notes=notes,
        )
        if settings.out is not None and settings.save:
            save_baseline(
                settings.out, self.name, predictor, task.name, data.labeled, inputs, recipe
            )
        return predictor


def suitable_baselines(task: TaskData, metrics: Sequence[str]) -> list[str]:
    """Return the names of the baselines that suit a task's answers and that this machine can run.

    None suits the metric `perplexity`, which needs a language model.
    """
    if "perplexity" in metrics:
        return []
    if not labels_of(task, task.train):
        quick = ["knn"]
    elif unlabeled_beside(task, task.train):
        em = ["encoder_em", "combined_em", "chosen_em"]
        quick = ["tfidf_linear", "tfidf_em", "encoder_centroid", *em]
    else:
        quick = ["tfidf_linear", "encoder_centroid"]
    return [name for name in quick if name.startswith("tfidf") or is_installed()]


TFIDF_LINEAR = Baseline("tfidf_linear", "logistic regression on TF-IDF", "tfidf", "linear")
ENCODER_LINEAR = Baseline(
    "encoder_linear", "logistic regression on a sentence encoder", "encoder", "linear"
)
TFIDF_EM = Baseline("tfidf_em", "class means of TF-IDF + unlabeled inputs (EM)", "tfidf", "em")
ENCODER_EM = Baseline(
    "encoder_em", "class means of a sentence encoder + unlabeled inputs (EM)", "encoder", "em"
)
COMBINED_EM = Baseline(
    "combined_em", "class means of encoder and TF-IDF + unlabeled inputs (EM)", "combined", "em"
)
CHOSEN_EM = Baseline(
    "chosen_em", "encoder, TF-IDF or both, as held-out labels prefer (EM)", "chosen", "em"
)
ENCODER_CENTROID = Baseline(
    "encoder_centroid", "nearest class mean of a sentence encoder", "encoder", "centroid"
)
PROBE = Baseline("probe", "logistic regression on hidden states of the base", "states", "linear")
KNN = Baseline("knn", "answer of the nearest training example", "encoder", "nearest")
