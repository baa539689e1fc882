"""Order in which each method learns the quanta of a task.

TELL's proposed mechanism is an order: randomly interleaved general data let the quanta of a task be
learned in nearly the order in which abundant data would teach them (arXiv 2404.00914). This module
measures that order. A reference is trained on abundant task data, and the held-out tokens that it
learned are clustered by gradient. The order in which each method learns these clusters is compared
with that of the reference. Only dev items are used.
"""

from __future__ import annotations

import gc
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.data.anchor import anchored_tokenizer
from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.data.given import given_recipe
from telltune.data.task import TaskData, load_general, load_task
from telltune.errors import DataError, RecipeError, StorageError, check_count
from telltune.fitting.build_plan import build_run_plan
from telltune.fitting.model_info import load_model_info
from telltune.fitting.output_folder import (
    SETTINGS,
    check_resumable,
    check_settings,
    lock_folder,
    record_recipe,
)
from telltune.fitting.trained_method import TrainedMethod
from telltune.methods.registry import get_method
from telltune.models import LoadedModel, context_length, load_base_of
from telltune.research.quanta.clusters import cluster_gradients
from telltune.research.quanta.losses import LossCurves, LossRecorder
from telltune.research.quanta.report import QuantaReport, judge
from telltune.research.quanta.tokens import choose_tokens, copied_tokens, token_owners
from telltune.storage import write_json
from telltune.training.adapter import borrowing
from telltune.training.progress import phase
from telltune.training.run import TrainingOptions, train
from telltune.valuation.gradient_sketch import GradientSketch, gradient_weights, token_gradients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.encoded import EncodedSet
    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.fitting.run_plan import RunPlan
    from telltune.recipe import AnyRecipe, Recipe

DEFAULT_METHODS = (
    *("sft_anchor", "tell", "tell_stratified"),
    *("tell_task_first", "tell_general_first"),
)
QUANTA = "quanta.json"
_REFERENCE = "reference"
_REFERENCE_METHOD = "sft_anchor"
_WORK = "work"


def quanta(
    recipe: AnyRecipe,
    methods: Sequence[str] = DEFAULT_METHODS,
    *,
    out: str | Path,
    reference_tokens: int = 10_000,
    items: int = 100,
    clusters: int = 12,
    moments: int = 10,
    overwrite: bool = False,
    progress: bool = True,
) -> QuantaReport:
    """Find a task's quanta, and compare the order in which methods learn them with a reference.

    The reference is SFT with the anchor. A repeated call with the same folder, recipe and settings
    trains only unfinished methods, and resumes one that was interrupted.

    Args:
        recipe: Recipe file, dictionary or `Recipe`. Its `task.max_tokens` limits the task tokens of
            the methods.
        methods: Names of methods that train; differences are relative to the first.
        out: Output folder for quanta.json and one file of token losses per training.
        reference_tokens: Number of task tokens of the reference.
        items: Number of dev items whose response tokens are used; the first ones are taken.
        clusters: Number of quanta to find.
        moments: Number of measurements during a training, in addition to the one at its start.
        overwrite: Start over if the folder holds a run with another recipe or settings.
        progress: Whether to show a progress bar.

    Raises:
        RecipeError: A method cannot be recorded, there are no dev items, the reference has no more
            data than the methods, or there are fewer than two clusters.
        DataError: The reference learned too few held-out tokens for the clusters.
        StorageError: The folder holds other files or another run.
    """
    recipe, out = given_recipe(recipe), Path(out)
    check_count("reference_tokens", reference_tokens)
    check_count("items", items)
    check_count("clusters", clusters, least=2)
    check_count("moments", moments)
    with lock_folder(out):
        check_resumable(out, recipe, overwrite=overwrite)
        jobs = _jobs(recipe, methods, reference_tokens)
        held_out = jobs[0].task.dev[:items]
        if not held_out:
            raise RecipeError("quanta need dev items; add `task.dev` to the recipe.")
        settings = {
            "reference_tokens": reference_tokens,
            "items": len(held_out),
            "clusters": clusters,
            "moments": moments,
            "train": contents_of(jobs[0].task.train).digest,
            "dev": contents_of(held_out).digest,
        }
        if not overwrite:
            check_settings(out, settings, "choose another --out, or pass --overwrite")
        record_recipe(out, recipe, overwrite=overwrite)
        write_json(out / SETTINGS, settings)
        records = _records(jobs, held_out, out, clusters, moments, progress=progress)
        report = judge(jobs[0].task.name, settings, records, recipe.seed)
        write_json(out / QUANTA, asdict(report))
        return report


@dataclass(frozen=True)
class _Job:
    """A training to record."""

    name: str
    method: TrainedMethod
    recipe: Recipe
    task: TaskData
    general: GeneralData | None
    run_plan: RunPlan


