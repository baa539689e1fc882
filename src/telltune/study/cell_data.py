"""Data of the cells of a study, read once, and the keys and hashes that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from telltune.data.contents import contents_of
from telltune.data.fingerprint import file_hash
from telltune.data.task import Splits, TaskData, load_general, load_task
from telltune.evaluation.forgetting import held_out_general
from telltune.evaluation.headline import TaskAnswers, task_answers
from telltune.evaluation.score import check_metrics
from telltune.fitting.build_plan import build_run_plan, check_needs
from telltune.fitting.protocol import teacher_of
from telltune.fitting.trained_method import TrainedMethod
from telltune.methods.baselines import Baseline
from telltune.methods.few_shot import FewShot
from telltune.methods.over_prompt import OverPrompt
from telltune.methods.registry import get_method
from telltune.models import base_revision
from telltune.study.results import ResultRow, cell_key, same_data
from telltune.valuation.embeddings import EMBEDDED, encoder_revision, is_installed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.data.files import Split
    from telltune.data.general import GeneralData
    from telltune.fitting.model_info import ModelInfo
    from telltune.fitting.protocol import Method
    from telltune.fitting.run_plan import RunPlan
    from telltune.recipe import Recipe
    from telltune.study.spec import Cell, ForgettingSpec


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
class CellData:
    """Tasks and general data of cells, which share what they read."""

    forgetting: ForgettingSpec
    split: Split
    """Split whose items are answered."""
    mixing: Recipe | None
    """Recipe with the general data for forgetting measurements; None if no cell has any."""
    _bases: dict[str, str] = field(default_factory=dict)
    _splits: Splits = field(default_factory=Splits)
    _tasks: dict[str, _Loaded] = field(default_factory=dict)
    _general: dict[str, GeneralData | None] = field(default_factory=dict)
    _held: dict[int, tuple[int, list[Example]]] = field(default_factory=dict)

    @classmethod
    def of_cells(
        cls,
        cells: Sequence[Cell],
        forgetting: ForgettingSpec,
        split: Split,
        general: Recipe | None,
    ) -> CellData:
        """Return the data of a study or search; see `run_cells` for the arguments."""
        mixing = general or next((cell.recipe for cell in cells if cell.recipe.general), None)
        return cls(forgetting, split, mixing)

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

    def run_plan(self, cell: Cell, model: ModelInfo) -> RunPlan | None:
        """Check that a cell can run, and return its run plan; None if it trains nothing.

        Raises:
            TellError: The cell cannot run.
        """
        method, recipe = get_method(cell.method), cell.recipe
        task, general = self.task(recipe).task, self.general(recipe)
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
