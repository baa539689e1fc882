"""Levels that are models: a small encoder that learns, and models from `tell fit` folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.errors import ModelError, RecipeError
from telltune.fitting.adapter_folder import load_predictor, read_tell
from telltune.fitting.baseline_folder import is_baseline, load_folder
from telltune.fitting.predictor import BaselinePredictor
from telltune.inference.labels import label_key
from telltune.inference.scoring import label_nll
from telltune.research.streams.levels import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from telltune.research.streams.levels import Level

__all__ = ["AdapterLevel", "BaselineLevel", "EncoderLevel", "fitted_level"]

_LONGEST = 128


class EncoderLevel:
    """A small encoder with a classification head, fully trained on the top model's labels.

    Args:
        model: Folder or hub ID of the encoder.
        labels: Number of labels.
        learning_rate: Learning rate of AdamW.
        seed: Seed of the head's initialization.

    Raises:
        ModelError: The encoder cannot be loaded.
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
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model.to(self._device)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=learning_rate)

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the likelihood of each label, (texts, labels)."""
        self._model.eval()
        with torch.inference_mode():
            logits = self._model(**self._inputs(texts)).logits
        found: NDArray[np.float64] = logits.double().softmax(1).cpu().numpy()
        return found

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Take one AdamW step on a batch."""
        self._model.train()
        self._optimizer.zero_grad()
        targets = torch.tensor(list(labels), device=self._device)
        self._model(**self._inputs(texts), labels=targets).loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()

    def state(self) -> dict[str, Any]:
        """Return the state of the weights and of the optimizer."""
        weights = {name: value.clone() for name, value in self._model.state_dict().items()}
        return {"weights": weights, "optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state returned by `state`."""
        self._model.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _inputs(self, texts: Sequence[str]) -> Any:
        return self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=_LONGEST, return_tensors="pt"
        ).to(self._device)


class AdapterLevel:
    """An adapter from `tell fit`, which is not trained further.

    Args:
        folder: Output folder of `tell fit`.
        labels: Possible labels of an input.
    """

    name = "adapter"

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._predictor = load_predictor(folder)
        self._encoder = Encoder(self._predictor.tokenizer)
        self._labels = self._encoder.completions([Example("-", label) for label in labels])

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the likelihood of each label as the answer, (texts, labels)."""
        prompts = self._encoder.prompts([Example(text, "") for text in texts])
        nll = label_nll(self._predictor.model, prompts, self._labels)
        found: NDArray[np.float64] = (-nll).softmax(1).numpy()
        return found

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Do nothing; the adapter is fixed."""

    def state(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing; the state is empty."""


class BaselineLevel:
    """A baseline from `tell fit`, which is not trained further.

    Args:
        folder: Output folder of `tell fit`.
        labels: Possible labels of an input.

    Raises:
        RecipeError: The baseline knows none of the labels.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self.name: str = read_tell(folder)["method"]
        predictor = load_folder(folder)
        assert isinstance(predictor, BaselinePredictor)  # guaranteed by `fitted_level`
        self._classifier = predictor.classifier
        answers = predictor.classifier.scorer.answers
        keys = np.array([label_key(answer) for answer in answers])
        # For each label, the score columns of its answers; a k-NN baseline has one per example.
        self._rows = [np.flatnonzero(keys == label_key(label)) for label in labels]
        if not any(len(rows) for rows in self._rows):
            raise RecipeError(
                f"{folder} knows none of the labels ({', '.join(labels)}), but answers such "
                f"as `{answers[0]}`; use another folder or change the labels to match."
            )

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the likelihood of each label, (texts, labels); 0 for unknown labels."""
        scores = self._classifier.scores([Example(text, "") for text in texts])
        best = np.full((len(texts), len(self._rows)), -np.inf)
        for label, rows in enumerate(self._rows):
            if len(rows):
                best[:, label] = scores[:, rows].max(axis=1)
        return softmax(best)

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Do nothing; the baseline is fixed."""

    def state(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing; the state is empty."""


def fitted_level(folder: Path, labels: Sequence[str]) -> Level:
    """Return a level for an adapter or baseline from `tell fit`.

    Args:
        folder: Output folder of `tell fit`.
        labels: Possible labels of an input.

    Raises:
        ModelError: The folder cannot be loaded.
        RecipeError: The folder is a baseline that knows none of the labels.
    """
    kind = BaselineLevel if is_baseline(read_tell(folder)) else AdapterLevel
    return kind(folder, labels)
