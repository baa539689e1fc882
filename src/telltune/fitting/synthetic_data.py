"""Training data with synthetic examples, placed where the recipe asks for them."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from telltune.data.encoding import Encoder
from telltune.data.examples import as_turns
from telltune.errors import RecipeError
from telltune.fitting.general_choice import ChosenData, first_drawn
from telltune.fitting.selection import examples_in_budget
from telltune.synthesis import synthesize
from telltune.synthesis.auxiliary import auxiliary_examples, refine
from telltune.synthesis.self_guide import SOURCE, instruction_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.data.task import TaskData
    from telltune.models import LoadedModel
    from telltune.recipe import Recipe, SynthesisSpec

__all__ = ["Made", "with_synthetic"]


@dataclass(frozen=True)
class Made:
    """Training data of a method with synthetic examples.

    Attributes:
        task: Task, all of whose training examples are used.
        general: General data to mix in.
        recipe: Recipe of the run, adjusted to these data.
        real: The task's own examples.
        tokens: Number of their tokens.
        seconds: Time to make the examples or load them from the cache, in seconds.
    """

    task: TaskData
    general: GeneralData | None
    recipe: Recipe
    real: tuple[Example, ...]
    tokens: int
    seconds: float


def with_synthetic(
    task: TaskData,
    general: GeneralData | None,
    base: LoadedModel,
    recipe: Recipe,
    spec: SynthesisSpec,
    general_examples: int,
    *,
    progress: bool = False,
) -> Made:
    """Make task examples with the base, and place them where the recipe asks for them.

    Args:
        task: Task; its examples within the recipe's budget are the demonstrations.
        general: The general data, or None.
        base: Base model without an adapter.
        recipe: Recipe of the run.
        spec: Settings of the synthesis.
        general_examples: Number of general examples that the method uses without synthetic ones.
            Synthetic task examples do not increase it.
        progress: Whether to show a progress bar.

    Raises:
        DataError: See `synthesize`.
        RecipeError: Synthetic examples are to be mixed with general data, and there are none.
    """
    began = time.perf_counter()
    real = examples_in_budget(task, base, recipe)
    anchor = task.anchor.prompt if task.anchor else None
    made = made_examples(base, real, instruction_of(anchor), spec, recipe.seed, progress=progress)
    all_used = recipe.task.model_copy(update={"max_tokens": None})
    recipe = recipe.model_copy(update={"task": all_used})
    tokens = int(Encoder(base.tokenizer).encode(real).lengths.sum())
    wanted = general_examples
    if spec.use_as == "task":
        task = replace(task, train=(*real, *made))
    elif spec.use_as == "only":
        task = replace(task, train=made, shots=as_turns(real[: spec.shots]))
    else:
        if general is None:
            raise RecipeError(
                f"synthesis.use_as: {spec.use_as} needs a method that mixes general data; set "
                "`task` or `only`."
            )
        count = 0 if spec.use_as == "general" else general_examples
        beside = first_drawn(general, count, recipe.seed)
        general = ChosenData(f"{general.name}+{SOURCE}", general.sources, (*beside, *made))
        wanted = len(general.chosen)
        task = replace(task, train=tuple(real))
    if general is not None:
        mixture = recipe.mixture.model_copy(update={"general_examples": wanted})
        recipe = recipe.model_copy(update={"mixture": mixture})
    return Made(task, general, recipe, tuple(real), tokens, time.perf_counter() - began)


def made_examples(
    base: LoadedModel,
    real: Sequence[Example],
    instruction: str,
    spec: SynthesisSpec,
    seed: int,
    *,
    progress: bool = False,
) -> tuple[Example, ...]:
    """Return the examples that the model makes from the task examples; see `synthesis`."""
    if spec.make == "auxiliary":
        return tuple(auxiliary_examples(real, refine(base, real, instruction, seed=seed)))
    return synthesize(base, real, instruction, spec, seed=seed, progress=progress).examples
