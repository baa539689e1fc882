"""Levels that are models: a small encoder that learns, and the folders of `tell fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.errors import ModelError, RecipeError
from telltune.inference.label_names import label_key
from telltune.inference.labels import label_nll
from telltune.methods.adapter_folder import load_predictor, read_tell
from telltune.methods.baseline_folder import is_baseline, load_folder
from telltune.methods.baseline_predictor import BaselinePredictor
from telltune.streams.levels import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from telltune.streams.levels import Level

__all__ = ["AdapterLevel", "BaselineLevel", "EncoderLevel", "fitted_level"]

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


class BaselineLevel:
    """The baseline of `tell fit`, which has learned already and learns no more.

    Args:
        folder: From `tell fit`.
        labels: What an input may be.

    Raises:
        RecipeError: The baseline knows none of the labels.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self.name: str = read_tell(folder)["method"]
        predictor = load_folder(folder)
        assert isinstance(predictor, BaselinePredictor)  # by `fitted_level`
        self._classifier = predictor.classifier
        answers = predictor.classifier.scorer.answers
        keys = np.array([label_key(answer) for answer in answers])
        # By label, the rows of scores that speak for it: the nearest example's, say.
        self._rows = [np.flatnonzero(keys == label_key(label)) for label in labels]
        if not any(len(rows) for rows in self._rows):
            raise RecipeError(
                f"{folder} answers with none of the labels ({', '.join(labels)}) but such as "
                f"`{answers[0]}`; name another folder, or write the labels alike."
            )

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """How likely each label is, (texts, labels); 0 for a label that it does not know."""
        scores = self._classifier.scores([Example(text, "") for text in texts])
        best = np.full((len(texts), len(self._rows)), -np.inf)
        for label, rows in enumerate(self._rows):
            if len(rows):
                best[:, label] = scores[:, rows].max(axis=1)
        return softmax(best)

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Nothing: its weights are a finished fit's."""

    def state(self) -> dict[str, Any]:
        """Nothing that could change."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def fitted_level(folder: Path, labels: Sequence[str]) -> Level:
    """Make a level of what `tell fit` left.

    Args:
        folder: Of an adapter or a baseline.
        labels: What an input may be.

    Raises:
        ModelError: The folder cannot be loaded.
        RecipeError: It is a baseline that knows none of the labels.
    """
    kind = BaselineLevel if is_baseline(read_tell(folder)) else AdapterLevel
    return kind(folder, labels)
