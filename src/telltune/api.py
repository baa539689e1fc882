"""Verbs up to an adapter as Python functions: check, anchor, plan, show and fit.

The command line parses arguments, calls these and prints.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.checked_run import CheckedRun, check_baseline, check_run, trained_method
from telltune.clock import clock
from telltune.data.given import AnyData, files_of_data, named
from telltune.data.task import load_task
from telltune.errors import DataError, RecipeError, check_count
from telltune.evaluation.answer_warnings import answer_warnings
from telltune.evaluation.data_check import Checked, check_files, check_recipe_data
from telltune.evaluation.score import (
    answer_score,
)
from telltune.fitting.adapter_folder import read_tell
from telltune.fitting.anchor_choice import Ranking, propose_anchors, rank_anchors
from telltune.fitting.learning_warnings import warnings_after
from telltune.fitting.output_folder import check_resumable, lock_folder, record_recipe
from telltune.fitting.protocol import Settings
from telltune.inference.api_client import api_client
from telltune.methods.baselines import Baseline
from telltune.methods.registry import get_method
from telltune.models import load_base, load_base_of
from telltune.planned import Plan, plan_baseline, plan_run
from telltune.preview import shown_examples
from telltune.proposal.recipe_of import as_columns, is_recipe, recipe_of
from telltune.proposal.survey import guessed_columns
from telltune.recipe import AnyRecipe, Columns, DataSpec, ModelSpec, Recipe
from telltune.result_table import InNotebooks, ResultTable
from telltune.training.log import LOG, read_log
from telltune.training.processes import processes
from telltune.training.progress import phase
from telltune.training.speed import remember, training_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import TrainerCallback

    from telltune.data.files import Split
    from telltune.fitting.predictor import Predictor

# Number of examples answered after a fit to check the answers, and the limit on their new tokens.
_ASKED, _ASKED_TOKENS = 16, 1024


@dataclass(frozen=True)
class Fit(InNotebooks):
    """Result of `fit`.

    Attributes:
        folder: Folder of the adapter or baseline.
        record: Contents of its tell.json.
        warnings: Signs that the run did not learn, one sentence each, with the setting that helps.
        guessed: Description of the settings that were guessed from the data; "" for a recipe.
    """

    folder: Path
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()
    guessed: str = ""

    def tables(self) -> list[ResultTable]:
        """Return folder, method, counts and time as one table."""
        counts = self.record["counts"]
        rows = [
            ("folder", str(self.folder)),
            ("method", self.record["method"]),
            ("task", f"{counts['task_examples']:,} examples, {counts['task_tokens']:,} tokens"),
            ("seconds", f"{self.record['seconds']:,.1f}"),
            *([("guessed", self.guessed)] if self.guessed else []),
        ]
        return [ResultTable("Fit", ("", ""), rows, self.warnings)]


def plan(data: AnyRecipe | AnyData, *, measure: bool = True) -> Plan:
    """Return the counts, time and memory of a run without training it.

    The time estimate uses the durations of similar runs on this machine. If there are none, the
    model is loaded once and trained on a few rows; later plans need no model.

    Args:
        data: Recipe, or data to guess settings for; see `fit`.
        measure: Whether to measure the speed if it is unknown. If False, `estimated_seconds` is
            None in that case.

    Returns:
        task_examples, task_tokens, unlabeled_examples, general_examples, general_tokens,
        leverage_ratio, passes, optimizer_steps, trained_tokens, estimated_seconds,
        estimated_memory_gib and more;
        `auto` lists the recipe keys that were `auto` and whose numbers are given here;
        `before_training` lists the steps before training, which none of the numbers includes;
        `warnings` lists warnings about the run, one sentence each.

        For a baseline, which trains nothing, only the counts, `labels` and `warnings`.

    Raises:
        TellError: The run would stop before its first step.

    Examples:
        >>> planned = telltune.plan("recipes/demo.yaml")
        >>> planned["optimizer_steps"] > 0
        True
    """
    recipe, _ = recipe_of(data)
    method = get_method(recipe.method)
    if isinstance(method, Baseline):
        return plan_baseline(check_baseline(recipe, method))
    return plan_run(recipe, check_run(recipe), measure=measure)


def show(data: AnyRecipe | AnyData, n: int = 3, *, split: str = "train") -> list[dict[str, Any]]:
    """Return examples as the model sees them, chat template and anchor included.

    Args:
        data: Recipe, or data to guess settings for; see `fit`.
        n: Maximum number of examples.
        split: `train` returns the first task and general examples of the run's mixture, in order.
            Steps before training (see `plan`) are skipped. `dev` and `test` return the first task
            examples of that split.

    Returns:
        For each example `source`, `origin` (file and line), `text` (decoded model input),
        `input_ids`, and `loss_mask` (1 for each token that carries loss, else 0; same length as
        `input_ids`).

    Raises:
        TellError: The run would stop before its first step.

    Examples:
        >>> [first] = telltune.show("recipes/demo.yaml", 1)
        >>> len(first["input_ids"]) == len(first["loss_mask"])
        True
    """
    check_count("n", n)
    return [one.to_dict() for one in shown_examples(recipe_of(data)[0], n, split=split)]


def fit(
    data: AnyRecipe | AnyData,
    out: str | Path,
    *,
    columns: Columns | Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    on_plan: Callable[[Plan], None] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> Fit:
    """Train an adapter, or fit a baseline.

    Called again on the same folder, an interrupted run resumes from its last checkpoint. Under
    torchrun or `accelerate launch`, every process calls this function on the same shared folder.

    Args:
        data: Recipe: YAML file, dictionary or `Recipe`. Or data to guess settings for: path of a
            file or folder, list of dicts or of conversations, frame (pandas, Polars, Arrow), data
            set of `datasets`, or a dict of these by split. `recipe_for` takes other settings.
        out: Output folder of the adapter or baseline.
        columns: Columns of the data, if they cannot be guessed, such as
            `{"prompt": "text", "completion": "team"}`.
        overwrite: Whether to replace a finished run, or a run of another recipe, in `out`.
        progress: Whether to show a progress bar.
        on_plan: Function called with the result of `plan(recipe, measure=False)` before the model
            is loaded.
        callbacks: Callbacks of transformers for the training loop. A callback may end training.

    Raises:
        TellError: The recipe, data, model or folder cannot be used.

    Examples:
        >>> fitted = telltune.fit("recipes/demo.yaml", "runs/mine", progress=False)
        >>> fitted.record["method"]
        'tell'
    """
    began = clock()
    recipe, guessed = recipe_of(data, columns=columns)
    out = Path(out)
    method = get_method(recipe.method)
    if isinstance(method, Baseline):
        if callbacks:
            raise RecipeError(
                f"method `{method.name}` has no training loop to call back; leave out `callbacks`."
            )
        fitted = _fit_baseline(
            recipe, method, out, overwrite=overwrite, progress=progress, on_plan=on_plan
        )
        return replace(fitted, guessed=guessed)
    trained_method(recipe)
    together = processes()
    shown = progress and together.first
    with together.noticing_loss(), lock_folder(out) if together.first else nullcontext():
        if together.first:
            check_resumable(out, recipe, overwrite=overwrite)
        # The first process encodes and converts; the others read the results from disk.
        with together.first_before_others():
            with phase("reading and encoding the data", shown=shown):
                ready = check_run(recipe)
            if on_plan is not None and together.first:
                on_plan(plan_run(recipe, ready, measure=False))
            with phase("loading the model", shown=shown):
                base = load_base_of(recipe)
            if together.first:
                record_recipe(out, recipe, overwrite=overwrite)
        settings = Settings(
            recipe,
            out,
            shown,
            ready.run_plan,
            score=answer_score(ready.answers.metrics[0], ready.task.dev, base.tokenizer),
            callbacks=callbacks,
        )
        with ready.method.run(ready.task, ready.general, base, settings) as predictor:
            warnings = warnings_after(
                ready.run_plan,
                ready.task.train,
                read_log(out / LOG),
                with_classifier=predictor.classifier is not None,
            )
            if together.count == 1:
                warnings += _ask(predictor, ready)
        record = read_tell(out)
        together.wait()
    if together.count == 1:
        besides = clock() - began - record["seconds"]
        remember(training_shape(ready.shape, recipe), "fit", load_seconds=besides)
    return Fit(out, record, tuple(warnings), guessed)


def _fit_baseline(
    recipe: Recipe,
    method: Baseline,
    out: Path,
    *,
    overwrite: bool,
    progress: bool,
    on_plan: Callable[[Plan], None] | None,
) -> Fit:
    """Fit a baseline. Only `probe` loads the base model; the others need only its tokenizer."""
    if processes().count > 1:
        raise RecipeError(
            f"method `{method.name}` runs in one process only; start it without torchrun or "
            "accelerate."
        )
    with lock_folder(out):
        check_resumable(out, recipe, overwrite=overwrite)
        with phase("reading the data", shown=progress):
            ready = check_baseline(recipe, method)
        if on_plan is not None:
            on_plan(plan_baseline(ready))
        record_recipe(out, recipe, overwrite=overwrite)
        with phase("fitting the baseline", shown=progress):
            method.fit(ready.task, ready.tokenizer, Settings(recipe, out))
        return Fit(out, read_tell(out))


def _ask(predictor: Predictor, ready: CheckedRun) -> list[str]:
    """Answer a few examples, and return warnings about the answers as a whole."""
    count = min(_ASKED, _ASKED_TOKENS // predictor.max_new_tokens)
    examples = (ready.task.dev or ready.task.train)[:count]
    references = [predictor.answer(example.completion) for example in examples]
    predictor = replace(predictor, in_process=True)
    answers = predictor.predict(examples)
    return answer_warnings(predictor, answers, references, ready.answers.labels)


def check(
    data: AnyRecipe | AnyData,
    *,
    columns: Columns | Mapping[str, str] | None = None,
    model: str | None = None,
    max_length: int | None = None,
) -> Checked:
    """Find rows that would be refused and rows that are suspicious.

    Args:
        data: Recipe, to check all data that it names; or data as for `fit`. `train` and a recipe's
            general data are compared with every other split.
        columns: Columns of the data, if they cannot be guessed. A recipe names its own.
        model: Model whose tokenizer counts tokens and finds control tokens. By default the
            recipe's model; for data, none.
        max_length: Longest example in tokens, with the anchor if the recipe's method uses one. By
            default the recipe's; for data, none.

    Returns:
        The number of examples by split and of general data, and the findings. The attribute
        `guessed` says which columns were guessed, or why none could be.

    Raises:
        TellError: The recipe, a file or the model does not exist.

    Examples:
        >>> rows = [{"text": "The parcel is late.", "label": "shipping"}] * 2
        >>> counts, findings = telltune.check(rows)
        >>> counts, findings[0].kind
        ({'train': 2}, 'duplicate')
    """
    check_count("max_length", max_length)
    if is_recipe(data):
        recipe, _ = recipe_of(data, columns=columns)
        return check_recipe_data(
            recipe,
            model=recipe.model if model is None else ModelSpec(name=model),
            max_length=max_length or recipe.training.max_length,
            anchored=get_method(recipe.method).anchored,
        )
    files = files_of_data(data)  # type: ignore[arg-type]
    by_split: dict[Split, list[str]] = files if isinstance(files, dict) else {"train": files}
    specs: dict[Split, list[DataSpec]] = {split: [] for split in by_split}
    guesses: dict[str, list[str]] = {}
    unguessed: list[str] = []
    for split, paths in by_split.items():
        for path in paths:
            used = as_columns(columns)
            if used is None:
                try:
                    used = guessed_columns(path, split)
                except DataError as error:
                    # The findings say which rows are refused, and this says why none was guessed.
                    unguessed.append(str(error))
                if used is not None:
                    guess = f"{used.prompt} → {used.completion}"
                    guesses.setdefault(guess, []).append(named(Path(path)))
            specs[split].append(DataSpec(path=path, columns=used))
    of_model = None if model is None else ModelSpec(name=model)
    found = check_files(specs, model=of_model, max_length=max_length)
    told = [
        f"The columns {guess} of {', '.join(files)} are guessed."
        for guess, files in guesses.items()
    ]
    said = [error for error in unguessed if not any(f.reason in error for f in found.findings)]
    found.guessed = " ".join([*told, *said])
    return found


def anchor(data: AnyRecipe | AnyData, *, candidates: int = 8) -> Ranking:
    """Propose anchors and rank them by loss before training.

    The ranking includes the recipe's own anchor and no anchor. If the recipe has a teacher, it
    proposes the anchors; the base model ranks them.

    Args:
        data: Recipe, or data to guess settings for; see `fit`.
        candidates: Number of anchors to propose.

    Raises:
        DataError: The examples shown to the model leave no task example to rank on.
        ModelError: The teacher cannot be asked.

    Examples:
        >>> ranking = telltune.anchor("recipes/demo.yaml", candidates=2)
        >>> losses = [row.loss for row in ranking.candidates]
        >>> losses == sorted(losses)
        True
    """
    check_count("candidates", candidates)
    recipe, _ = recipe_of(data)
    task = load_task(recipe)
    base = load_base(recipe.model, recipe.training.precision)
    if recipe.teacher is None:
        return rank_anchors(base, task, propose_anchors(base, task, candidates, recipe.seed))
    teacher = api_client(recipe.teacher)
    proposals = propose_anchors(base, task, candidates, recipe.seed, teacher)
    ranking = rank_anchors(base, task, proposals, proposer="teacher")
    return replace(ranking, notes=(teacher.usage.told(recipe.teacher),))
