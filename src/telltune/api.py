"""The verbs as Python functions; the command line only parses, calls these and prints."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.data.anchor import anchored_tokenizer
from telltune.data.checks import check_examples, finding_of
from telltune.data.encoding import Encoder, control_tokens
from telltune.data.examples import Example, Problem
from telltune.data.reading import scan
from telltune.data.task import load_general, load_split, load_task
from telltune.errors import RecipeError
from telltune.evaluation.recipe_check import check_recipe
from telltune.evaluation.score import check_metrics, evaluate_predictor, write_predictions
from telltune.methods.adapter_folder import load_predictor, read_tell
from telltune.methods.anchor_choice import propose_anchors, rank_anchors
from telltune.methods.beforehand import beforehand
from telltune.methods.forecast import forecast
from telltune.methods.known_model import known_model
from telltune.methods.output_folder import alone, claim, record_recipe
from telltune.methods.preparation import prepare
from telltune.methods.protocol import Settings, behind
from telltune.methods.registry import get_method
from telltune.methods.trained import Trained
from telltune.models import compute_dtype, load_base, load_tokenizer
from telltune.recipe import AnyRecipe, DataSpec, ModelSpec, as_recipe
from telltune.storage import write_text
from telltune.training.processes import processes
from telltune.training.progress import bar
from telltune.training.speed import remember, training_shape
from telltune.training.steps import Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.data.checks import Finding
    from telltune.data.general import GeneralData
    from telltune.data.task import TaskData
    from telltune.evaluation.score import Evaluation
    from telltune.methods.anchor_choice import Candidate
    from telltune.methods.preparation import Prepared
    from telltune.methods.verify import Verification
    from telltune.models import ModelShape
    from telltune.recipe import Recipe
    from telltune.study.recommend import Recommendation
    from telltune.study.results import Row
    from telltune.study.summary import Summary

__all__ = [
    "anchor",
    "check",
    "evaluate",
    "fit",
    "plan",
    "plan_study",
    "predict",
    "predict_examples",
    "recommend",
    "report",
    "run_study",
    "show",
    "verify",
]


@dataclass(frozen=True)
class Fit:
    """What `fit` leaves: the folder, and what its tell.json says."""

    folder: Path
    record: dict[str, Any]


def plan(recipe: AnyRecipe, *, measure: bool = True) -> dict[str, Any]:
    """What a run would do, without training.

    Its time is told from what such runs took on this machine. Before the first of them the model
    is loaded and trained on a few rows, once; every later plan answers without it.

    Args:
        recipe: A file, a dictionary or a `Recipe`.
        measure: False leaves `estimated_seconds` None where nothing is known.

    Returns:
        task_examples, task_tokens, general_examples, general_tokens, leverage_ratio, passes,
        optimizer_steps, trained_tokens, estimated_seconds, estimated_memory_gib and more;
        `before_training` names what else the run does first, which none of the numbers counts;
        `warnings` says in sentences what the user should know before the run.

    Raises:
        TellError: Whatever would stop the run before its first step.
    """
    recipe = as_recipe(recipe)
    return _plan(recipe, _ready(recipe), measure=measure)


@dataclass(frozen=True)
class Shown:
    """An example as the model sees it.

    Attributes:
        source: The name of its data set.
        origin: Where it stands, such as "tickets.jsonl:17".
        prompt: The text of the tokens that carry no loss.
        response: The text of those that do.
        input_ids: All of its tokens.
        loss_mask: 1 for each token that carries loss, else 0; as many as `input_ids`.
    """

    source: str
    origin: str
    prompt: str
    response: str
    input_ids: list[int]
    loss_mask: list[int]

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with prompt and response in one text."""
        return {
            "source": self.source,
            "origin": self.origin,
            "text": self.prompt + self.response,
            "input_ids": self.input_ids,
            "loss_mask": self.loss_mask,
        }


