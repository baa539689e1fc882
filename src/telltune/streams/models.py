"""Levels that are transformers: a small encoder that learns, and the adapter of `tell fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.errors import ModelError
from telltune.inference.labels import label_nll

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["AdapterLevel", "EncoderLevel"]

_LONGEST = 128


class EncoderLevel:
    """A small encoder with a layer of logits, all of it trained on what the top labels.

    Args:
        model: A folder or hub id.
        labels: How many.
        learning_rate: AdamW's.
        seed: Of the new layer's start.
    """

    name = "encoder"

    def __init__(
        self, model: str, labels: int, *, learning_rate: float = 5e-5, seed: int = 0
    ) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
                self._model: Any = AutoModelForSequenceClassification.from_pretrained(
                    model, num_labels=labels
                )
            except (OSError, ValueError) as error:
                raise ModelError(f"encoder {model} cannot be loaded: {error}.") from None
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=learning_rate)

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """How likely each label is, (texts, labels)."""
        self._model.eval()
        with torch.inference_mode():
            logits = self._model(**self._inputs(texts)).logits
        found: NDArray[np.float64] = logits.double().softmax(1).numpy()
        return found

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """One step on a batch."""
        self._model.train()
        self._optimizer.zero_grad()
        self._model(**self._inputs(texts), labels=torch.tensor(list(labels))).loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()

    def state(self) -> dict[str, Any]:
        """Of weights and optimizer."""
        weights = {name: value.clone() for name, value in self._model.state_dict().items()}
        return {"weights": weights, "optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """As it was."""
        self._model.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _inputs(self, texts: Sequence[str]) -> Any:
        return self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"
        )


class AdapterLevel:
    """The adapter of `tell fit`, which has learned already and learns no more.

    Args:
        folder: From `tell fit`.
        labels: What an input may be.
    """

    name = "adapter"

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        from telltune.methods.adapter_folder import load_predictor

        self._predictor = load_predictor(folder)
        self._encoder = Encoder(self._predictor.tokenizer)
        self._labels = self._encoder.completions([Example("-", label) for label in labels])

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """How likely each label is as an answer, (texts, labels)."""
        prompts = self._encoder.prompts([Example(text, "") for text in texts])
        nll = label_nll(self._predictor.model, prompts, self._labels)
        found: NDArray[np.float64] = (-nll).softmax(1).numpy()
        return found

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Nothing: its weights are a finished run's."""

    def state(self) -> dict[str, Any]:
        """Nothing that could change."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to do."""
