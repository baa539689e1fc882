"""Worker that runs the cells of a study on one loaded base: train, answer, measure and score."""

from __future__ import annotations

import gc
import logging
import shutil
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.clock import clock
from telltune.data.fingerprint import code_hash
from telltune.evaluation.drift import OwnAnswers, measure_drift
from telltune.evaluation.forgetting import measure_forgetting, task_format
from telltune.evaluation.score import (
    Answers,
    answer_items,
    answer_score,
)
from telltune.fitting.adapter_folder import versions
from telltune.fitting.model_card import record_scores
from telltune.fitting.model_info import ModelInfo
from telltune.fitting.protocol import Settings
from telltune.methods.registry import get_method
from telltune.models import LoadedModel, load_base_of
from telltune.study.results import PREDICTIONS, ResultRow
from telltune.study.scoring import Answered, failed_row, score_cell
from telltune.study.trained_cell import TrainedCell
from telltune.training.log import LOG, loss_curve
from telltune.training.progress import bar, phase
from telltune.training.shared import SharedTraining
from telltune.training.trackers import TrackedRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.data.files import Split
    from telltune.fitting.predictor import Predictor
    from telltune.recipe import Recipe
    from telltune.study.cell_data import CellData
    from telltune.study.spec import Cell

CODE = code_hash(Path(__file__).parents[1])[:12]
_WORK = "work"


