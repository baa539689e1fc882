"""Compare several methods on one task with the same task tokens."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.data.given import given_recipe
from telltune.data.task import load_task, unlabeled_beside
from telltune.errors import DataError, RecipeError, StorageError, TellError
from telltune.evaluation.metrics import get_metric
from telltune.evaluation.score import PERPLEXITY
from telltune.fitting.build_plan import check_needs
from telltune.fitting.model_info import load_model_info
from telltune.fitting.output_folder import check_resumable, lock_folder, record_recipe
from telltune.methods.baselines import suitable_baselines
from telltune.methods.registry import get_method
from telltune.result_table import InNotebooks, ResultTable, between
from telltune.storage import or_nan, write_json
from telltune.study.cell_data import CellData
from telltune.study.planning import side_by_side
from telltune.study.results import PREDICTIONS, ResultRow, same_data
from telltune.study.scoring import FAILURES
from telltune.study.spec import Cell, ForgettingSpec, cell_of
from telltune.study.statistics.significance import compare_runs
from telltune.study.statistics.summary import scored_answers
from telltune.study.worker import CellWorker
from telltune.training.progress import bar
from telltune.training.trackers import check_trackers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from telltune.evaluation.registry import Scored
    from telltune.recipe import AnyRecipe, Recipe

_FORGETTING = ForgettingSpec(examples=32, prompts=16)
_SUMMARY = "summary.json"


@dataclass(frozen=True)
class ComparisonRow:
    """One method's result.

    Attributes:
        method: Name of the method in recipes.
        score: Score on the test items, in the unit of `metric`.
        low: Lower bound of the confidence interval of the score.
        high: Upper bound of the confidence interval of the score.
        metric: Name of the headline metric.
        task_tokens: Number of distinct task tokens used in training.
        unlabeled_examples: Number of unlabeled inputs used in training.
        general_tokens: Number of general tokens used in training.
        seconds: Training time in seconds.
        items: Number of test items scored.
        warnings: Reasons why the score may be misleading; one sentence each.
        general_loss: Mean loss of held-out general examples without the anchor, in nats per token;
            None if no method mixes general data.
        drift: Loss on the base's own answers to everyday prompts minus that of the base, in nats
            per token; None if it was not measured. See `Drift`.
        leakage: Share of general prompts that get an answer in the task's format; None if it was
            not measured or cannot be determined.
        difference: Score minus that of `sft` on the same items; None for `sft` itself, if `sft` did
            not run, and for perplexity.
        difference_low: Lower bound of the confidence interval of `difference`.
        difference_high: Upper bound of the confidence interval of `difference`.
        p_value: Two-sided p-value of `difference`; see `compare_runs`.
        hashes: Hashes of the data that the method read, and of the base model.
    """

    method: str
    score: float
    low: float
    high: float
    metric: str
    task_tokens: int
    general_tokens: int
    seconds: float
    items: int
    warnings: list[str] = field(default_factory=list)
    general_loss: float | None = None
    drift: float | None = None
    leakage: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    unlabeled_examples: int = 0
    hashes: dict[str, str] = field(default_factory=dict)


class Comparison(list[ComparisonRow], InNotebooks):
    """Result of `compare`: the rows, which notebooks show as tables.

    Attributes:
        confidence: Confidence level of the intervals.
    """

    def __init__(self, rows: Iterable[ComparisonRow], confidence: float) -> None:
        super().__init__(rows)
        self.confidence = confidence

    def tables(self) -> list[ResultTable]:
        """Return scores and differences from SFT, then forgetting and cost.

        Each of the two tables fits a terminal of 80 columns.
        """
        if not self:
            return []
        scores, beside = [], []
        unlabeled = ["unlabeled"] if any(row.unlabeled_examples for row in self) else []
        for row in self:
            against = ""
            if row.difference is not None:
                interval = between(row.difference_low, row.difference_high, "+")
                against = f"{row.difference:+.1f} ({interval})"
            scores.append((row.method, f"{row.score:.1f}", between(row.low, row.high), against))
            beside.append(
                (
                    row.method,
                    "" if row.drift is None else f"{row.drift:.2f}",
                    "" if row.leakage is None else f"{row.leakage:.0%}",
                    f"{row.task_tokens:,}",
                    *([f"{row.unlabeled_examples:,}"] if unlabeled else []),
                    f"{row.general_tokens:,}",
                    f"{row.seconds:,.0f}",
                )
            )
        title = f"{self[0].items} test items, {self[0].metric}"
        interval = f"{self.confidence:.0%} interval"
        counts = ("task tokens", *unlabeled, "general tokens", "seconds")
        heads = ("method", "drift", "leakage", *counts)
        warnings = [f"{row.method}: {warning}" for row in self for warning in row.warnings]
        return [
            ResultTable(title, ("method", "score", interval, "against sft"), scores).told(),
            ResultTable("Forgetting and cost", heads, beside, warnings).told(),
        ]


class FailedMethodsError(TellError):
    """Raised at the end of a comparison if methods failed.

    Attributes:
        rows: Rows of the other methods, which are also in summary.json.
    """

    def __init__(self, message: str, rows: Comparison) -> None:
        super().__init__(message)
        self.rows = rows


def default_methods(recipe: Recipe) -> list[str]:
    """Return the methods that a comparison runs by default.

    These are the base, the baselines that suit the task's answers and run on this machine, SFT
    without and with the anchor, and TELL. If the answers are labels, TELL combined with a
    classifier is added. If there are unlabeled inputs, TELL with pseudo-labels is added. What needs
    an anchor or general data that the recipe lacks is left out and logged; SFT then takes the place
    of TELL in the last two.

    Raises:
        DataError: The task data cannot be loaded; see `load_task`.
    """
    task = load_task(recipe)
    quick = suitable_baselines(task, recipe.evaluation.metrics or ())
    trained = []
    for name in ("sft", "sft_anchor", "tell"):
        try:
            check_needs(
                get_method(name),
                anchored=task.anchor is not None,
                general=recipe.general is not None,
            )
        except RecipeError as error:
            logging.getLogger(__name__).warning("Left out: %s", error)
        else:
            trained.append(name)
    best = "tell" if "tell" in trained else "sft"
    levers = [f"{best}_pseudo_label"] if unlabeled_beside(task, task.train) else []
    if "tfidf_linear" in quick:  # the answers are labels
        levers.insert(0, f"{best}_product")
    return ["base", *quick, *trained, *levers]


def compare(
    recipe: AnyRecipe,
    methods: Sequence[str] | None = None,
    *,
    out: str | Path,
    overwrite: bool = False,
    progress: bool = True,
) -> Comparison:
    """Run each method and score it on the task's test items, as a study of one size and seed.

    All methods are checked before the first one runs. Adapters and baselines are saved to
    `out/METHOD`, scored answers to `out/predictions/METHOD.jsonl`, and rows to `out/summary.json`.
    A repeated call with the same folder and recipe runs only the methods that have no row yet, and
    those whose data or base changed since.

    Args:
        recipe: Recipe file, dictionary or `Recipe`.
        methods: Names of methods. Defaults to `default_methods`.
        out: Folder of the comparison.
        overwrite: Start over if the folder holds a comparison with another recipe.
        progress: Whether to show progress bars.

    Returns:
        The rows of all methods in the folder, also of earlier calls.

    Raises:
        RecipeError: A method or metric is unknown, or test data or the anchor is missing.
        DataError: The data cannot be used.
        FailedMethodsError: Methods failed while they ran. The others have been run, and a repeated
            call tries the failed ones again.

    Examples:
        >>> rows = telltune.compare(
        ...     "recipes/demo.yaml", ["base"], out="runs/compared", progress=False
        ... )
        >>> [row.method for row in rows]
        ['base']
    """
    recipe, out = given_recipe(recipe), Path(out)
    names = default_methods(recipe) if methods is None else methods
    cells = [cell_of(recipe.model_copy(update={"method": name})) for name in dict.fromkeys(names)]
    if not cells:
        raise RecipeError("no method is named; name at least one, e.g. --method sft,tell.")
    with lock_folder(out):
        check_resumable(out, recipe, overwrite=overwrite)
        check_trackers(recipe.training.report_to)
        data = _checked(cells)
        worker = CellWorker(data, out, keeps=True, progress=progress)
        record_recipe(out, recipe, overwrite=overwrite)
        read = _read_rows(out)
        rows = [row for row in read if _is_current(row, recipe, data)]
        done = {row.method for row in rows}
        changed = {row.method for row in read} - done
        if changed:
            logging.getLogger(__name__).warning(
                "Data or a model changed since %s ran, so earlier rows are left out.",
                ", ".join(sorted(changed)),
            )
        left = side_by_side({cell.method: cell for cell in cells if cell.method not in done})
        if left:
            worker.base(recipe)  # without it, every method would fail
        failed = []
        for name, cell in left.items():
            if name in changed:
                shutil.rmtree(out / name, ignore_errors=True)
            found = worker.run(cell, name)
            if found.status == "failed":
                failed.append(f"{found.method} failed: {found.reason.rstrip('.')}")
                continue
            rows.append(_row(found))
            _write_rows(out, rows)
            with bar(shown=progress) as shown:  # the first score should not wait for the last
                spent = sum(found.seconds.values())
                shown.say(f"{name}: {found.metric} {found.score:.1f}, {spent:,.0f} s")
        confidence = recipe.evaluation.confidence
        rows = Comparison(_against_sft(rows, out, confidence), confidence)
        _write_rows(out, rows)
    if failed:
        raise FailedMethodsError(
            f"{'; '.join(failed)}; see {out / FAILURES}, and run the comparison again to retry.",
            rows,
        )
    return rows


def _checked(cells: Sequence[Cell]) -> CellData:
    """Return the data of the cells, all of which can run.

    Raises:
        TellError: A cell cannot run.
    """
    recipe = cells[0].recipe
    mixing = next((cell.recipe for cell in cells if get_method(cell.method).uses_general), None)
    data = CellData(_FORGETTING, "test", mixing)
    model = load_model_info(recipe.model)
    used = 0
    for cell in cells:
        if (run_plan := data.run_plan(cell, model)) is not None:
            used = max(used, run_plan.max_general_index)
    try:
        data.held_out(recipe.seed, used)
    except DataError as error:
        logging.getLogger(__name__).warning("Forgetting is not measured: %s", error)
        data.mixing = None
    return data


def _row(found: ResultRow) -> ComparisonRow:
    scores, told = found.scores[found.metric], found.forgetting
    loss, drift, leakage = (
        told.get(f"{name}_after") for name in ("general_nll", "drift", "leakage")
    )
    return ComparisonRow(
        found.method,
        round(scores["score"], 3),
        round(scores["low"], 3),
        round(scores["high"], 3),
        found.metric,
        found.counts["task_tokens"],
        found.counts["general_tokens"],
        round(found.seconds["training"], 1),
        len(found.per_item[found.metric]),
        found.warnings,
        None if loss is None else round(loss, 3),
        None if drift is None else round(drift, 3),
        None if leakage is None else round(leakage, 3),
        unlabeled_examples=found.counts["unlabeled_examples"],
        hashes=found.hashes,
    )


def _is_current(row: ComparisonRow, recipe: Recipe, data: CellData) -> bool:
    """Return whether data and base of a row are as they were, if its version recorded them."""
    if not row.hashes:
        return True
    cell = cell_of(recipe.model_copy(update={"method": row.method}))
    return same_data(row.hashes, data.all_hashes(cell))


def _read_rows(out: Path) -> list[ComparisonRow]:
    """Return the rows in the folder of a comparison, possibly of an earlier version.

    Raises:
        StorageError: The file contains something else.
    """
    path = out / _SUMMARY
    if not path.exists():
        return []
    try:
        rows = [ComparisonRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
        return [replace(row, low=or_nan(row.low), high=or_nan(row.high)) for row in rows]
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"{path}: not the rows of a comparison ({error}); choose another --out, or pass "
            "--overwrite."
        ) from None


def _write_rows(out: Path, rows: list[ComparisonRow]) -> None:
    write_json(out / _SUMMARY, [asdict(row) for row in rows])


def _against_sft(rows: list[ComparisonRow], out: Path, confidence: float) -> list[ComparisonRow]:
    """Return the rows with paired differences to `sft`, computed from the saved answers."""

    def run(row: ComparisonRow) -> list[Scored]:
        return [scored_answers(out / PREDICTIONS, row.method, row.metric)]

    plain = next((row for row in rows if row.method == "sft"), None)
    if plain is None or plain.metric == PERPLEXITY:
        return rows
    binary, sft = get_metric(plain.metric).binary, run(plain)
    told = []
    for row in rows:
        if row is plain:
            told.append(row)
            continue
        found = compare_runs(run(row), sft, binary=binary, confidence=confidence)
        told.append(
            replace(
                row,
                difference=round(found.difference, 3),
                difference_low=round(found.low, 3),
                difference_high=round(found.high, 3),
                p_value=round(found.p_value, 4),
            )
        )
    return told