def show(recipe: AnyRecipe, n: int = 3, *, split: str = "train") -> list[dict[str, Any]]:
    """Return examples as the model sees them, chat template and anchor included.

    Args:
        recipe: A file, a dictionary or a `Recipe`.
        n: Number of examples; fewer come back where there are fewer.
        split: `train` gives the first of the run's mixture in its order, task and general examples
            alike. What a method makes or chooses before it trains (see `plan`) is not done. `dev`
            and `test` give the first task examples of that split.

    Returns:
        For each example `source` and `origin` (where it stands), `text` (what the model sees,
        decoded), `input_ids`, and `loss_mask` (1 for each token that carries loss, else 0; as many
        as `input_ids`).

    Raises:
        TellError: Whatever would stop the run before its first step.
    """
    return [one.to_dict() for one in show_examples(recipe, n, split=split)]


def show_examples(recipe: AnyRecipe, n: int = 3, *, split: str = "train") -> list[Shown]:
    """As `show`, with the text apart by what carries loss."""
    recipe = as_recipe(recipe)
    tokenizer = known_model(recipe.model).tokenizer.load()
    if split == "train":
        return [_shown(tokenizer, *row) for row in _first_trained(recipe, n)]
    if split not in ("dev", "test"):
        raise RecipeError(f"--split {split}: give `train`, `dev` or `test`.")
    method, task = get_method(recipe.method), load_task(recipe)
    anchored = anchored_tokenizer(tokenizer, task.anchor if method.anchored else None)
    examples = load_split(recipe, "dev" if split == "dev" else "test")[:n]
    encoded = Encoder(anchored).encode([behind(task.shots, example) for example in examples])
    return [_shown(anchored, example, *encoded[i]) for i, example in enumerate(examples)]


def _first_trained(recipe: Recipe, n: int) -> list[tuple[Example, Any, int]]:
    """The first examples of a run's mixture, with ids and the length of the prompt."""
    ready = _ready(recipe)
    prepared, mixture = ready.prepared, ready.prepared.mixture
    places = mixture.slots(0, 0, min(n, len(mixture))).pairs
    wanted = {index for is_task, index in places if not is_task}
    # General data are read in order, and no further than needed.
    stream = islice(ready.general or (), max(wanted, default=-1) + 1)
    general = {i: example for i, example in enumerate(stream) if i in wanted}
    sources = Sources(prepared.task, prepared.general)
    return [
        (ready.task.train[index] if is_task else general[index], *sources[is_task, index][2:])
        for is_task, index in places
    ]


def _shown(tokenizer: Any, example: Example, ids: Any, prompt_length: int) -> Shown:
    parts = [ids.tolist(), ids[:prompt_length].tolist(), ids[prompt_length:].tolist()]
    text, prompt, response = tokenizer.batch_decode(parts, clean_up_tokenization_spaces=False)
    if text.startswith(prompt):
        # Decoded alone, a response may lose the space that it begins with.
        response = text[len(prompt) :]
    mask = [int(i >= prompt_length) for i in range(len(ids))]
    return Shown(example.source, example.origin, prompt, response, parts[0], mask)


