"""Check an adapter or baseline folder against its tell.json.

The hashes of the folder, the base and the data are recomputed. The order of the examples is
recomputed from the recipe and compared with the tokens of each step in the training log. A baseline
has neither base nor order; its answers are compared with those of the data.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.classifiers.classifier import load_classifier
from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.data.task import TaskData, load_general, load_task, unlabeled_beside
from telltune.errors import ModelError, TellError
from telltune.fitting.adapter_folder import (
    CHAT_TEMPLATE,
    ESTIMATOR,
    MODELFILE,
    TELL_JSON,
    order_hash,
    read_tell,
    versions,
)
from telltune.fitting.baseline_folder import BASELINE, baseline_versions, is_baseline
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.model_card import CARD, SCORES
from telltune.fitting.model_info import load_model_info
from telltune.fitting.output_folder import RECIPE_FILE
from telltune.fitting.selection import Selection
from telltune.fitting.trained_method import TrainedMethod
from telltune.methods.baselines import Baseline
from telltune.methods.registry import get_method
from telltune.models import base_revision, base_weights, without_rights
from telltune.recipe import Recipe, load_recipe, recipe_from_dict
from telltune.storage import checksum, checksums
from telltune.training.log import LOG, read_log
from telltune.training.trackers import RUNS
from telltune.training.training_data import step_places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telltune.data.general import GeneralData
    from telltune.fitting.run_plan import RunPlan

# Files that people may edit, that are written later, or that are checked without a hash.
_UNHASHED = {CARD, SCORES, RECIPE_FILE, TELL_JSON, LOG, MODELFILE, ESTIMATOR}


@dataclass(frozen=True)
class Check:
    """Result of checking one claim of tell.json.

    Attributes:
        what: Name of the claim, e.g. "adapter_model.safetensors" or "task data".
        held: Whether the claim holds; None if it cannot be checked here.
        reason: The difference, or the reason why the claim cannot be checked.
    """

    what: str
    held: bool | None
    reason: str = ""


@dataclass(frozen=True)
class Verification:
    """Result of verifying a folder.

    Attributes:
        checks: All checks.
        notes: Versions that differ between the run and this machine. They are no claims, but
            training again may give a different adapter.
    """

    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def held(self) -> bool | None:
        """True if all claims hold, False if one does not, None if one cannot be checked."""
        found = {check.held for check in self.checks}
        return False if False in found else None if None in found else True


def verify(adapter: str | Path) -> Verification:
    """Check all claims of a folder's tell.json.

    No base or encoder is loaded, and nothing is trained. The model named in tell.json may not run
    its own code.

    Args:
        adapter: Adapter or baseline folder from `tell fit`.

    Raises:
        ModelError: The folder is not finished.
        RecipeError: The recipe in tell.json is invalid.

    Examples:
        >>> telltune.verify("runs/mine").held
        True
    """
    folder = Path(adapter)
    record = read_tell(folder)
    recipe = recipe_from_dict(record["recipe"], name=str(folder / TELL_JSON))
    checks = [*_files(folder, record), *_recipe(folder, record, recipe)]
    recipe = recipe.model_copy(update={"model": without_rights(recipe.model)})
    if is_baseline(record):
        checks += _baseline(folder, record, recipe)
        now = baseline_versions()
    else:
        checks += [*_base(record, recipe), *_run(folder, record, recipe)]
        now = versions()
    then = record.get("versions", {})
    notes = [
        f"{name}: {then.get(name, 'not recorded')} then, {version} here"
        for name, version in now.items()
        if then.get(name) != version
    ]
    return Verification(tuple(checks), tuple(notes))


def _files(folder: Path, record: dict[str, Any]) -> Iterator[Check]:
    claimed = record.get("files")
    if not isinstance(claimed, dict):
        yield _unknown("files", _NOT_SAID)
        return
    beside = {RUNS, *(path.name for path in folder.iterdir() if path.name.startswith("."))}
    found = checksums(folder)
    for name in sorted(claimed | found):
        if name in _UNHASHED or name.split("/")[0] in beside:
            continue
        if name not in found:
            yield Check(name, held=False, reason="the file is missing")
        elif name not in claimed:
            yield Check(name, held=False, reason=f"it is not listed in {TELL_JSON}")
        else:
            differs = "" if found[name] == claimed[name] else "its content differs from the run's"
            yield Check(name, not differs, differs)


def _recipe(folder: Path, record: dict[str, Any], recipe: Recipe) -> Iterator[Check]:
    yield _compare("method", record.get("method"), recipe.method)
    yield _compare("seed", record.get("seed"), recipe.seed)
    path = folder / RECIPE_FILE
    if not path.exists():  # Cells of a study have no recipe file.
        return
    try:
        written = load_recipe(path).model_dump(mode="json")
    except TellError as error:
        yield Check(RECIPE_FILE, held=False, reason=str(error))
        return
    # An earlier version may not have had all keys; they are compared by their defaults.
    claimed = recipe.model_dump(mode="json")
    keys = [key for key, value in written.items() if claimed.get(key) != value]
    reason = f"it differs from the recipe in {TELL_JSON}: {', '.join(keys)}" if keys else ""
    yield Check(RECIPE_FILE, not keys, reason)


def _base(record: dict[str, Any], recipe: Recipe) -> Iterator[Check]:
    try:
        claimed = record.get("base", {})
        yield _compare("base", claimed.get("revision"), base_revision(recipe.model))
        # Hashes are not taken from the cache: a file may be corrupted without a new timestamp.
        found = {path.name: checksum(path) for path in base_weights(recipe.model)}
        yield _compare("base weights", record.get("base_weights"), found)
    except TellError as error:
        yield _unknown("base", str(error))


def _baseline(folder: Path, record: dict[str, Any], recipe: Recipe) -> Iterator[Check]:
    """Check that a baseline can be loaded, and which data it was fitted on."""
    try:
        load_classifier(folder / BASELINE, record["baseline"])
        yield Check("weights and answers", held=True)
    except ModelError as error:
        yield Check("weights and answers", held=False, reason=str(error))
    method = get_method(recipe.method)
    try:
        if not isinstance(method, Baseline):
            raise ModelError(f"method `{method.name}` is not a baseline.")
        tokenizer = load_model_info(recipe.model).tokenizer.load()
        data = method.data(load_task(recipe, may_lack_examples=True), tokenizer, recipe)
    except TellError as error:
        yield _unknown("task data", str(error))
        return
    found = contents_of(data.labeled).digest
    yield _compare("task data", _inside(record, "data", "task", "sha256"), found)
    if data.unlabeled:
        found = contents_of(data.unlabeled).digest
        yield _compare("unlabeled data", _inside(record, "data", "unlabeled", "sha256"), found)
    yield _compare("counts", record.get("counts"), data.cost.counts())
    encoder = Encoder(tokenizer)
    answers = {encoder.answer(example.completion).strip() for example in data.known}
    claimed = _inside(record, "baseline", "answers") or []
    strange = sorted(answers.symmetric_difference(claimed))
    reason = f"only in one of {TELL_JSON} and task data: {strange[0]!r}" if strange else ""
    yield Check("answers", not strange, reason)


def _run(folder: Path, record: dict[str, Any], recipe: Recipe) -> Iterator[Check]:
    """Check the training data and their order."""
    method = get_method(recipe.method)
    try:
        if not isinstance(method, TrainedMethod):
            raise ModelError(f"method `{method.name}` does not train.")
        recipe = method.configured(recipe)
        if record.get("answer_after"):
            raise ModelError("rationales were put before the answers in the run.")
        if record.get("over_prompt"):
            raise ModelError("the examples were put into groups in the run.")
        # Earlier versions did not record what `synthesis` made.
        made = any(got["made"] for got in record.get("levers", []))
        made = made or recipe.synthesis is not None
        task = load_task(recipe)
        if record.get("selection"):
            # The selection is taken from tell.json, because repeating it would require training.
            task, recipe = Selection.of(record["selection"]).apply(task, recipe)
        general = load_general(recipe) if method.uses_general else None
        data = list(_data(record, task, general, made=made))
        yield from data
        if made:
            raise ModelError("a lever made task data in the run.")
        if data[-1].held is None:
            raise ModelError("the general data cannot be checked.")
        run_plan = build_run_plan(method, task, general, load_model_info(recipe.model), recipe)
    except TellError as error:
        yield _unknown("order of the examples", str(error))
        return
    # Early stopping or a callback may have ended the run.
    steps = _inside(record, "counts", "optimizer_steps")
    if isinstance(steps, int) and 0 < steps < run_plan.counts.optimizer_steps:
        run_plan = run_plan.stopped_after(steps)
    counts = json.loads(json.dumps(asdict(run_plan.counts)))
    yield _compare("counts", record.get("counts"), counts)
    yield _compare("order", record.get("order"), order_hash(run_plan.mixture, run_plan.epochs))
    yield _log(folder, run_plan)
    yield from _anchor(folder, record, run_plan, recipe)


def _data(
    record: dict[str, Any], task: TaskData, general: GeneralData | None, *, made: bool
) -> Iterator[Check]:
    claimed = record.get("data", {})
    used = record.get("counts", {}).get("task_examples")
    if not made:  # else the hash is that of made examples too
        found = contents_of(task.train[:used]).digest
        yield _compare("task data", _inside(claimed, "task", "sha256"), found)
    if claimed.get("unlabeled"):
        labeled = task.train[: record.get("labeled", {}).get("task_examples", used)]
        found = contents_of(unlabeled_beside(task, labeled)).digest
        yield _compare("unlabeled data", _inside(claimed, "unlabeled", "sha256"), found)
    if record.get("early_stopping"):
        found = contents_of(task.dev[: _inside(claimed, "dev", "examples")]).digest
        yield _compare("dev data", _inside(claimed, "dev", "sha256"), found)
    name = _inside(claimed, "general", "name")
    if general is None or name is None:
        yield _compare("general data", name or "none", "none" if general is None else general.name)
    elif name != general.name:
        yield _unknown("general data", f"they were made in the run ({name})")
    else:
        digest = _inside(claimed, "general", "sha256")
        yield _compare("general data", digest, contents_of(general).digest)


def _log(folder: Path, run_plan: RunPlan) -> Check:
    """Check that each logged step has as many tokens as its examples in the recomputed order."""
    rows = read_log(folder / LOG)
    if not rows:
        return _unknown(LOG, "there is no log, so the order can only be recomputed")
    steps = run_plan.counts.optimizer_steps
    if [row.get("step") for row in rows] != list(range(1, steps + 1)):
        return Check(LOG, held=False, reason=f"it must contain each step from 1 to {steps} once")
    for row in rows:
        wanted = _tokens(run_plan, row["step"] - 1)
        if "skipped" not in row and row.get("tokens") != wanted:
            reason = (
                f"step {row['step']} has {row.get('tokens')} tokens, but its examples have {wanted}"
            )
            return Check(LOG, held=False, reason=reason)
    return Check(LOG, held=True)


def _tokens(run_plan: RunPlan, step: int) -> float:
    total = 0
    for is_task, index in step_places(run_plan.mixture, step):
        source = run_plan.task if is_task else run_plan.general
        assert source is not None  # The mixture has no general slots without general data.
        total += int(source.lengths[index])
    return float(total)


def _anchor(
    folder: Path, record: dict[str, Any], run_plan: RunPlan, recipe: Recipe
) -> Iterator[Check]:
    anchor = run_plan.anchor
    found = anchor and asdict(anchor)
    yield _compare("anchor", record.get("anchor") or "none", found or "none")
    path = folder / CHAT_TEMPLATE
    if not path.is_file():
        yield _unknown("chat template", f"{path} is missing")
        return
    plain = load_model_info(recipe.model).tokenizer.chat_template
    wanted = plain if anchor is None else anchor.write_into(plain)
    held = path.read_text(encoding="utf-8") == wanted
    reason = "" if held else "it differs from the base's template with the anchor"
    yield Check("chat template", held, reason)


_NOT_SAID = f"not recorded in {TELL_JSON}, which an older telltune wrote"


def _compare(what: str, claimed: Any, found: Any) -> Check:
    if claimed is None:
        return _unknown(what, _NOT_SAID)
    if claimed == found:
        return Check(what, held=True)
    if isinstance(claimed, dict) and isinstance(found, dict):
        keys = sorted(k for k in claimed | found if claimed.get(k) != found.get(k))
        told = "; ".join(
            f"{key} was {claimed.get(key)} and is {found.get(key)} here" for key in keys
        )
        return Check(what, held=False, reason=told)
    return Check(what, held=False, reason=f"it was {claimed} and is {found} here")


def _unknown(what: str, reason: str) -> Check:
    return Check(what, held=None, reason=reason)


def _inside(record: Any, *keys: str) -> Any:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record
