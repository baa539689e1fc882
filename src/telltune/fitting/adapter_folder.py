"""Output folder of a run: a standard PEFT adapter, its tokenizer and tell.json."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.classifiers.classifier import load_classifier
from telltune.data.anchor import Anchor
from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message
from telltune.data.fingerprint import file_hash
from telltune.errors import ModelError
from telltune.fitting.group_predictor import GroupPredictor
from telltune.fitting.model_card import CARD, SCORES, is_whole_model, model_card
from telltune.fitting.predictor import Cost, Predictor, choosing
from telltune.models import (
    ADAPTER_CONFIG,
    base_weights,
    load_adapter,
    load_base,
    model_origin,
    model_shape,
    without_rights,
)
from telltune.recipe import (
    EvaluationSpec,
    ModelSpec,
    OverPromptSpec,
    Recipe,
    recipe_from_dict,
)
from telltune.storage import (
    atomic_folder,
    checksum,
    checksums,
    write_bytes,
    write_json,
    write_text,
    writing,
)
from telltune.training.adapter import trained_bytes
from telltune.training.checkpoints import CHECKPOINTS
from telltune.training.log import LOG, read_log
from telltune.training.speed import training_shape
from telltune.version import VERSION, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import GenerationConfig

    from telltune.data.mixture import Mixture
    from telltune.fitting.pre_training import PreTraining
    from telltune.fitting.run_plan import RunPlan
    from telltune.models import LoadedModel, ModelShape, Origin
    from telltune.training.early_stopping import EarlyStopping

TELL_JSON = "tell.json"
MADE = "made.jsonl"
"""File with the examples that levers made."""
CLASSIFIER = "classifier.safetensors"
"""File with the classifier that is combined with the adapter, if there is one."""
MODELFILE = "Modelfile"
"""File with which Ollama reads a whole model; `tell export --ollama` adds it."""
ESTIMATOR = "estimator.json"
"""File of `TellClassifier.save` with the parameters and classes of the classifier."""
CHAT_TEMPLATE = "chat_template.jinja"
_PACKAGES = ("torch", "transformers", "peft", "accelerate")


def save_adapter(
    ground: PreTraining,
    plan: RunPlan,
    predictor: Predictor,
    stopping: EarlyStopping | None,
    weights: Mapping[str, Tensor] | None,
) -> None:
    """Write the adapter folder. tell.json is written last and marks the run as finished.

    Every file is complete before it gets its final name.

    Args:
        ground: Steps before training, with the settings of the run and the training data.
        plan: Run plan, with the counts of the optimizer steps taken.
        predictor: Predictor with the trained model, and with the time of all steps as its cost.
        stopping: Evaluations on dev data for early stopping, or None.
        weights: Trained weights if the model does not hold them whole; else None.

    Raises:
        StorageError: The folder cannot be written.
    """
    method, base = ground.method, ground.base
    recipe, out = ground.settings.recipe, ground.settings.out
    assert out is not None  # The caller saves only then.
    model, task, general, anchor = predictor.model, ground.task, ground.general, plan.anchor
    origin = model_origin(recipe.model, base.revision, str(base.model.name_or_path))
    trained_on = task.train[: len(plan.task)]
    mixed = None
    if method.uses_general and general is not None:
        contents = general.contents
        digest, examples = contents.digest, contents.examples
        mixed = {"name": general.name, "sha256": digest, "examples": examples}
    record: dict[str, Any] = {
        "method": method.name,
        "counts": asdict(plan.counts),
        "auto": plan.settings,
        "seconds": round(predictor.cost.seconds, 3),
        "seed": recipe.seed,
        "answer_tokens": predictor.max_new_tokens,
        "labels": list(predictor.labels),
        "anchor": anchor and asdict(anchor),
        "base": {
            "name": base.name,
            "revision": base.revision,
            "origin": origin.described,
            "hub_id": origin.hub_id,
        },
        "data": {
            "task": {"name": task.name, "sha256": contents_of(trained_on).digest},
            "general": mixed,
            "unlabeled": unlabeled_hash(ground.unlabeled),
            "dev": stopping
            and {"examples": stopping.data.examples, "sha256": stopping.data.digest},
        },
        "answer_after": task.answer_after,
        "over_prompt": (
            predictor.spec.model_dump(mode="json")
            if isinstance(predictor, GroupPredictor)
            else None
        ),
        "shots": [list(turn) for turn in task.shots],
        "selection": ground.selection and asdict(ground.selection),
        "levers": [got.to_dict() for got in ground.yields],
        "classifier": ground.choice and {"notes": ground.choice.notes},
        "labeled": ground.counts,
        "early_stopping": stopping and stopping.to_dict(),
        "skipped": [row for row in read_log(out / LOG) if "skipped" in row],
        **provenance(plan, model_shape(base.model.config), recipe),
        "versions": versions(),
        "recipe": recipe.model_dump(mode="json"),
    }
    with whole_files(out, needed=trained_bytes(model)) as (filling, files):
        # PEFT would write a model card of its own, which telltune's replaces.
        model.create_or_update_model_card = lambda _: None
        model.save_pretrained(filling, state_dict=weights)
        del model.create_or_update_model_card
        _name_base(filling / ADAPTER_CONFIG, origin)
        predictor.tokenizer.save_pretrained(filling)
        _generation_config(predictor).save_pretrained(filling)
        made = [_made_row(got.lever, example) for got in ground.yields for example in got.examples]
        if made:
            write_text(filling / MADE, "".join(made))
        if ground.choice is not None and (classifier := ground.choice.calibrated) is not None:
            told, arrays = classifier.state()
            record["classifier"] |= {"weight": ground.choice.weight, **told}
            write_bytes(filling / CLASSIFIER, arrays)
    write_text(out / CARD, model_card(record, origin))
    write_json(out / TELL_JSON, record | {"files": files})
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def unlabeled_hash(inputs: Sequence[Example]) -> dict[str, str] | None:
    """Return what tell.json says of unlabeled inputs; None if there are none."""
    return {"sha256": contents_of(inputs).digest} if inputs else None


@contextmanager
def whole_files(out: Path, *, needed: int) -> Iterator[tuple[Path, dict[str, str]]]:
    """Fill a temporary folder, then move its complete files into `out`.

    Yields:
        The folder to fill, and a dictionary that on exit maps file names to their sha256. `needed`
        is the estimated size of the files in bytes.

    Raises:
        StorageError: The folder cannot be written.
    """
    written = out / ".written"
    files: dict[str, str] = {}
    # A run that was killed while it moved the files leaves this folder behind.
    shutil.rmtree(written, ignore_errors=True)
    with atomic_folder(written, needed=needed) as filling:
        yield filling, files
        files.update(checksums(filling))
    with writing(out):
        for file in sorted(written.iterdir()):
            file.replace(out / file.name)
        written.rmdir()


def _made_row(lever: str, example: Example) -> str:
    """Return a made example as a line of JSON."""
    keys = ("history", "prompt", "completion", "confidence", "source", "origin")
    row = {"lever": lever} | {key: getattr(example, key) for key in keys}
    return json.dumps(row, ensure_ascii=False) + "\n"


def _name_base(path: Path, origin: Origin) -> None:
    """Replace the local base path that PEFT wrote by a name that is valid on other machines.

    The name is not given to PEFT before it saves, because PEFT would then query the hub.
    """
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": origin.path, "revision": origin.revision}
        write_json(path, config)


def _generation_config(predictor: Predictor) -> GenerationConfig:
    """Return the base's configuration, set to greedy decoding up to the trained end of turn."""
    config: GenerationConfig = deepcopy(predictor.model.generation_config)
    # transformers refuses to save sampling settings together with greedy decoding.
    sampling = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p")
    config.update(  # type: ignore[no-untyped-call]
        **dict.fromkeys((*sampling, "epsilon_cutoff", "eta_cutoff", "max_length")),
        do_sample=False,
        max_new_tokens=predictor.longest_reply,
        eos_token_id=sorted(Encoder(predictor.tokenizer).stop_ids),
        pad_token_id=predictor.tokenizer.pad_token_id,
    )
    config._from_model_config = False
    return config