def fit(
    recipe: AnyRecipe,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
    on_plan: Callable[[dict[str, Any]], None] | None = None,
) -> Fit:
    """Train an adapter.

    A run that was cut short goes on from its last checkpoint when called again on the same folder.
    The processes of torchrun or `accelerate launch` all call this, on a folder that all can reach.

    Args:
        recipe: A file, a dictionary or a `Recipe`.
        out: The adapter folder.
        overwrite: Train again where a finished run, or one with another recipe, already is.
        progress: Show a bar.
        on_plan: Gets what `plan(recipe, measure=False)` says, before the model is loaded.

    Raises:
        TellError: One sentence that says what, where, and what to do.
    """
    began = time.perf_counter()
    recipe, out = as_recipe(recipe), Path(out)
    _trained_method(recipe)
    together = processes()
    with together.noticing_loss(), alone(out) if together.first else nullcontext():
        if together.first:
            claim(out, recipe, overwrite=overwrite)
        # What the first encodes and converts the others find on disk.
        with together.first_before_others():
            ready = _ready(recipe)
            if on_plan is not None and together.first:
                on_plan(_plan(recipe, ready, measure=False))
            base = load_base(
                recipe.model, recipe.training.precision, trainable=recipe.training.full_parameters
            )
            if together.first:
                record_recipe(out, recipe, overwrite=overwrite)
        settings = Settings(recipe, out, progress and together.first, ready.prepared)
        ready.method.run(ready.task, ready.general, base, settings).release()
        record = read_tell(out)
        together.wait()
    if together.count == 1:
        besides = time.perf_counter() - began - record["seconds"]
        remember(training_shape(ready.shape, recipe), "fit", load_seconds=besides)
    return Fit(out, record)


@dataclass(frozen=True)
class _Ready:
    """All that a run needs besides the model's weights, and the seconds that getting it took.

    `warnings` are full sentences for the user, known before training.
    """

    method: Trained
    task: TaskData
    general: GeneralData | None
    shape: ModelShape
    prepared: Prepared
    seconds: float
    warnings: tuple[str, ...] = ()


def _ready(recipe: Recipe) -> _Ready:
    """Load, check and encode what a run will train on.

    Raises:
        TellError: Whatever would stop the run before its first step.
    """
    began = time.perf_counter()
    check_recipe(recipe)
    method = _trained_method(recipe)
    task = load_task(recipe)
    check_metrics(task.metrics)
    general = load_general(recipe) if method.mixes else None
    model = known_model(recipe.model)
    prepared = prepare(method, task, general, model, recipe)
    seconds = time.perf_counter() - began
    return _Ready(method, task, general, model.shape, prepared, seconds, prepared.warnings)


def _trained_method(recipe: Recipe) -> Trained:
    method = get_method(recipe.method)
    if not isinstance(method, Trained):
        raise RecipeError(
            f"method `{method.name}` trains nothing, so there is nothing to plan or fit; "
            "`tell compare` can score it."
        )
    return method


def _plan(recipe: Recipe, ready: _Ready, *, measure: bool) -> dict[str, Any]:
    expected = forecast(
        ready.prepared, ready.shape, recipe, measure=measure, ready_seconds=ready.seconds
    )
    bf16 = compute_dtype(recipe.training.precision).itemsize == 2
    return {
        "method": ready.method.name,
        "task": ready.task.name,
        **ready.prepared.counts.to_dict(),
        "computed_tokens": expected.computed_tokens,
        "precision": "bf16" if bf16 else "fp32",
        "estimated_seconds": None if expected.seconds is None else round(expected.seconds, 1),
        "estimated_memory_gib": round(expected.memory_gib, 2),
        "before_training": beforehand(ready.method, recipe),
        "warnings": list(ready.warnings),
    }


