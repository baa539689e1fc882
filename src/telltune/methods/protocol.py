"""What every method is, and what it gives back: something that answers prompts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from telltune.data.encoding import Encoder
from telltune.inference.scoring import response_nll
from telltune.inference.transformers_engine import TransformersGenerator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch
    from transformers import PreTrainedTokenizerBase

    from telltune.data.anchor import Anchor
    from telltune.data.examples import Example
    from telltune.data.task import GeneralData, TaskData
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
        batch_tokens: Prompt tokens in a batch.
        cost: What making it took.
        release: Takes the adapter off the base model again.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    anchor: Anchor | None
    max_new_tokens: int
    batch_tokens: int = 4096
    cost: Cost = field(default_factory=Cost)
    release: Callable[[], object] = nullcontext

    def predict(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> list[str]:
        """Answer each example's prompt, greedily; its completion is not looked at.

        Returns:
            The answers, stripped of the anchor's response side and of white space around.
        """
        encoder = Encoder(self.tokenizer)
        generator = TransformersGenerator(
            self.model, int(self.tokenizer.pad_token_id or 0), self.batch_tokens
        )
        answers = generator.generate(
            encoder.prompts(examples),
            max_new_tokens=self.max_new_tokens,
            stop_ids=encoder.stop_ids,
            on_done=on_done,
        )
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [self.anchor.strip(t).strip() if self.anchor else t.strip() for t in texts]

    def nll(self, examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """How unlikely the examples' own completions are to the model.

        Returns:
            Summed negative log-likelihood in nats, and response tokens; each (examples,).
        """
        import torch

        encoded = Encoder(self.tokenizer).encode(examples)
        return response_nll(self.model, encoded), torch.from_numpy(encoded.response_lengths.copy())


@dataclass(frozen=True)
class Settings:
    """How a method runs.

    Attributes:
        recipe: Everything that a recipe says.
        out: Where a trained adapter and its log go; None keeps them in memory.
        progress: Show a bar.
    """

    recipe: Recipe
    out: Path | None = None
    progress: bool = True


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
