"""What a fit of a baseline leaves: a classifier, a tokenizer, and tell.json, which says of what.

The tokenizer counts tokens and separates thinking from answers. Only `probe` needs its base model.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from telltune.classifiers.classifier import load_classifier
from telltune.data.contents import contents_of
from telltune.methods.adapter_folder import (
    TELL_JSON,
    load_predictor,
    read_tell,
    refuse_damaged,
    versions,
    whole_files,
)
from telltune.methods.baseline_predictor import BaselinePredictor
from telltune.methods.model_card import CARD, baseline_card
from telltune.methods.protocol import Cost
from telltune.models import load_tokenizer
from telltune.recipe import EvaluationSpec, ModelSpec
from telltune.storage import write_bytes, write_json, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.data.examples import Example
    from telltune.methods.protocol import Predictor
    from telltune.recipe import Recipe

__all__ = [
    "BASELINE",
    "baseline_versions",
    "is_baseline",
    "load_folder",
    "save_baseline",
]

BASELINE = "baseline.safetensors"


def save_baseline(
    out: Path,
    method: str,
    predictor: BaselinePredictor,
    task: str,
    labeled: Sequence[Example],
    unlabeled: Sequence[Example],
    recipe: Recipe,
) -> None:
    """Write the folder of a baseline; tell.json comes last and marks the fit as finished.

    Args:
        out: The folder.
        method: Name of the method.
        predictor: What it made.
        task: Name of the task.
        labeled: Examples that it learned from.
        unlabeled: Unlabeled inputs that it learned from.
        recipe: The fit's.

    Raises:
        StorageError: The disk refuses.
    """
    told, weights = predictor.classifier.state()
    record: dict[str, Any] = {
        "method": method,
        "counts": predictor.counts(),
        "seconds": round(predictor.cost.seconds, 3),
        "seed": recipe.seed,
        "labels": list(predictor.labels),
        "data": {
            "task": {"name": task, "sha256": contents_of(labeled).digest},
            "unlabeled": {"sha256": contents_of(unlabeled).digest} if unlabeled else None,
        },
        "baseline": told,
        "versions": baseline_versions(),
        "recipe": recipe.model_dump(mode="json"),
    }
    with whole_files(out, needed=len(weights)) as (filling, files):
        write_bytes(filling / BASELINE, weights)
        predictor.tokenizer.save_pretrained(filling)
    write_text(out / CARD, baseline_card(record))
    write_json(out / TELL_JSON, record | {"files": files})


def baseline_versions() -> dict[str, str]:
    """Return the versions of Python, telltune and the libraries that a baseline depends on."""
    return versions() | {"scikit-learn": version("scikit-learn")}


def is_baseline(record: dict[str, Any]) -> bool:
    """Return whether a tell.json is that of a baseline."""
    return "baseline" in record


def load_folder(
    folder: Path,
    *,
    precision: str = "auto",
    evaluation: EvaluationSpec | None = None,
    trust_model: bool = False,
) -> Predictor:
    """Load what `tell fit` left, a baseline or an adapter; see `load_predictor`.

    `precision` and `trust_model` apply to adapters only. Of the baselines, `probe` alone loads its
    base model, with the first prompts and without the right to run the model's own code.

    Raises:
        ModelError: It is no finished folder, it is damaged, or its base or encoder is gone.
    """
    record = read_tell(folder)
    if not is_baseline(record):
        return load_predictor(
            folder, precision=precision, evaluation=evaluation, trust_model=trust_model
        )
    refuse_damaged(folder, record.get("files", {}))
    recipe = record["recipe"]
    return BaselinePredictor(
        model=None,
        tokenizer=load_tokenizer(ModelSpec(name=str(folder.resolve()))),
        anchor=None,
        max_new_tokens=recipe["training"]["max_length"],
        evaluation=evaluation or EvaluationSpec.model_validate(recipe["evaluation"]),
        labels=tuple(record["labels"]),
        cost=Cost.of(record["counts"], record["seconds"]),
        classifier=load_classifier(folder / BASELINE, record["baseline"]),
    )
