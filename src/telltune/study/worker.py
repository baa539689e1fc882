"""Worker that runs the cells of a study on one loaded base: train, answer, measure and score."""

from __future__ import annotations

import gc
import logging
import shutil
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from telltune.clock import clock
from telltune.data.contents import contents_of
from telltune.data.fingerprint import code_hash, file_hash
from telltune.data.task import Splits, TaskData, load_general, load_task
from telltune.evaluation.drift import OwnAnswers, measure_drift
from telltune.evaluation.forgetting import held_out_general, measure_forgetting, task_format
from telltune.evaluation.headline import TaskAnswers, task_answers
from telltune.evaluation.score import (
    Answers,
    answer_items,
    answer_score,
    check_metrics,
)
from telltune.fitting.adapter_folder import versions
from telltune.fitting.build_plan import build_run_plan, check_needs
from telltune.fitting.model_card import record_scores
from telltune.fitting.model_info import ModelInfo
from telltune.fitting.protocol import Settings, teacher_of
from telltune.fitting.trained_method import TrainedMethod
from telltune.methods.baselines import Baseline
from telltune.methods.few_shot import FewShot
from telltune.methods.over_prompt import OverPrompt
from telltune.methods.registry import get_method
from telltune.models import LoadedModel, base_revision, load_base_of
from telltune.study.results import PREDICTIONS, ResultRow, cell_key, same_data
from telltune.study.scoring import Answered, failed_row, score_cell
from telltune.study.trained_cell import TrainedCell
from telltune.training.log import LOG, loss_curve
from telltune.training.progress import bar, phase
from telltune.training.shared import SharedTraining
from telltune.training.trackers import TrackedRun
from telltune.valuation.embeddings import EMBEDDED, encoder_revision, is_installed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.data.files import Split
    from telltune.data.general import GeneralData
    from telltune.fitting.predictor import Predictor
    from telltune.fitting.protocol import Method
    from telltune.fitting.run_plan import RunPlan
    from telltune.recipe import Recipe
    from telltune.study.spec import Cell, ForgettingSpec

CODE = code_hash(Path(__file__).parents[1])[:12]
_WORK = "work"


class _Loaded(NamedTuple):
    """A loaded task, shared by cells."""

    task: TaskData
    items: list[Example]
    answers: TaskAnswers
    of: int
    """Number of items in the whole split."""
    hashes: dict[str, str]
    """Hashes of `train`, `dev`, `unlabeled` and the items, as far as there are any."""