def evaluate(
    adapter: str | Path,
    recipe: AnyRecipe | None = None,
    *,
    split: str = "test",
    metrics: Sequence[str] = (),
    max_items: int | None = None,
    predictions: Path | None = None,
    trust_model: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Score an adapter folder on held-out items.

    Args:
        adapter: From `fit`.
        recipe: Whose task to score on; the adapter's own if not given.
        split: `test` or `dev`.
        metrics: Names, the headline first.
        max_items: Score the first so many only.
        predictions: Write prompts, references, answers and scores to this JSONL file.
        trust_model: Let the base's own code run and pickles be read, if tell.json asks for it.
        progress: Show a bar.
    """
    folder = Path(adapter)
    record = read_tell(folder)
    if split not in ("test", "dev"):
        raise RecipeError(f"--split {split}: give `test` or `dev`.")
    recipe = as_recipe(recipe if recipe is not None else record["recipe"])
    metrics = tuple(metrics) or load_task(recipe).metrics
    check_metrics(metrics)
    items = load_split(recipe, "test" if split == "test" else "dev")
    items = items[: max_items or recipe.evaluation.max_items]
    predictor = load_predictor(
        folder,
        precision=recipe.training.precision,
        evaluation=recipe.evaluation,
        trust_model=trust_model,
    )
    with bar(shown=progress) as shown:
        counter = shown.add_task(f"{folder.name}: {split}", total=len(items), note="")
        evaluation = evaluate_predictor(
            predictor,
            items,
            metrics,
            confidence=recipe.evaluation.confidence,
            seed=recipe.seed,
            on_done=lambda n: shown.advance(counter, n),
        )
    if predictions is not None:
        write_predictions(predictions, items, evaluation)
    return evaluation


def predict(
    adapter: str | Path,
    prompts: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    trust_model: bool = False,
) -> list[str]:
    """Answer prompts with an adapter folder, greedily; `trust_model` as in `evaluate`."""
    return predict_examples(
        adapter,
        [Example(prompt, "") for prompt in prompts],
        max_new_tokens=max_new_tokens,
        trust_model=trust_model,
    )


def predict_examples(
    adapter: str | Path,
    examples: Sequence[Example],
    *,
    max_new_tokens: int | None = None,
    trust_model: bool = False,
    progress: bool = False,
) -> list[str]:
    """As `predict`, for prompts with turns before them."""
    predictor = load_predictor(Path(adapter), trust_model=trust_model)
    if max_new_tokens is not None:
        predictor.max_new_tokens = max_new_tokens
    if predictor.anchor is not None:
        examples = [predictor.anchor.detach(example) for example in examples]
    with bar(shown=progress) as shown:
        counter = shown.add_task("predict", total=len(examples), note="")
        return predictor.predict(examples, on_done=lambda n: shown.advance(counter, n))


def verify(adapter: str | Path) -> Verification:
    """Look at all that an adapter folder's tell.json claims; see `methods.verify`.

    Args:
        adapter: From `fit`.
    """
    from telltune.methods.verify import verify as verified

    return verified(Path(adapter))


def check(
    files: dict[str, list[str]], *, model: str | None = None, max_length: int | None = None
) -> tuple[dict[str, int], list[Finding]]:
    """Look through data for what would be refused, and for what should be looked at.

    Args:
        files: Paths by split; `train` is held against every other split.
        model: Whose tokenizer to count tokens and know control tokens with; None for neither.
        max_length: Longest example in tokens.

    Returns:
        Examples by split, and the findings.
    """
    findings: list[Finding] = []
    groups: dict[str, list[Example]] = {}
    for split, paths in files.items():
        groups[split] = []
        for path in paths:
            for item in scan(DataSpec(path=path)):
                if isinstance(item, Problem):
                    findings.append(finding_of(item))
                else:
                    groups[split].append(item)
    count_tokens, controls = None, []
    if model is not None:
        tokenizer = load_tokenizer(ModelSpec(name=model))
        encoder, controls = Encoder(tokenizer), control_tokens(tokenizer)
        count_tokens = _counter(encoder, [e for group in groups.values() for e in group])
    findings += check_examples(
        groups, control_tokens=controls, count_tokens=count_tokens, max_length=max_length
    )
    return {split: len(group) for split, group in groups.items()}, findings


def _counter(encoder: Encoder, examples: list[Example]) -> Any:
    """Tokens of an example, all counted in one batch, which is many times quicker."""
    lengths = encoder.encode(examples).lengths
    by_identity = {id(e): int(n) for e, n in zip(examples, lengths, strict=True)}
    return lambda example: by_identity[id(example)]


def anchor(recipe: AnyRecipe, *, candidates: int = 8) -> list[Candidate]:
    """Propose anchors and rank them, with the recipe's own and none, by loss before training."""
    recipe = as_recipe(recipe)
    task = load_task(recipe)
    base = load_base(recipe.model, recipe.training.precision)
    return rank_anchors(base, task, propose_anchors(base, task, candidates, recipe.seed))


def run_study(
    study: str | Path,
    out: str | Path,
    *,
    progress: bool = True,
    ray: str | None = None,
    cpus: float = 1.0,
    gpus: float | None = None,
) -> tuple[Summary, list[Row]]:
    """Run methods x sizes x seeds on tasks: every cell that has no finished row in `out` yet.

    Args:
        study: A YAML file; see `StudySpec`.
        out: Where results.jsonl, answers, summary.json and report.html go, and study.yaml with
            all that the study says.
        progress: Show a bar.
        ray: Run the cells on this Ray cluster: `auto` or HOST:PORT; here if None.
        cpus: For each cell there.
        gpus: For each cell there; one if not given, where the cluster has any.

    Returns:
        What all rows in the folder say, and the rows of this study.

    Raises:
        TellError: A study that cannot be run, or not one cell of it could.
    """
    from telltune.study.cluster import connect
    from telltune.study.report import write_report
    from telltune.study.runner import run_cells
    from telltune.study.spec import STUDY_FILE, load_study

    out = Path(out)
    spec, cells = load_study(study)
    cluster = None if ray is None else connect(ray, cpus=cpus, gpus=gpus)
    write_text(out / STUDY_FILE, spec.to_yaml())
    rows = run_cells(cells, spec.forgetting, out, progress=progress, cluster=cluster)
    return write_report(out), rows


def report(out: str | Path) -> Path:
    """Write a study's report anew, of the cells that are finished.

    Args:
        out: The study's folder, running or not.

    Returns:
        The page, one HTML file that needs no network; summary.json stands beside it.

    Raises:
        StorageError: There are no finished cells.
    """
    from telltune.study.report import REPORT, write_report

    write_report(Path(out))
    return Path(out) / REPORT


def recommend(
    recipe: AnyRecipe, out: str | Path, *, minutes: float = 60.0, progress: bool = True
) -> Recommendation:
    """Search on dev items for the method and settings that suit a task; see `study.recommend`.

    Args:
        recipe: The task, the model, and the settings to begin with.
        out: Where what was tried goes, and `recipe.yaml`, the recipe to use.
        minutes: To spend.
        progress: Show a bar.
    """
    from telltune.study.recommend import recommend as recommended

    return recommended(recipe, Path(out), minutes=minutes, progress=progress)


def plan_study(
    study: str | Path, out: str | Path | None = None, *, measure: bool = True
) -> dict[str, Any]:
    """What a study will take, without running any of it.

    Args:
        study: A YAML file.
        out: Its folder, whose finished cells are left out and tell how long answering takes.
        measure: False leaves times None where this machine has not trained such a model yet.

    Returns:
        cells, finished, trained_tokens, training_seconds, answering_seconds (None where no cell
        has been run yet) and problems: of cells that cannot run, title and reason.
    """
    from telltune.study.planning import plan_cells
    from telltune.study.spec import asks_aside, load_study

    spec, cells = load_study(study)
    planned = plan_cells(
        cells,
        None if out is None else Path(out),
        measure=measure,
        aside=asks_aside(cells, spec.forgetting),
    )
    training = [one.training_seconds for one in planned]
    answering = [one.answering_seconds for one in planned]
    return {
        "cells": len(cells),
        "finished": len(cells) - len(planned),
        "trained_tokens": sum(one.trained_tokens for one in planned),
        "training_seconds": _sum(training),
        "answering_seconds": _sum(answering),
        "problems": [
            {"cell": one.cell.title, "reason": one.problem} for one in planned if one.problem
        ],
    }


def _sum(values: list[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [value for value in values if value is not None]
    return round(sum(known), 1) if len(known) == len(values) else None
