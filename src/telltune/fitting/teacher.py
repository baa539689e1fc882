"""Adapters that a lever trains and queries before the run's own training."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from telltune.clock import clock
from telltune.data.contents import contents_of
from telltune.errors import RecipeError
from telltune.fitting.protocol import AdapterMethod, Settings
from telltune.models import LoadedModel, compute_dtype
from telltune.recipe import Recipe
from telltune.storage import cache_folder, cached_json, content_key
from telltune.training.processes import processes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.data.task import TaskData

# Increase this when the same data and settings give different answers than before.
_VERSION = 2
_NO_CHECKPOINTS = 10**9


@dataclass(frozen=True)
class Teacher:
    """Trains a method's adapter on the task alone, and answers with it.

    Answers are cached on disk, so an interrupted run does not repeat them.

    Attributes:
        method: Method of the run; its anchor is used, its general data are not.
        task: Task with the labeled examples only.
        base: Base model without an adapter; unchanged on return.
        recipe: Recipe of the run. Every adapter uses its `training` and `lora` settings.
        progress: Whether to show a progress bar.
    """

    method: AdapterMethod
    task: TaskData
    base: LoadedModel
    recipe: Recipe
    progress: bool

    def __call__(self, examples: Sequence[Example], seed: int) -> tuple[list[str], float]:
        """Train an adapter with a seed, and answer the examples' prompts.

        Returns:
            The answers, and the time of training and answering in seconds.

        Raises:
            RecipeError: Several processes train together.
        """
        path = cache_folder("teacher") / f"{self._key(examples, seed)}.json"
        began = clock()
        answers = cached_json(path, partial(self._ask, examples, seed))
        return answers, clock() - began

    def _ask(self, examples: Sequence[Example], seed: int) -> list[str]:
        if processes().count > 1:
            raise RecipeError(
                "adapters that label inputs are trained in one process: run `tell fit` in one "
                "process until its own training begins, then launch several; the answers of the "
                "adapters are cached."
            )
        training = {"early_stopping": False, "save_steps": _NO_CHECKPOINTS}
        # Without other levers: no section that a recipe need not have.
        off = {name: None for name, key in Recipe.model_fields.items() if key.default is None}
        recipe = self.recipe.changed(training=training).model_copy(update=off | {"seed": seed})
        method = replace(
            self.method,
            label=f"adapter {seed} of a lever",
            uses_general=False,
            order=None,
            equal_steps=False,
            overrides=(),
        )
        settings = Settings(recipe, progress=self.progress, save=False)
        task = replace(self.task, dev=())
        with method.run(task, None, self.base, settings) as predictor:
            answers = replace(predictor, in_process=True).predict(examples)
        gc.collect()
        return answers

    def _key(self, examples: Sequence[Example], seed: int) -> str:
        recipe = self.recipe
        return content_key(
            _VERSION,
            self.base.speaker,
            str(self.task.anchor if self.method.anchored else None),
            self.method.grouped,
            contents_of(self.task.train).sha256,
            list(self.task.labels),
            contents_of(examples).sha256,
            repr(self.task.shots),
            recipe.training.model_dump(exclude={"report_to"}),
            recipe.lora.model_dump(),
            recipe.mixture.passes,
            recipe.evaluation.model_dump(),
            str(compute_dtype(recipe.training.precision)),
            seed,
        )
