"""Levels that are models: a small encoder that learns, and models from `tell fit` folders.

`make_levels` makes all levels that the settings of a cascade name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.data.examples import Example
from telltune.errors import ModelError, RecipeError
from telltune.fitting.adapter_folder import read_tell
from telltune.fitting.baseline_folder import is_baseline, load_folder
from telltune.fitting.predictor import BaselinePredictor, class_likelihoods
from telltune.hub import check_reachable, silence
from telltune.inference.labels import label_key
from telltune.models import context_length
from telltune.models.files import hush_transformers
from telltune.research.streams.heads import HeadLevel
from telltune.research.streams.levels import Level, LinearLevel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.research.streams.spec import CascadeSpec, LevelSpec

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
        if not Path(model).exists():
            check_reachable(f"encoder `{model}`", model, None, "set `path` to a folder")
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        hush_transformers()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self._tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
                self._model: Any = AutoModelForSequenceClassification.from_pretrained(
                    model, num_labels=labels, trust_remote_code=False, use_safetensors=True
                )
            except (OSError, ValueError) as error:
                reason = " ".join(str(silence() or error).split())
                raise ModelError(f"encoder `{model}` cannot be loaded: {reason}.") from None
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


class FittedLevel:
    """An adapter or a baseline from `tell fit`, which is not trained further.

    An adapter gives the likelihood of each label as the answer. If its folder has a classifier
    (product of experts), both choose together, as in `tell predict`.

    Args:
        folder: Output folder of `tell fit`.
        labels: Possible labels of an input.

    Raises:
        ModelError: The folder cannot be loaded.
        RecipeError: The folder's classifier or baseline knows none of the labels.
    """

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        predictor, record = load_folder(folder), read_tell(folder)
        self.name: str = record["method"] if is_baseline(record) else "adapter"
        if predictor.model is not None and predictor.classifier is None:
            predictor.labels = tuple(labels)
        self._predictor = predictor
        answers = predictor.labels
        if isinstance(predictor, BaselinePredictor):
            answers = predictor.classifier.scorer.answers
        keys = np.array([label_key(answer) for answer in answers])
        self._columns = [np.flatnonzero(keys == label_key(label)) for label in labels]
        if not any(map(len, self._columns)):
            raise RecipeError(
                f"{folder} knows none of the labels ({', '.join(labels)}), but answers such "
                f"as `{answers[0]}`; use another folder or change the labels to match."
            )

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the likelihood of each label, (texts, labels); 0 for unknown labels.

        All labels are as likely for a text that is longer than the model's context.
        """
        likely = np.full((len(texts), len(self._columns)), 1 / len(self._columns))
        examples = [Example(text, "") for text in texts]
        fit = self._that_fit(examples)
        if fit:
            _, scores = self._predictor.label_scores([examples[i] for i in fit])
            likely[fit] = class_likelihoods(scores, self._columns)
        return likely

    def _that_fit(self, examples: Sequence[Example]) -> list[int]:
        """Return the numbers of the examples that are not longer than the model's context."""
        if self._predictor.model is None:
            return list(range(len(examples)))
        room = context_length(self._predictor.model.config) - self._predictor.max_new_tokens
        prompts = self._predictor.prompt_ids(examples)
        return [i for i, prompt in enumerate(prompts) if len(prompt) <= room]

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        """Do nothing; the model is fixed."""

    def state(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Do nothing; the state is empty."""


def make_levels(spec: CascadeSpec) -> list[Level]:
    """Load the levels of a cascade.

    Raises:
        RecipeError: A folder of `tell fit` knows none of the labels.
        ModelError: A model cannot be loaded.
    """
    return [_level(level, spec) for level in spec.levels]


def _level(level: LevelSpec, spec: CascadeSpec) -> Level:
    if level.kind == "linear":
        return LinearLevel(len(spec.labels))
    if level.kind == "encoder":
        return EncoderLevel(str(level.path), len(spec.labels), seed=spec.seed)
    if level.kind == "adapter":
        return FittedLevel(Path(str(level.path)), spec.labels)
    return HeadLevel(level.kind, len(spec.labels))