@dataclass
class CellWorker:
    """Runner of cells that share the base, the tasks, and the base's forgetting measurements."""

    out: Path
    forgetting: ForgettingSpec
    split: Split
    mixing: Recipe | None
    """Recipe with the general data for forgetting measurements; None if no cell has any."""
    keeps: bool = False
    """Whether to keep adapters and baselines in `out/KEY`, with their scores."""
    progress: bool = False
    """Whether to show the progress of each cell."""
    study: Path | None = None
    """Folder of the study for trackers; `out` by default."""
    _loaded: tuple[Any, LoadedModel] | None = None
    _bases: dict[str, str] = field(default_factory=dict)
    _shared: SharedTraining = field(default_factory=SharedTraining)
    _splits: Splits = field(default_factory=Splits)
    _tasks: dict[str, _Loaded] = field(default_factory=dict)
    _general: dict[str, GeneralData | None] = field(default_factory=dict)
    _measurements: dict[tuple[str | None, str, int, str], dict[str, float]] = field(
        default_factory=dict
    )
    _own: dict[str, OwnAnswers] = field(default_factory=dict)
    _held: dict[int, tuple[int, list[Example]]] = field(default_factory=dict)

    @classmethod
    def of_cells(
        cls,
        cells: Sequence[Cell],
        forgetting: ForgettingSpec,
        out: Path,
        split: Split,
        general: Recipe | None,
    ) -> CellWorker:
        """Return the worker of a study or search; see `run_cells` for the arguments."""
        mixing = general or next((cell.recipe for cell in cells if cell.recipe.general), None)
        return cls(out, forgetting, split, mixing)

    def keys(self, cells: Sequence[Cell]) -> dict[Cell, str]:
        """Return the key of each cell, for which its data are read."""
        return {cell: cell_key(cell, self.hashes(cell)) for cell in cells}

    def is_finished(self, cell: Cell, row: ResultRow) -> bool:
        """Return whether a row has all that its cell would measure now, on the same data."""
        asked = {name: count for name, count in self.measured.items() if count != "0"}
        measured = bool(row.forgetting) or not asked
        return measured and same_data(row.hashes, asked) and self.is_same_work(cell, row)

    @property
    def measured(self) -> dict[str, str]:
        """Numbers of the forgetting measurements by name; empty if none are made."""
        if self.mixing is None or not self.forgetting.examples:
            return {}
        return {f"forgetting {name}": f"{n}" for name, n in self.forgetting.model_dump().items()}

    def is_same_work(self, cell: Cell, row: ResultRow) -> bool:
        """Return whether a row has scores on what a cell reads now, also what its key lacks."""
        now = cell.recipe
        before = row.recipe or now.model_dump()  # which rows of earlier versions may lack
        return (
            row.status == "done"
            and same_data(row.hashes, self.all_hashes(cell))
            and bool(before["task"].get("dev")) == bool(now.task.dev)
            and (before["model"].get("chat_template") is None) == (now.model.chat_template is None)
        )

    def hashes(self, cell: Cell) -> dict[str, str]:
        """Return the hashes of the data that are part of a cell's key."""
        of_task = self.task(cell.recipe).hashes
        found: dict[str, str] = {"train": of_task["train"], self.split: of_task[self.split]}
        found["model"] = _model_name(cell.recipe)
        if "unlabeled" in of_task:
            found["unlabeled"] = of_task["unlabeled"]
        general = self.general(cell.recipe) if get_method(cell.method).uses_general else None
        return found if general is None else found | {"general": general.contents.digest}

    def all_hashes(self, cell: Cell) -> dict[str, str]:
        """Return the hashes of all data that a cell reads, of its base and of its encoder.

        Those that `hashes` lacks are compared with those of a row: keys of earlier rows stay valid.
        """
        recipe = cell.recipe
        found = self.task(recipe).hashes | self.hashes(cell)
        if self.mixing is not None and self.forgetting.examples:
            general = self.general(self.mixing)
            assert general is not None  # by what `mixing` is
            found["held-out general"] = general.contents.digest
        aliases = recipe.selection.aliases if recipe.selection else None
        for name, path in (("aliases", aliases), ("chat template", recipe.model.chat_template)):
            if path is not None:
                # A template may also be a name.
                found[name] = (file_hash(Path(path)) or path)[:16]
        if encoders := _encoders(get_method(cell.method), recipe):
            found["encoder"] = " ".join(map(_revision, encoders))
        model = recipe.model.model_dump_json()
        if model not in self._bases:
            self._bases[model] = base_revision(recipe.model)
        return found | {"base": self._bases[model]}

    def task(self, recipe: Recipe) -> _Loaded:
        """Return a task's data and the items to answer; they are read only once."""
        anchor = recipe.anchor.model_dump_json() if recipe.anchor else ""
        metrics = recipe.evaluation.metrics
        sized = recipe.task.model_copy(update={"max_tokens": None})
        count = recipe.evaluation.max_items
        key = f"{sized.model_dump_json()}|{anchor}|{metrics}|{count}|{recipe.seed}"
        if key not in self._tasks:
            items = self._splits.load(recipe, self.split)[0]
            task = load_task(recipe, splits=self._splits)
            answers = task_answers(recipe, task, splits=self._splits)
            if recipe.task.dev_fold is not None:
                # What is recommended trains on all folds, so it learns the labels of each.
                answers = replace(answers, dev=(), test=())
            check_metrics(answers.metrics)
            data = {"train": task.train, "dev": task.dev, "unlabeled": task.unlabeled}
            data = {name: data for name, data in data.items() if data or name == "train"}
            data[self.split] = tuple(items[:count])
            hashes = {name: contents_of(data).digest for name, data in data.items()}
            self._tasks[key] = _Loaded(task, items[:count], answers, len(items), hashes)
        return self._tasks[key]

    def general(self, recipe: Recipe) -> GeneralData | None:
        """Return the general data, whose contents are computed only once."""
        general = load_general(recipe)
        return self._general.setdefault(repr(general and general.sources), general)

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
                    "task": self.task(cell.recipe).task.name,
                    "split": row.split,
                    "sha256": row.hashes[row.split],
                    "items": len(found.items),
                    "of": self.task(cell.recipe).of,
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
            task, base = self.task(cell.recipe).task, self.base(cell.recipe)
            settings = self._settings(cell, key, save=True)
            used = settings.run_plan.max_general_index if settings.run_plan else 0
            self.held_out(cell.seed, used)  # fails if there are too few general examples
            method, folder = get_method(cell.method), self._folder(key)
            with method.run(task, self.general(cell.recipe), base, settings) as predictor:
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
        row = self.blank(cell, key, self.split)
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
        return failed_row(self.blank(cell, key, self.split), error, began, self.out, cell.title)

    def _folder(self, key: str) -> Path:
        return self.out / (key if self.keeps else f"{_WORK}/{key}")

    def _settings(self, cell: Cell, key: str, *, save: bool) -> Settings:
        """Return the settings for the method of a cell, with the run plan if it trains."""
        recipe, base = cell.recipe, self.base(cell.recipe)
        task, _, of_task, *_ = self.task(recipe)
        run_plan = None
        if get_method(cell.method).trains:
            known = ModelInfo.of(base.model.config, base.tokenizer)
            run_plan = plan_cell(cell, task, self.general(recipe), known)
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
        task, items, of_task, *_ = self.task(recipe)
        general = self.general(recipe)
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
        held_out = self.held_out(cell.seed, used)
        began = clock()
        before: dict[str, float] = {}
        if held_out:
            plain = get_method("base").run(task, None, base, Settings(recipe))
            if self.forgetting.prompts and base.revision not in self._own:
                own = OwnAnswers.of(plain, base.tokenizer, self.forgetting.prompts)
                self._own[base.revision] = own
            if not self.keeps:  # a comparison may have the base as a method of its own
                before = self._measured(cell, plain, base, held_out, base.revision)
        asking = clock() - began
        runs = self._shared.runs
        with start() as predictor:
            with bar(shown=self.progress) as shown:
                counter = shown.add_task(f"{method.label}: {self.split}", total=len(items))
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
            "hashes": self.all_hashes(cell) | self.measured | {"base": base.revision},
        }
        return answers, items, found

    def held_out(self, seed: int, used: int) -> list[Example]:
        """Return general examples to measure forgetting on; empty without general data.

        See `held_out_general` for `seed`, `used` and the error.
        """
        if self.mixing is None or not self.forgetting.examples:
            return []
        checked, examples = self._held.get(seed, (-1, []))
        if used > checked:
            general = self.general(self.mixing)
            assert general is not None  # by what `mixing` is
            examples = held_out_general(general, self.forgetting.examples, used, seed)
            self._held[seed] = used, examples
        return examples

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
        task = self.task(cell.recipe).task
        looks = task_format([example.completion for example in task.train])
        prompts = self.forgetting.prompts
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


