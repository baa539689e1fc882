"""Classifiers of prompt vectors with a linear score for each answer, and their storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from telltune.classifiers.features import Features, features_from, prompt_text
from telltune.classifiers.heads import LinearScorer, fit_head
from telltune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from telltune.classifiers.features import FeatureKind
    from telltune.classifiers.heads import Head
    from telltune.data.examples import Example


@dataclass
class Classifier:
    """Classifier that chooses among answers by the vector of a prompt.

    Attributes:
        vectorize: Function from texts to vectors, (texts, width).
    """

    vectorize: Features
    scorer: LinearScorer

    def scores(
        self, examples: Sequence[Example], answers: Sequence[str] | None = None
    ) -> NDArray[Any]:
        """Return the score of each answer, by default all, for each prompt, (examples, answers).

        White space around `answers` does not matter.
        """
        found = self.scorer.scores(self.vectorize(list(map(prompt_text, examples))))
        if answers is None:
            return found
        known = list(map(str.strip, self.scorer.answers))
        return found[:, [known.index(answer.strip()) for answer in answers]]

    def weighted(self, weight: float) -> Classifier:
        """Return a classifier whose scores are those of this one multiplied by a weight."""
        old = self.scorer
        scorer = LinearScorer(weight * old.weights, weight * old.bias, old.answers)
        return Classifier(self.vectorize, scorer)

    def best(self, examples: Sequence[Example]) -> list[str]:
        """Return the answer with the highest score for each prompt, (examples,)."""
        return self.scorer.best(self.vectorize(list(map(prompt_text, examples))))

    def state(self) -> tuple[dict[str, Any], bytes]:
        """Return the state for `load_classifier`: JSON for tell.json, and a file of arrays."""
        told, arrays = self.vectorize.state()
        scorer = self.scorer
        record = {
            "features": {"kind": self.vectorize.kind, **told},
            "answers": list(scorer.answers),
        }
        return record, save({"weights": scorer.weights, "bias": scorer.bias, **arrays})


def fit_classifier(
    head: Head,
    kind: FeatureKind,
    vectorize: Features,
    known: Sequence[Example],
    inputs: Sequence[Example],
) -> tuple[Classifier, Any]:
    """Fit a classifier to examples and unlabeled inputs.

    Args:
        head: Kind of classifier; see `fit_head`.
        kind: Kind of the vectors.
        vectorize: Function from texts to these vectors.
        known: Labeled examples.
        inputs: Unlabeled inputs.

    Returns:
        The classifier, and the vectors of the inputs, (inputs, width).
    """
    vectors = vectorize([prompt_text(example) for example in (*known, *inputs)])
    first, others = vectors[: len(known)], vectors[len(known) :]
    scorer = fit_head(head, kind, first, [example.answer for example in known], others)
    return Classifier(vectorize, scorer), others


def load_classifier(path: Path, told: Mapping[str, Any]) -> Classifier:
    """Load a classifier from its file of arrays and the JSON part of its `state`.

    Raises:
        ModelError: The parts do not fit together, or the encoder or model of the features is
            missing on this machine.
    """
    folder = path.parent
    parts = f"{folder}: {path.name} and tell.json"
    try:
        arrays = load(path.read_bytes())
        vectorize = features_from(told["features"], arrays)
        scorer = LinearScorer(arrays["weights"], arrays["bias"], tuple(told["answers"]))
        rows = len(scorer.answers)
        if scorer.weights.shape != (rows, vectorize.width) or scorer.bias.shape != (rows,):
            raise ValueError(
                f"weights {scorer.weights.shape} and bias {scorer.bias.shape} for {rows} answers "
                f"and vectors of width {vectorize.width}"
            )
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; restore it, or fit again.") from None
    except KeyError as error:
        raise ModelError(f"{parts} lack {error}; restore the files, or fit again.") from None
    except (SafetensorError, TypeError, ValueError) as error:
        raise ModelError(
            f"{parts} do not fit together: {error}; restore the files, or fit again."
        ) from None
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None
    return Classifier(vectorize, scorer)
