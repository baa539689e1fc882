"""Base classes of methods, and the settings of a method's run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError
from telltune.inference.api_client import ApiClient, api_client

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import torch
    from transformers import TrainerCallback

    from telltune.data.general import GeneralData
    from telltune.data.task import TaskData
    from telltune.fitting.predictor import Predictor
    from telltune.fitting.run_plan import RunPlan
    from telltune.models import LoadedModel
    from telltune.recipe import Order, Recipe
    from telltune.training.shared import SharedTraining
    from telltune.training.trackers import TrackedRun


@dataclass(frozen=True)
class Settings:
    """Settings of a method's run.

    Attributes:
        recipe: The recipe.
        out: Folder for checkpoints, log and trained adapter; None keeps them in memory.
        progress: Whether to show a progress bar.
        run_plan: Result of `build_run_plan` for the same recipe and data, if available.
        save: Whether to save the adapter in `out`; else the last checkpoint stays there.
        start: Initial weights. None uses a new adapter, or the base's weights in full-parameter
            training.
        score: Function that scores answers to the run's dev examples, in order; higher is better.
            None uses only their loss.
        callbacks: Additional callbacks of the Trainer.
        tracked: The run as trackers show it. None names it after `out`, if given.
        shared: Training runs to take over if their inputs are the same.
    """

    recipe: Recipe
    out: Path | None = None
    progress: bool = True
    run_plan: RunPlan | None = None
    save: bool = True
    start: Mapping[str, torch.Tensor] | None = None
    score: Callable[[Sequence[str]], float] | None = None
    callbacks: Sequence[TrainerCallback] = ()
    tracked: TrackedRun | None = None
    shared: SharedTraining | None = None


@dataclass(frozen=True)
class Method(ABC):
    """A way to get a predictor from a task.

    Attributes:
        name: Name in recipes and tables.
        label: Display name.
        anchored: Whether the method uses the anchor.
        uses_general: Whether the method uses general data, even if only to set the number of steps.
        trains: Whether the method trains an adapter.
        depends_on_size: Whether the method depends on the number and the draw of the task examples.
    """

    name: str
    label: str
    _: KW_ONLY
    anchored: bool = False
    uses_general: bool = False
    trains: bool = False
    depends_on_size: bool = True

    @abstractmethod
    def run(
        self, task: TaskData, general: GeneralData | None, base: LoadedModel, settings: Settings
    ) -> Predictor:
        """Return a predictor. Methods never receive test data."""


@dataclass(frozen=True)
class AdapterMethod(Method):
    """Method that trains an adapter; its flags set the training data.

    Attributes:
        learns: Whether to train on the task examples; else they only set the amount of general
            data.
        order: Order of the mixture, overriding the recipe's.
        equal_steps: Whether to train on the task alone, with the number of passes closest to TELL's
            number of optimizer steps.
        grouped: Whether to train and answer with several inputs per prompt; see `over_prompt` in
            the recipe.
        overrides: Recipe keys, such as `selection.order`, and values that override the recipe's. A
            section alone, such as `meta`, uses its defaults if the recipe lacks it.
    """

    _: KW_ONLY
    trains: bool = True
    learns: bool = True
    order: Order | None = None
    equal_steps: bool = False
    grouped: bool = False
    overrides: tuple[tuple[str, Any], ...] = ()

    def configured(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the keys in `overrides` applied."""
        return recipe.with_keys(self.overrides)

    def training(self, recipe: Recipe) -> str:
        """Return what sets the training, equal for methods that only answer in another way."""
        flags = replace(self, name="", label="", overrides=())
        answering = {"method", "product_of_experts", "evaluation"}
        return f"{flags} {self.configured(recipe).model_dump_json(exclude=answering)}"


def teacher_of(recipe: Recipe, method: str) -> ApiClient:
    """Return the client of a recipe's teacher.

    Raises:
        RecipeError: The recipe has no teacher, or its key is not in the environment.
    """
    if recipe.teacher is None:
        raise RecipeError(
            f"method `{method}` asks the section `teacher`; add it with its `url` and `model`."
        )
    return api_client(recipe.teacher)