@dataclass
class CellWorker:
    """Runner of cells that share the base, their data, and the base's forgetting measurements."""

    data: CellData
    out: Path
    keeps: bool = False
    """Whether to keep adapters and baselines in `out/KEY`, with their scores."""
    progress: bool = False
    """Whether to show the progress of each cell."""
    study: Path | None = None
    """Folder of the study for trackers; `out` by default."""
    _loaded: tuple[Any, LoadedModel] | None = None
    _shared: SharedTraining = field(default_factory=SharedTraining)
    _measurements: dict[tuple[str | None, str, int, str], dict[str, float]] = field(
        default_factory=dict
    )
    _own: dict[str, OwnAnswers] = field(default_factory=dict)

    @staticmethod
    def blank(cell: Cell, key: str, split: Split) -> ResultRow:
        """Return the row of a cell without results."""
        return ResultRow(
            key=key,
            status="failed",
            task=cell.task,
            method=cell.method,
            name=cell.name,
            size=cell.size,
            leverage_ratio=cell.leverage_ratio,
            seed=cell.seed,
            split=split,
            recipe=cell.recipe.model_dump(mode="json"),
            versions=versions() | {"code": CODE},
        )

    def run(self, cell: Cell, key: str) -> ResultRow:
        """Train, answer, measure forgetting and score; a failure also returns a row."""
        found = self.answer(cell, key)
        if not isinstance(found, Answered):
            return found
        if not self.keeps:
            return score_cell(found, self.out)
        row = score_cell(found, self.out, PREDICTIONS)
        if row.status == "done" and (self.out / key).is_dir():
            record_scores(
                self.out / key,
                {
                    "task": self.data.task(cell.recipe).task.name,
                    "split": row.split,
                    "sha256": row.hashes[row.split],
                    "items": len(found.items),
                    "of": self.data.task(cell.recipe).of,
                    "confidence": found.confidence,
                    "scores": row.scores,
                    "warnings": row.warnings,
                },
            )
        return row

    def train(self, cell: Cell, key: str) -> TrainedCell | ResultRow:
        """Train a cell that another process is to answer; see `can_be_split`.

        Returns:
            The trained cell for `answer`, or the row of a failed cell.
        """
        began = clock()
        try:
            task, base = self.data.task(cell.recipe).task, self.base(cell.recipe)
            settings = self._settings(cell, key, save=True)
            used = settings.run_plan.max_general_index if settings.run_plan else 0
            self.data.held_out(cell.seed, used)  # fails if there are too few general examples
            method, folder = get_method(cell.method), self._folder(key)
            with method.run(task, self.data.general(cell.recipe), base, settings) as predictor:
                cost = predictor.cost
            curve, files = loss_curve(folder / LOG), TrainedCell.files_in(folder)
            shutil.rmtree(folder, ignore_errors=True)
        except Exception as error:
            return self._failed(cell, key, error, began)
        finally:
            gc.collect()
        return TrainedCell(files, cost, curve, used, clock() - began)

    def answer(
        self, cell: Cell, key: str, trained: TrainedCell | None = None
    ) -> Answered | ResultRow:
        """Run all parts of a cell that need the model: train, answer and measure forgetting.

        Args:
            cell: The cell.
            key: Its key.
            trained: Result of `train`, which stands for the training.

        Returns:
            The answered cell for `score_cell`, or the row of a failed cell.
        """
        began = clock() - (trained.seconds if trained else 0.0)
        row = self.blank(cell, key, self.data.split)
        try:
            answers, items, found = self._run(cell, key, trained)
        except Exception as error:
            return self._failed(cell, key, error, began)
        finally:
            gc.collect()
        seconds = found.pop("seconds")
        seconds["other"] = clock() - began - sum(seconds.values())
        row = replace(row, status="done", seconds=seconds, **found)
        return Answered(row, answers, items, cell.recipe.evaluation.confidence)

    def _failed(self, cell: Cell, key: str, error: Exception, began: float) -> ResultRow:
        # A failed cell may leave hooks or adapters on the base, so the next cell reloads it.
        self._loaded = None
        row = self.blank(cell, key, self.data.split)
        return failed_row(row, error, began, self.out, cell.title)

    def _folder(self, key: str) -> Path:
        return self.out / (key if self.keeps else f"{_WORK}/{key}")

    def _settings(self, cell: Cell, key: str, *, save: bool) -> Settings:
        """Return the settings for the method of a cell, with the run plan if it trains."""
        recipe, base = cell.recipe, self.base(cell.recipe)
        task, _, of_task, *_ = self.data.task(recipe)
        run_plan = None
        if get_method(cell.method).trains:
            known = ModelInfo.of(base.model.config, base.tokenizer)
            run_plan = self.data.run_plan(cell, known)
        return Settings(
            recipe,
            self._folder(key),
            self.progress,
            run_plan,
            save=save,
            score=answer_score(of_task.metrics[0], task.dev, base.tokenizer),
            tracked=TrackedRun.of_cell(self.study or self.out, key if self.keeps else cell.title),
        )

    def _run(
        self, cell: Cell, key: str, trained: TrainedCell | None
    ) -> tuple[Answers, list[Example], dict[str, Any]]:
        recipe, method = cell.recipe, get_method(cell.method)
        task, items, of_task, *_ = self.data.task(recipe)
        general = self.data.general(recipe)
        base = self.base(recipe)
        folder = self._folder(key)
        if trained is not None:
            start = partial(trained.predictor, base, folder)
            used = trained.general_used
        else:
            settings = replace(self._settings(cell, key, save=self.keeps), shared=self._shared)
            start = partial(method.run, task, general, base, settings)
            used = settings.run_plan.max_general_index if settings.run_plan else 0
        # This runs before training, because it fails if there are too few general examples.
        held_out = self.data.held_out(cell.seed, used)
        began = clock()
        before: dict[str, float] = {}
        if held_out:
            plain = get_method("base").run(task, None, base, Settings(recipe))
            if self.data.forgetting.prompts and base.revision not in self._own:
                own = OwnAnswers.of(plain, base.tokenizer, self.data.forgetting.prompts)
                self._own[base.revision] = own
            if not self.keeps:  # a comparison may have the base as a method of its own
                before = self._measured(cell, plain, base, held_out, base.revision)
        asking = clock() - began
        runs = self._shared.runs
        with start() as predictor:
            with bar(shown=self.progress) as shown:
                counter = shown.add_task(f"{method.label}: {self.data.split}", total=len(items))
                answers = answer_items(
                    predictor, items, answers=of_task, on_done=partial(shown.advance, counter)
                )
            if predictor.teacher is not None and predictor.asked is not None:
                told = predictor.asked.told(predictor.teacher.spec)
                logging.getLogger(__name__).warning("%s: %s", cell.title, told)
            began = clock()
            weights = None
            if self._shared.runs > runs:
                weights = self._shared.key
            elif not method.trains and predictor.model is base.model:
                weights = base.revision
            after = self._measured(cell, predictor, base, held_out, weights)
            asking += clock() - began
        if recipe.training.full_parameters:
            self._loaded = None
        curve = trained.curve if trained else loss_curve(folder / LOG) if method.trains else {}
        if not self.keeps:
            shutil.rmtree(folder, ignore_errors=True)
        found = {
            "metric": answers.metrics[0],
            "forgetting": {f"{k}_before": v for k, v in before.items()}
            | {f"{k}_after": v for k, v in after.items()},
            "seconds": {
                "training": predictor.cost.seconds,
                "answering": answers.seconds,
                "general": asking,
            },
            "counts": predictor.counts(),
            "curve": curve,
            "hashes": self.data.all_hashes(cell) | self.data.measured | {"base": base.revision},
        }
        return answers, items, found

    def _measured(
        self,
        cell: Cell,
        predictor: Predictor,
        base: LoadedModel,
        held_out: Sequence[Example],
        weights: str | None,
    ) -> dict[str, float]:
        """Return the forgetting measurements of a predictor, taken once for the same weights.

        `weights` names them: the base's revision if nothing was trained, and None if no other
        predictor can have them.
        """
        if not held_out or predictor.model is None:
            return {}
        key = (weights, cell.task, cell.seed, cell.recipe.evaluation.model_dump_json())
        if weights is not None and key in self._measurements:
            return self._measurements[key]
        task = self.data.task(cell.recipe).task
        looks = task_format([example.completion for example in task.train])
        prompts = self.data.forgetting.prompts
        found = asdict(measure_forgetting(predictor, base.tokenizer, held_out, prompts, looks))
        if prompts:
            own = self._own[base.revision]
            found |= asdict(
                own.drift(looks)
                if weights == base.revision
                else measure_drift(predictor, base.tokenizer, own, looks)
            )
        rounded = {k: round(v, 5) for k, v in found.items() if v is not None}
        if weights is not None:
            self._measurements[key] = rounded
        return rounded

    def base(self, recipe: Recipe) -> LoadedModel:
        """Return the base model of a recipe; it stays loaded from cell to cell."""
        training = recipe.training
        wanted = (recipe.model, training.precision, training.full_parameters)
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # two models may not fit in memory
            with phase("loading the model", shown=self.progress):
                self._loaded = wanted, load_base_of(recipe)
        return self._loaded[1]
