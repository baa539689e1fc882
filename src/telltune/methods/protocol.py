"""What every method is, and what it gives back: something that answers prompts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Self

from telltune.data.encoding import Encoder
from telltune.data.examples import behind
from telltune.inference.engine import make_generator
from telltune.inference.labels import label_nll, need_labels
from telltune.inference.scoring import response_nll
from telltune.models import context_length
from telltune.recipe import EvaluationSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from telltune.classifiers.classifier import Classifier
    from telltune.data.anchor import Anchor
    from telltune.data.examples import Example, Message
    from telltune.data.task import GeneralData, TaskData
    from telltune.inference.generator import Generator
    from telltune.methods.run_plan import RunPlan
    from telltune.models import BaseModel
    from telltune.recipe import Recipe

__all__ = ["Cost", "Method", "Predictor", "Settings", "check_labels"]


@dataclass(frozen=True)
class Cost:
    """What a method used.

    Attributes:
        task_examples: Distinct task examples.
        task_tokens: Their tokens, after the model's own chat template.
        unlabeled_examples: Unlabeled inputs.
        unlabeled_tokens: Their tokens, with the model's chat template around each.
        general_examples: General examples that training saw.
        general_tokens: Their tokens.
        optimizer_steps: Of training.
        trained_tokens: All tokens of training, the anchor and repeated passes included.
        seconds: Of training.
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
        """What a run's counts come to; see `RunCounts`."""
        used = {f.name: counts[f.name] for f in fields(cls) if f.name in counts}
        return cls(**used, seconds=seconds)

    def counts(self) -> dict[str, int]:
        """Return all but the seconds."""
        return {k: v for k, v in asdict(self).items() if k != "seconds"}


