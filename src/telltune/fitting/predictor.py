"""Predictors, which answer prompts; the interface is the same for all methods."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message, prepend_shots
from telltune.errors import RecipeError
from telltune.inference.engine import Generator, make_generator
from telltune.inference.labels import need_labels, read_label
from telltune.inference.scoring import label_nll, response_nll
from telltune.models import context_length
from telltune.recipe import EvaluationSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from telltune.classifiers.classifier import Classifier
    from telltune.data.anchor import Anchor
    from telltune.inference.api_client import ApiClient, ApiUsage
    from telltune.inference.chat_format import Reply


@dataclass(frozen=True)
class Cost:
    """Data and compute that a method used.

    Attributes:
        task_examples: Number of distinct task examples.
        task_tokens: Number of their tokens, after the model's own chat template.
        unlabeled_examples: Number of unlabeled inputs.
        unlabeled_tokens: Number of their tokens, with the model's chat template around each.
        general_examples: Number of general examples seen in training.
        general_tokens: Number of their tokens.
        optimizer_steps: Number of optimizer steps.
        trained_tokens: Number of trained tokens, including the anchor and repeated passes.
        seconds: Training time in seconds.
    """

    task_examples: int = 0
    task_tokens: int = 0
    unlabeled_examples: int = 0
    unlabeled_tokens: int = 0
    general_examples: int = 0
    general_tokens: int = 0
    optimizer_steps: int = 0
    trained_tokens: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, counts: Mapping[str, Any], seconds: float) -> Cost:
        """Return the cost of a run with these counts; see `RunCounts`."""
        used = {f.name: counts[f.name] for f in fields(cls) if f.name in counts}
        return cls(**used, seconds=seconds)

    def counts(self) -> dict[str, int]:
        """Return all fields except `seconds`."""
        return {k: v for k, v in asdict(self).items() if k != "seconds"}


@dataclass
class Predictor:
    """Answers prompts; the interface is the same for all methods.

    As a context manager, it restores the base model on exit, even after an error.

    Attributes:
        model: Model with or without an adapter; None if no local language model answers.
        tokenizer: Tokenizer; its chat template contains the anchor if the method uses one.
        anchor: The same anchor, to strip its response side from answers; or None.
        max_new_tokens: Maximum number of tokens in an answer.
        evaluation: How to answer.
        labels: Answers in the training data if they are a closed set, else ().
        classifier: Classifier combined with the model's label scores; overrides
            `evaluation.answers`. Or None.
        shots: Example turns before every prompt, questions and answers alternating. Empty if each
            prompt has its own.
        answer_after: Marker; the answer is the text after its last occurrence. "" keeps all text.
        in_process: Whether to generate in this process, regardless of `evaluation.engine`.
        teacher: Model behind an API that answers in place of `model`; or None.
        cost: Cost of making the predictor.
        release: Callable that removes the adapter from the base model.
        data_anchor: Anchor to remove from prompts that contain it, as from the training data,
            whether or not the method uses an anchor; or None.
        cut: Number of answers of the last `predict` that reached `max_new_tokens` without an end.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    anchor: Anchor | None
    max_new_tokens: int
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    labels: tuple[str, ...] = ()
    classifier: Classifier | None = None
    shots: tuple[Message, ...] = ()
    answer_after: str = ""
    in_process: bool = False
    teacher: ApiClient | None = None
    cost: Cost = field(default_factory=Cost)
    release: Callable[[], object] = nullcontext
    data_anchor: Anchor | None = None
    cut: int = field(default=0, init=False)
    _generator: Generator | None = field(default=None, init=False, repr=False)
    _before: ApiUsage | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.teacher is not None:
            self._before = self.teacher.usage

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def predict(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> list[str]:
        """Answer each example's prompt greedily; completions are ignored.

        Returns:
            The answers without thinking, the anchor's response side and surrounding whitespace.

        Raises:
            RecipeError: `evaluation.answers` is `likelihood`, and there is no closed set of labels.
            ModelError: `evaluation.engine` does not support the model, or the teacher cannot be
                asked.
        """
        self.cut = 0
        if not examples:
            return []
        examples = self._bare(examples)
        shots = self._shots_for(examples)
        if self.teacher is not None:
            return self._taught(list(map(prepend_shots, shots, examples)), on_done)
        prompts = self._prompts(examples, shots)
        if self.chooses:
            best = self._label_scores(examples, prompts, on_done).argmax(axis=1)
            return [self.labels[i].strip() for i in best]
        answers = self.generator.generate(
            prompts,
            max_new_tokens=self.max_new_tokens,
            stop_ids=self.stop_ids,
            on_done=on_done,
        )
        # Answers exclude the end token, so a full-length answer was cut.
        self.cut = sum(len(answer) >= self.max_new_tokens for answer in answers)
        return self.final_texts(answers)

    @property
    def generator(self) -> Generator:
        """Engine that generates the answers.

        Raises:
            ModelError: `evaluation.engine` does not support the model.
        """
        if self._generator is None:
            self._generator = make_generator(
                self.model,
                int(self.tokenizer.pad_token_id or 0),
                self.evaluation.batch_tokens,
                self.evaluation.engine,
                in_process=self.in_process,
            )
        return self._generator

    @property
    def stop_ids(self) -> set[int]:
        """Ids of the tokens that end an answer."""
        return self._encoder.stop_ids

    def prompt_ids(self, examples: Sequence[Example]) -> list[list[int]]:
        """Return the token ids of each prompt, up to the start of the answer."""
        examples = self._bare(examples)
        return self._prompts(examples, self._shots_for(examples))

    def final_texts(self, answers: list[list[int]]) -> list[str]:
        """Return answers as `predict` does, given the token ids that the model generated."""
        said = self._texts(answers)
        if self.answer_after:
            said = [text.rpartition(self.answer_after)[2] for text in said]
        return [text.strip() for text in said]

    def text_so_far(self, answer: list[int]) -> str:
        """Return the start of the final text that an unfinished answer already determines."""
        text = "" if self.answer_after else self._encoder.answer_so_far(answer)
        if self.anchor is not None and self.anchor.pending(text):
            return ""
        return (self.anchor.strip(text) if self.anchor else text).strip()

    @property
    def longest_reply(self) -> int:
        """Maximum number of tokens of a reply of the model."""
        return self.max_new_tokens

    @property
    def chooses(self) -> bool:
        """Whether answers are labels chosen by likelihood rather than generated text."""
        return self.classifier is not None or self.evaluation.answers == "likelihood"

    def counts(self) -> dict[str, int]:
        """Return the counts of data and steps, and any counts of answering so far."""
        return self.cost.counts() | (asdict(self.asked) if self.asked is not None else {})

    def remarks(self) -> tuple[str, ...]:
        """Return remarks on the answers so far, one sentence each."""
        return ()

    @property
    def asked(self) -> ApiUsage | None:
        """Counts of what the teacher was asked so far; None without a teacher."""
        if self.teacher is None or self._before is None:
            return None
        return self.teacher.usage.since(self._before)

    def _taught(self, asked: Sequence[Example], on_done: Callable[[int], None] | None) -> list[str]:
        """Return the teacher's answers; with `likelihood`, each is one of the labels."""
        labels: tuple[str, ...] = ()
        if self.chooses:
            check_labels(self.evaluation, self.labels)
            labels = self.labels
        replies = self._replies(
            asked, max_tokens=self.max_new_tokens, labels=labels, on_done=on_done
        )
        self.cut = sum(reply.cut for reply in replies)
        said = [self.answer(reply.text).strip() for reply in replies]
        return [(read_label(text, labels) or text).strip() for text in said] if labels else said

    def _replies(self, asked: Sequence[Example], **settings: Any) -> list[Reply]:
        """Return the teacher's replies to examples with the anchor; see `ApiClient.ask_all`."""
        assert self.teacher is not None  # The callers have checked this.
        attached = [self.anchor.attach(example) if self.anchor else example for example in asked]
        return self.teacher.ask_all(attached, **settings)

    def _texts(self, answers: list[list[int]]) -> list[str]:
        """Decode answers, and strip the thinking and the anchor's response side."""
        return [self.answer(text) for text in self._encoder.texts(answers)]

    def answer(self, text: str) -> str:
        """Return an answer or a reference without its thinking and the anchor's response side."""
        said = self._encoder.answer(text)
        return self.anchor.strip(said) if self.anchor else said

    def _bare(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Return examples as training read them, without the anchor of the data."""
        anchor = self.data_anchor
        return examples if anchor is None else [anchor.detach(example) for example in examples]

    def _shots_for(self, examples: Sequence[Example]) -> list[tuple[Message, ...]]:
        """Return the turns before each prompt, (examples,)."""
        return [self.shots] * len(examples)

    def _half(self, shots: tuple[Message, ...]) -> tuple[Message, ...]:
        """Return half of the shots, rounded down to whole examples."""
        return shots[: len(shots) // 4 * 2]

    def _prompts(
        self, examples: Sequence[Example], shots: Sequence[tuple[Message, ...]]
    ) -> list[list[int]]:
        """Return token ids of each prompt; halve the shots of prompts longer than the context."""
        prompts = self._encoder.prompts(map(prepend_shots, shots, examples))
        room = context_length(self.model.config) - self.max_new_tokens
        long = [i for i, prompt in enumerate(prompts) if shots[i] and len(prompt) > room]
        if long:
            fewer = self._prompts([examples[i] for i in long], [self._half(shots[i]) for i in long])
            for i, prompt in zip(long, fewer, strict=True):
                prompts[i] = prompt
        return prompts

    def beside_its_task(self, tokenizer: PreTrainedTokenizerBase) -> Predictor:
        """Return a predictor of the same model without anchor, shots and labels.

        It measures how the model answers prompts outside its task. The tokenizer is the model's
        own, without an anchor in its chat template.
        """
        # `likelihood` would answer every prompt with one of the task's labels.
        written = self.evaluation.model_copy(update={"answers": "generate"})
        plain = Predictor(
            self.model, tokenizer, None, self.max_new_tokens, written, in_process=self.in_process
        )
        plain._generator = self._generator
        return plain

    def label_scores(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Return the labels, and the score of each label for each example.

        Returns:
            Labels, and log-likelihoods in nats, (examples, labels). With a classifier, its scores
            are added. A softmax over the labels gives probabilities.

        Raises:
            RecipeError: There is no closed set of labels.
        """
        examples = self._bare(examples)
        prompts = self._prompts(examples, self._shots_for(examples))
        return self.labels, self._label_scores(examples, prompts, on_done)

    def _label_scores(
        self,
        examples: Sequence[Example],
        prompts: list[list[int]],
        on_done: Callable[[int], None] | None,
    ) -> NDArray[np.float64]:
        check_labels(self.evaluation, self.labels)
        # Labels are encoded as in training, after a prompt; which one makes no difference.
        behind_one = [replace(examples[0], completion=label, reasoning="") for label in self.labels]
        labels = self._encoder.completions(behind_one)
        scores: NDArray[np.float64] = -self._label_nll(prompts, labels, on_done).numpy()
        if self.classifier is not None:
            scores = scores + self.classifier.scores(examples, self.labels)
        return scores

    def _label_nll(
        self,
        prompts: list[list[int]],
        labels: list[list[int]],
        on_done: Callable[[int], None] | None,
    ) -> torch.Tensor:
        """Return the negative log-likelihood of labels in nats, (prompts, labels)."""
        return label_nll(self.model, prompts, labels, on_done=on_done)

    def answer_lengths(self, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Return the number of tokens of each completion with its end of turn, (examples,)."""
        return self._encoder.encode(examples).response_lengths

    def nll(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the negative log-likelihood of the examples' own completions.

        Returns:
            Summed negative log-likelihood in nats, and number of response tokens; each (examples,).

        Raises:
            RecipeError: No local language model answers.
        """
        if self.model is None:
            raise RecipeError(
                "a method without a local language model has no perplexity; choose other metrics "
                "in evaluation.metrics, or remove the method."
            )
        import torch

        encoded = self._encoder.encode(map(prepend_shots, self._shots_for(examples), examples))
        return response_nll(self.model, encoded), torch.from_numpy(encoded.response_lengths.copy())


@dataclass
class BaselinePredictor(Predictor):
    """Answers with one of the answers in the training data.

    Attributes:
        classifier: Classifier that chooses the answer to a prompt.
        notes: How the classifier was chosen, one sentence each; () if nothing was chosen.
    """

    classifier: Classifier = field(kw_only=True)
    notes: tuple[str, ...] = ()

    def predict(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> list[str]:
        """Answer each example's prompt; completions are ignored."""
        if not examples:
            return []
        answers = self.classifier.best(self._bare(examples))
        if on_done is not None:
            on_done(len(examples))
        return answers

    def label_scores(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Return the answers and their scores; with `knn`, one for each training example."""
        scores = self.classifier.scores(self._bare(examples))
        if on_done is not None:
            on_done(len(examples))
        return self.classifier.scorer.answers, scores


def class_likelihoods(
    scores: NDArray[np.floating[Any]], columns: Sequence[Sequence[int] | NDArray[np.intp]]
) -> NDArray[np.float64]:
    """Return the likelihood of each class, (examples, classes).

    The score of a class is the highest among its answers, so that the likeliest class is that of
    the answer of `predict`. A class without answers has a likelihood of 0.

    Args:
        scores: Scores of `Predictor.label_scores`, (examples, answers).
        columns: For each class, the columns of its answers; a k-NN baseline has one per training
            example.
    """
    import numpy as np
    from scipy.special import softmax

    best = [scores[:, list(of)].max(axis=1, initial=-np.inf) for of in columns]
    return np.asarray(softmax(np.stack(best, axis=1).astype(np.float64), axis=1))


def choosing(evaluation: EvaluationSpec) -> EvaluationSpec:
    """Return settings with which a product of experts chooses a label, whatever was set.

    If its classifier was left out, the adapter chooses alone.
    """
    return evaluation.model_copy(update={"answers": "likelihood"})


def check_labels(
    evaluation: EvaluationSpec, labels: Sequence[str], answers: Sequence[str] = ()
) -> None:
    """Raise an error if answers are to be chosen among labels and there are none.

    Raises:
        RecipeError: `evaluation.answers` is `likelihood`, and there are no labels.
    """
    if evaluation.answers == "likelihood":
        need_labels(labels, "`evaluation.answers: likelihood`", "use `generate`", answers)