def versions() -> dict[str, str]:
    """Return the versions of Python, telltune and the libraries that results depend on."""
    # A checkout that is not installed has no package metadata to read telltune's version from.
    own = {"python": platform.python_version(), "telltune": VERSION}
    return own | {package: version_of(package) for package in _PACKAGES}


# Types of keys in tell.json that are read without further checks.
_KINDS: dict[str, type] = {"labels": list} | dict.fromkeys(
    ("recipe", "counts", "files", "base", "baseline", "data", "versions"), dict
)


def read_tell(folder: Path) -> dict[str, Any]:
    """Return the contents of tell.json in an adapter or baseline folder.

    Raises:
        ModelError: The file is missing, damaged, or cannot be read.
    """
    path = folder / TELL_JSON
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not record.get("recipe"):
            raise ValueError("it contains no recipe")
        for key, kind in _KINDS.items():
            if not isinstance(record.get(key, kind()), kind):
                raise ValueError(f"`{key}` is damaged; restore the file, or fit again")
    except FileNotFoundError:
        raise ModelError(
            f"{path} is missing: the folder is not a finished output of `tell fit`; run `tell fit` "
            "again to resume."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from None
    return record


def answering_recipe(record: dict[str, Any], overrides: list[str] | None = None) -> Recipe:
    """Return the recipe in a tell.json, without its levers.

    Answers do not depend on levers, which may need a plugin that is not installed here.

    Raises:
        RecipeError: The recipe or an override is invalid.
    """
    return recipe_from_dict(record["recipe"] | {"levers": {}}, overrides=overrides)


def load_predictor(
    folder: Path,
    *,
    precision: str | None = None,
    evaluation: EvaluationSpec | None = None,
    trust_model: bool = False,
    base: LoadedModel | None = None,
) -> Predictor:
    """Load an adapter folder from `tell fit`, or a model merged from one, as a predictor.

    Args:
        folder: The folder, possibly from an untrusted source.
        precision: Precision, as in a recipe; the one of the run if None.
        evaluation: How to answer; the recipe's settings if None.
        trust_model: Whether the base may run its own code and load pickles where tell.json asks for
            it. The folder alone cannot grant this.
        base: Base model of the adapter, with or without other adapters. None loads it.

    Raises:
        ModelError: The folder is not finished or is damaged, or its base model is missing.
    """
    record = read_tell(folder)
    refuse_damaged(folder, record.get("files", {}))
    recipe = record["recipe"]
    if is_whole_model(record):
        spec = ModelSpec(name=str(folder.resolve()))
        whole = load_base(spec, precision or recipe["training"]["precision"])
        model: Any = whole.model
        tokenizer = whole.tokenizer
    else:
        if base is None:
            base = load_base_of(folder, record, precision, trust_model=trust_model)
        if base.revision != record["base"]["revision"]:
            raise ModelError(
                f"{folder} was trained on {base.name} {record['base']['revision']}, but found "
                f"{base.revision}; set the recipe's model.revision, or fit again."
            )
        model, tokenizer = load_adapter(base, folder)
    evaluation = evaluation or EvaluationSpec.model_validate(recipe["evaluation"])
    told = record.get("classifier") or {}
    if told:
        evaluation = choosing(evaluation)
    kind: Callable[..., Predictor] = Predictor
    if groups := record.get("over_prompt"):
        kind = partial(GroupPredictor, spec=OverPromptSpec.model_validate(groups))
    return kind(
        model=model,
        tokenizer=tokenizer,
        anchor=Anchor(**record["anchor"]) if record["anchor"] else None,
        max_new_tokens=evaluation.max_new_tokens or record["answer_tokens"],
        evaluation=evaluation,
        labels=tuple(record["labels"]),
        classifier=load_classifier(folder / CLASSIFIER, told) if "answers" in told else None,
        answer_after=record.get("answer_after", ""),
        shots=tuple(Message(*turn) for turn in record.get("shots", ())),
        cost=Cost.of(record["counts"], record["seconds"]),
    )


def load_base_of(
    folder: Path,
    record: dict[str, Any],
    precision: str | None = None,
    *,
    trust_model: bool = False,
) -> LoadedModel:
    """Load the base model of an adapter folder; see `load_predictor`."""
    spec = base_spec(folder, record, trust_model=trust_model)
    return load_base(spec, precision or record["recipe"]["training"]["precision"])


def base_spec(folder: Path, record: dict[str, Any], *, trust_model: bool) -> ModelSpec:
    """Return the base model of an adapter folder, with the chat template that the folder holds.

    The folder may come from an untrusted source; `trust_model` is as in `load_predictor`.
    """
    spec = ModelSpec.model_validate(record["recipe"]["model"])
    # The recipe may name a template file outside the folder; the folder has a copy.
    template = spec.chat_template and str(folder / CHAT_TEMPLATE)
    spec = spec.model_copy(update={"chat_template": template})
    return spec if trust_model else without_rights(spec)


def run_files(folder: Path, record: dict[str, Any]) -> list[Path]:
    """Return the files of a folder of `tell fit`, without those that users may add."""
    return [folder / name for name in (TELL_JSON, CARD, SCORES, LOG, *record.get("files", ()))]


def refuse_damaged(folder: Path, files: dict[str, str]) -> None:
    """Raise an error unless every file has its sha256 in tell.json, i.e. is as the run left it.

    Raises:
        ModelError: A file is missing or changed.
    """
    for name, expected in files.items():
        path = folder / name
        try:
            found = checksum(path)
        except FileNotFoundError:
            raise ModelError(f"{path} is missing; restore it, or fit again.") from None
        if found != expected:
            raise ModelError(
                f"{path} is damaged: its hash differs from that in {TELL_JSON}; restore the file, "
                "or fit again."
            )


# Keys of `training_shape` that also affect the rounding of sums.
_DECISIVE = ("machine", "instructions", "threads", "torch", "precision")


def provenance(run_plan: RunPlan, shape: ModelShape, recipe: Recipe) -> dict[str, Any]:
    """Return the provenance of a run besides its recipe, data and counts, for `tell verify`.

    The same recipe and seed on the same machine, with the same versions and threads, give the same
    adapter, byte for byte in fp32 on a CPU. On another machine the order of the examples is the
    same, but rounding may differ. `computed_with` records what the rounding depends on.

    Returns:
        `order` (sha256 of the examples of each step), `base_weights` (sha256 per file; empty for a
        hub model, which its commit identifies; None if unknown) and `computed_with`.
    """
    machine = training_shape(shape, recipe)
    try:
        # The hash of a large file takes a while; it is cached as long as the file is unchanged.
        weights = {path.name: file_hash(path) for path in base_weights(recipe.model)}
    except ModelError:
        weights = None  # The weights were removed during training.
    return {
        "order": order_hash(run_plan.mixture, run_plan.epochs),
        "base_weights": weights,
        "computed_with": {
            "system": platform.platform(),
            **{name: machine[name] for name in _DECISIVE},
        },
    }


def order_hash(mixture: Mixture, epochs: int) -> str:
    """Return a sha256 of the examples of each optimizer step, in order."""
    digest = hashlib.sha256()
    for epoch in range(epochs):
        for is_task, index in mixture.batches(epoch):
            digest.update(np.uint64(len(index)).tobytes())
            digest.update(is_task.astype(np.uint8).tobytes())
            digest.update(index.astype("<i8").tobytes())
    return digest.hexdigest()
