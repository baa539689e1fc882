"""What every method is, and what it gives back: something that answers prompts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.errors import RecipeError
from telltune.inference.engine import make_generator
from telltune.inference.labels import label_nll
from telltune.inference.scoring import response_nll
from telltune.recipe import EvaluationSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from transformers import PreTrainedTokenizerBase

    from telltune.data.anchor import Anchor
    from telltune.data.task import GeneralData, TaskData
    from telltune.inference.generator import Generator
    from telltune.methods.preparation import Prepared
    from telltune.models import BaseModel
    from telltune.recipe import Recipe

__all__ = ["Cost", "Method", "Predictor", "Settings"]


@dataclass(frozen=True)
class Cost:
    """What a method used.

    Attributes:
        task_tokens: Distinct task tokens, after the model's own chat template.
        general_tokens: General tokens that training saw.
        seconds: Of training.
    """

    task_tokens: int = 0
    general_tokens: int = 0
    seconds: float = 0.0


@dataclass
class Predictor:
    """Answers prompts; evaluation cannot tell which method made it.

    Attributes:
        model: With or without an adapter.
        tokenizer: Its template carries the anchor, where the method uses one.
        anchor: The same anchor, for stripping; or None.
        max_new_tokens: Longest answer.
        evaluation: How answers come about.
        labels: The answers that the training data has, where they are a closed set.
        cost: What making it took.
        release: Takes the adapter off the base model again.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    anchor: Anchor | None
    max_new_tokens: int
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    labels: tuple[str, ...] = ()
    cost: Cost = field(default_factory=Cost)
    release: Callable[[], object] = nullcontext
    _generator: Generator | None = field(default=None, init=False, repr=False)

    @cached_property
    def _encoder(self) -> Encoder:
        return Encoder(self.tokenizer)

    def predict(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> list[str]:
        """Answer each example's prompt, greedily; its completion is not looked at.

        Returns:
            The answers, stripped of the anchor's response side and of white space around.

        Raises:
            RecipeError: `evaluation.answers` is `likelihood`, and there is no closed set of labels.
            ModelError: `evaluation.engine` does not suit the model.
        """
        encoder = self._encoder
        prompts = encoder.prompts(examples)
        if self.evaluation.answers == "likelihood":
            return self._likeliest(encoder, prompts, on_done)
        if self._generator is None:
            self._generator = make_generator(
                self.model,
                int(self.tokenizer.pad_token_id or 0),
                self.evaluation.batch_tokens,
                self.evaluation.engine,
            )
        answers = self._generator.generate(
            prompts,
            max_new_tokens=self.max_new_tokens,
            stop_ids=encoder.stop_ids,
            on_done=on_done,
        )
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [self.anchor.strip(t).strip() if self.anchor else t.strip() for t in texts]

    def _likeliest(
        self,
        encoder: Encoder,
        prompts: list[list[int]],
        on_done: Callable[[int], None] | None,
    ) -> list[str]:
        if not self.labels:
            raise RecipeError(
                "evaluation.answers: likelihood chooses among the training data's answers, and "
                "these are no closed set (at most 100, each twice on average); write `generate`."
            )
        labels = encoder.completions([Example("", label) for label in self.labels])
        nll = label_nll(self.model, prompts, labels, on_done=on_done)
        return [self.labels[i].strip() for i in nll.argmin(dim=1).tolist()]

    def nll(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """How unlikely the examples' own completions are to the model.

        Returns:
            Summed negative log-likelihood in nats, and response tokens; each (examples,).
        """
        import torch

        encoded = self._encoder.encode(examples)
        return response_nll(self.model, encoded), torch.from_numpy(encoded.response_lengths.copy())


@dataclass(frozen=True)
class Settings:
    """How a method runs.

    Attributes:
        recipe: Everything that a recipe says.
        out: Where a trained adapter and its log go; None keeps them in memory.
        progress: Show a bar.
        prepared: What `prepare` made of the same recipe and data, where that has been done.
    """

    recipe: Recipe
    out: Path | None = None
    progress: bool = True
    prepared: Prepared | None = None


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

    def run(
        self, task: TaskData, general: GeneralData | None, base: BaseModel, settings: Settings
    ) -> Predictor:
        """Make a predictor. It never sees test data."""
        ...