def _jobs(recipe: Recipe, methods: Sequence[str], reference_tokens: int) -> list[_Job]:
    """Check and encode all data before training; the first job is the reference."""
    if not methods:
        raise RecipeError("no method is named; name at least one, e.g. --method tell.")
    plentiful = recipe.changed(task={"max_tokens": reference_tokens, "max_examples": None})
    model, general = load_model_info(recipe.model), load_general(recipe)
    jobs = []
    for name in (_REFERENCE, *methods):
        method = get_method(_REFERENCE_METHOD if name == _REFERENCE else name)
        if not isinstance(method, TrainedMethod):
            raise RecipeError(
                f"method `{name}` has no training to record; use a method such as `sft` or `tell`."
            )
        its_recipe = plentiful if name == _REFERENCE else recipe
        task, mixed = load_task(its_recipe), general if method.uses_general else None
        run_plan = build_run_plan(method, task, mixed, model, method.configured(its_recipe))
        jobs.append(_Job(name, method, its_recipe, task, mixed, run_plan))
    there, used = (job.run_plan.counts.task_tokens for job in jobs[:2])
    if there <= used:
        raise RecipeError(
            f"the reference has {there} task tokens, no more than the methods ({used}); lower "
            "`task.max_tokens` or raise --reference-tokens."
        )
    return jobs


def _records(
    jobs: Sequence[_Job],
    held_out: Sequence[Example],
    out: Path,
    clusters: int,
    moments: int,
    *,
    progress: bool,
) -> list[dict[str, Any]]:
    """Return the record of each training, read from its file if it is already finished."""
    base: LoadedModel | None = None
    records = []
    for job in jobs:
        path = out / f"{job.name}.json"
        if not path.exists():
            if base is None or job.recipe.training.full_parameters:
                # Full-parameter training changes the base, so the next job needs a new one.
                with phase("loading the model", shown=progress):
                    base = load_base_of(job.recipe)
            work = out / _WORK / job.name
            wanted = clusters if job.name == _REFERENCE else 0
            write_json(path, _train(job, base, held_out, work, wanted, moments, progress=progress))
            shutil.rmtree(out / _WORK, ignore_errors=True)
        records.append(_read(path))
    return records


def _train(
    job: _Job,
    base: LoadedModel,
    held_out: Sequence[Example],
    work: Path,
    clusters: int,
    moments: int,
    *,
    progress: bool,
) -> dict[str, Any]:
    """Train and record token losses; also find the quanta if `clusters` is above 0."""
    run_plan = job.run_plan
    tokenizer = anchored_tokenizer(base.tokenizer, run_plan.anchor)
    encoder = Encoder(tokenizer, context=context_length(base.model.config))
    encoded = encoder.encode(held_out)
    recorder = LossRecorder(work / "losses.jsonl", encoded, moments)
    options = TrainingOptions(
        out=work,
        description=f"{job.name}: {job.method.label}",
        progress=progress,
        callbacks=[recorder],
        texts=(job.task.train, job.general),
    )
    model, seconds, _ = train(base, run_plan.recipe, run_plan, options)
    with borrowing(model):
        curves = recorder.curves()
        found = {
            "method": job.name,
            "label": job.method.label,
            "counts": asdict(run_plan.counts),
            "seconds": round(seconds, 1),
            "steps": curves.steps.tolist(),
            "losses": curves.losses.tolist(),
        }
        if clusters:
            found |= _clusters(model, encoded, curves, clusters, job.recipe.seed)
            found["texts"] = [tokenizer.decode([token]) for token in found.pop("ids")]
    gc.collect()
    return found


def _clusters(
    model: Any, encoded: EncodedSet, curves: LossCurves, clusters: int, seed: int
) -> dict[str, Any]:
    """Choose tokens that the reference has learned, and cluster them.

    Raises:
        DataError: The reference learned too few tokens.
    """
    chosen, counts = choose_tokens(curves.losses[0], curves.losses[-1], copied_tokens(encoded))
    if len(chosen) < clusters:
        said = ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in counts.items())
        raise DataError(
            f"the reference learned too few held-out tokens for {clusters} clusters "
            f"({said}); use fewer clusters, or more passes, task tokens or items."
        )
    sketch = GradientSketch(gradient_weights(model), seed=seed)
    labels = cluster_gradients(token_gradients(model, encoded, chosen, sketch), clusters, seed)
    owners, ids = token_owners(encoded)
    found = labels >= 0
    counts["without_gradient"] = int((~found).sum())
    return {
        "counted": counts,
        "tokens": chosen[found].tolist(),
        "labels": labels[found].tolist(),
        "owners": owners[chosen[found]].tolist(),
        "ids": ids[chosen[found]].tolist(),
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path}: cannot be read ({error}); remove it to have it computed again."
        ) from None
    return values