def plan_cell(
    cell: Cell, task: TaskData, general: GeneralData | None, model: ModelInfo
) -> RunPlan | None:
    """Check that a cell can run, and return its run plan; None if it trains nothing.

    Raises:
        TellError: The cell cannot run.
    """
    method, recipe = get_method(cell.method), cell.recipe
    if isinstance(method, TrainedMethod):
        return build_run_plan(method, task, general, model, method.configured(recipe))
    check_needs(method, anchored=task.anchor is not None, general=general is not None)
    if isinstance(method, Baseline):
        method.data(task, model.tokenizer.load(), recipe)
    elif isinstance(method, FewShot):
        method.labels(task, task.train)
    if isinstance(method, FewShot | OverPrompt) and method.by_teacher:
        teacher_of(recipe, method.name)
    return None


def _encoders(method: Method, recipe: Recipe) -> list[str]:
    """Return the sentence encoders that a method and its levers may use."""
    if isinstance(method, Baseline):
        return [EMBEDDED] if method.features in ("encoder", "combined", "chosen") else []
    recipe = recipe.with_keys(getattr(method, "overrides", ()))
    if isinstance(method, FewShot):
        return [EMBEDDED] if recipe.few_shot.choose == "nearest" else []
    if not method.trains:
        return []
    levers = (recipe.pseudo_label, recipe.product_of_experts)
    found = [EMBEDDED for lever in levers if lever and lever.by not in ("tfidf", "model")][:1]
    choice = recipe.general_choice
    if method.uses_general and choice is not None and choice.by == "embeddings":
        found.append(choice.embedding_model)
    return found


def _revision(encoder: str) -> str:
    return encoder_revision(encoder) if encoder != EMBEDDED or is_installed() else "not installed"


def _model_name(recipe: Recipe) -> str:
    model = recipe.model
    named = model.name if model.revision is None else f"{model.name}@{model.revision}"
    return named if model.quantization is None else f"{named}+{model.quantization}"