@dataclass
class Predictor:
    """Answers prompts; evaluation cannot tell which method made it.

    Used as a context manager, it gives the base back as it was, whatever happens inside.

    Attributes:
        model: With or without an adapter; None where no language model answers.
        tokenizer: Its template carries the anchor, where the method uses one.
        anchor: The same anchor, for stripping; or None.
        max_new_tokens: Longest answer.
        evaluation: How answers come about.
        labels: The answers that the training data has, where they are a closed set.
        classifier: Has a say in which label is the answer, whatever `evaluation` says; or None.
        shots: Turns that stand before every prompt: examples, question and answer by turns. Empty
            where each prompt has its own.
        answer_after: The answer stands behind the last of these in what is said; "" takes it all.
        in_process: Whether to answer in this process, whichever engine `evaluation` names.
        cost: What making it took.
        release: Takes the adapter off the base model again.
        cut: Answers of the last `predict` that reached `max_new_tokens` without an end.
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
    cost: Cost = field(default_factory=Cost)
    release: Callable[[], object] = nullcontext
    cut: int = field(default=0, init=False)
    _generator: Generator | None = field(default=None, init=False, repr=False)

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
        """Answer each example's prompt, greedily; its completion is not looked at.

        Returns:
            The answers, stripped of the thinking before them, of the anchor's response side and of
            white space around.

        Raises:
            RecipeError: `evaluation.answers` is `likelihood`, and there is no closed set of labels.
            ModelError: `evaluation.engine` does not suit the model.
        """
        self.cut = 0
        if not examples:
            return []
        prompts = self._prompts(examples, self._shots_for(examples))
        if self.chooses:
            return self._likeliest(examples, prompts, on_done)
        if self._generator is None:
            self._generator = make_generator(
                self.model,
                int(self.tokenizer.pad_token_id or 0),
                self.evaluation.batch_tokens,
                self.evaluation.engine,
                in_process=self.in_process,
            )
        answers = self._generator.generate(
            prompts,
            max_new_tokens=self.max_new_tokens,
            stop_ids=self._encoder.stop_ids,
            on_done=on_done,
        )
        # The token that ends an answer is not part of it.
        self.cut = sum(len(answer) >= self.max_new_tokens for answer in answers)
        said = self._texts(answers)
        if self.answer_after:
            said = [text.rpartition(self.answer_after)[2] for text in said]
        return [text.strip() for text in said]

    @property
    def chooses(self) -> bool:
        """Whether an answer is one of the labels by its likelihood; else it is written."""
        return self.classifier is not None or self.evaluation.answers == "likelihood"

    def counts(self) -> dict[str, int]:
        """What is counted of a method: data and steps, and what else its answers took so far."""
        return self.cost.counts()

    def _texts(self, answers: list[list[int]]) -> list[str]:
        """Decode answers, and take off the thinking and the anchor's response side."""
        return [self.answer(text) for text in self._encoder.texts(answers)]

    def answer(self, text: str) -> str:
        """Return an answer or a reference without its thinking and the anchor's response side."""
        said = self._encoder.answer(text)
        return self.anchor.strip(said) if self.anchor else said

    def _shots_for(self, examples: Sequence[Example]) -> list[tuple[Message, ...]]:
        """Turns that stand before each prompt, (examples,)."""
        return [self.shots] * len(examples)

    def _half(self, shots: tuple[Message, ...]) -> tuple[Message, ...]:
        """Half of the shots, rounded down to whole examples."""
        return shots[: len(shots) // 4 * 2]

    def _prompts(
        self, examples: Sequence[Example], shots: Sequence[tuple[Message, ...]]
    ) -> list[list[int]]:
        """Token ids of each prompt; one that the context cannot hold is shown half the shots.

        Args:
            examples: What is asked.
            shots: Turns before each of them, (examples,).
        """
        prompts = self._encoder.prompts(map(behind, shots, examples))
        room = context_length(self.model.config) - self.max_new_tokens
        long = [i for i, prompt in enumerate(prompts) if shots[i] and len(prompt) > room]
        if long:
            fewer = self._prompts([examples[i] for i in long], [self._half(shots[i]) for i in long])
            for i, prompt in zip(long, fewer, strict=True):
                prompts[i] = prompt
        return prompts

    def beside_its_task(self, tokenizer: PreTrainedTokenizerBase) -> Predictor:
        """The same model without anchor, shots and labels: what anybody else gets who asks it.

        Args:
            tokenizer: The model's own, whose template carries no anchor.
        """
        # Likelihood would answer with one of the task's labels, whatever is asked.
        written = self.evaluation.model_copy(update={"answers": "generate"})
        plain = Predictor(
            self.model, tokenizer, None, self.max_new_tokens, written, in_process=self.in_process
        )
        plain._generator = self._generator
        return plain

    def _likeliest(
        self,
        examples: Sequence[Example],
        prompts: list[list[int]],
        on_done: Callable[[int], None] | None,
    ) -> list[str]:
        import torch

        check_labels(self.evaluation, self.labels)
        # As training encoded them: behind a prompt, whichever it is.
        behind_one = [replace(examples[0], completion=label, reasoning="") for label in self.labels]
        labels = self._encoder.completions(behind_one)
        nll = self._label_nll(prompts, labels, on_done)
        if self.classifier is not None:
            nll = nll - torch.from_numpy(self.classifier.scores(examples, self.labels))
        return [self.labels[i].strip() for i in nll.argmin(dim=1).tolist()]

    def _label_nll(
        self,
        prompts: list[list[int]],
        labels: list[list[int]],
        on_done: Callable[[int], None] | None,
    ) -> torch.Tensor:
        """Return how unlikely each label is behind each prompt, in nats, (prompts, labels)."""
        return label_nll(self.model, prompts, labels, on_done=on_done)

    def answer_lengths(self, examples: Sequence[Example]) -> NDArray[np.int64]:
        """Return the tokens that each completion takes, its end of turn included, (examples,)."""
        return self._encoder.encode(examples).response_lengths

    def nll(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """How unlikely the examples' own completions are to the model.

        Returns:
            Summed negative log-likelihood in nats, and response tokens; each (examples,).
        """
        import torch

        encoded = self._encoder.encode(map(behind, self._shots_for(examples), examples))
        return response_nll(self.model, encoded), torch.from_numpy(encoded.response_lengths.copy())


def check_labels(evaluation: EvaluationSpec, labels: Sequence[str]) -> None:
    """Refuse to choose among labels where there are none.

    Args:
        evaluation: The recipe's.
        labels: Labels of the training data; empty where the answers are not a closed set.

    Raises:
        RecipeError: `evaluation.answers` is `likelihood`, and there are no labels.
    """
    if evaluation.answers == "likelihood":
        need_labels(labels, "`evaluation.answers: likelihood`", "write `generate`")


@dataclass(frozen=True)
class Settings:
    """How a method runs.

    Attributes:
        recipe: Everything that a recipe says.
        out: Where checkpoints, log and the trained adapter go; None keeps them in memory.
        progress: Show a bar.
        prepared: What `prepare` made of the same recipe and data, where that has been done.
        save: Whether the adapter goes there, too; else the last checkpoint stays.
        start: Weights that training begins with; a fresh adapter, or the base's own weights where
            all of them are trained, if None.
        score: Scores answers to the dev examples that a run looks at, in their order, higher is
            better; None where only their loss is looked at.
    """

    recipe: Recipe
    out: Path | None = None
    progress: bool = True
    prepared: RunPlan | None = None
    save: bool = True
    start: Mapping[str, torch.Tensor] | None = None
    score: Callable[[Sequence[str]], float] | None = None


class Method(Protocol):
    """A way to get a predictor from a task."""

    @property
    def name(self) -> str:
        """In recipes and tables."""
        ...

    @property
    def label(self) -> str:
        """For people."""
        ...

    @property
    def anchored(self) -> bool:
        """Whether it uses the anchor."""
        ...

    @property
    def mixes(self) -> bool:
        """Whether it uses general data."""
        ...

    @property
    def trains(self) -> bool:
        """Whether it makes an adapter."""
        ...

    @property
    def sized(self) -> bool:
        """Whether it depends on how much task data there is, and so on which was drawn."""
        ...

    def run(
        self, task: TaskData, general: GeneralData | None, base: BaseModel, settings: Settings
    ) -> Predictor:
        """Make a predictor. It never sees test data."""
        ...
