"""Output folder of a baseline: a classifier, a tokenizer and tell.json.

The tokenizer counts tokens and separates thinking from answers. Only `probe` needs its base model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from telltune.classifiers.classifier import load_classifier
from telltune.data.contents import contents_of
from telltune.data.task import anchor_of
from telltune.fitting.adapter_folder import (
    TELL_JSON,
    answering_recipe,
    load_predictor,
    read_tell,
    refuse_damaged,
    unlabeled_hash,
    versions,
    whole_files,
)
from telltune.fitting.model_card import CARD, baseline_card
from telltune.fitting.predictor import BaselinePredictor, Cost, Predictor
from telltune.models import LoadedModel, load_tokenizer
from telltune.recipe import EvaluationSpec, ModelSpec, Recipe
from telltune.storage import write_bytes, write_json, write_text
from telltune.version import version_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.data.examples import Example

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
    """Write the folder of a baseline. tell.json is written last and marks the fit as finished.

    Raises:
        StorageError: The folder cannot be written.
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
            "unlabeled": unlabeled_hash(unlabeled),
        },
        "baseline": told | {"notes": list(predictor.notes)},
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
    return versions() | {"scikit-learn": version_of("scikit-learn")}


def is_baseline(record: dict[str, Any]) -> bool:
    """Return whether the contents of a tell.json are those of a baseline."""
    return "baseline" in record


def load_folder(
    folder: Path,
    *,
    precision: str | None = None,
    evaluation: EvaluationSpec | None = None,
    trust_model: bool = False,
    base: LoadedModel | None = None,
) -> Predictor:
    """Load a baseline or adapter folder from `tell fit`; see `load_predictor`.

    `precision`, `trust_model` and `base` apply to adapters only. Among the baselines, only `probe`
    loads its base model, at the first prompts; the model may not run its own code.

    Raises:
        ModelError: The folder is not finished or is damaged, or its base or encoder is missing.
    """
    record = read_tell(folder)
    recipe = answering_recipe(record)
    if not is_baseline(record):
        predictor = load_predictor(
            folder,
            precision=precision,
            evaluation=evaluation,
            trust_model=trust_model,
            base=base,
        )
    else:
        refuse_damaged(folder, record.get("files", {}))
        predictor = BaselinePredictor(
            model=None,
            tokenizer=load_tokenizer(ModelSpec(name=str(folder.resolve()))),
            anchor=None,
            max_new_tokens=recipe.training.max_length,
            evaluation=evaluation or recipe.evaluation,
            labels=tuple(record["labels"]),
            cost=Cost.of(record["counts"], record["seconds"]),
            classifier=load_classifier(folder / BASELINE, record["baseline"]),
        )
    predictor.data_anchor = predictor.anchor or anchor_of(recipe)
    return predictor
