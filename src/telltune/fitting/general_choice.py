"""Choice of general data for a task: the nearest to the task, or the most diverse."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from telltune.data.choice import general_choice
from telltune.data.contents import Contents, contents_of
from telltune.data.encoding import Encoder
from telltune.data.general import GeneralData
from telltune.errors import DataError
from telltune.fitting.selection import examples_in_budget
from telltune.storage import atomic_folder, cache_folder
from telltune.valuation.nearness import (
    embeddings_of,
    gradients_of,
    nearest_first,
    spread_first,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.data.task import TaskData
    from telltune.models import LoadedModel
    from telltune.recipe import GeneralChoiceSpec, Recipe

__all__ = ["ChosenData", "choose_general", "first_drawn"]

_VERSION = 2
_FILE = "vectors.npy"


@dataclass(frozen=True)
class ChosenData(GeneralData):
    """A chosen part of the general data, held in memory.

    Attributes:
        chosen: The chosen examples.
    """

    chosen: tuple[Example, ...]

    def __iter__(self) -> Iterator[Example]:
        """Iterate over the chosen examples."""
        return iter(self.chosen)

    @property
    def contents(self) -> Contents:
        """Number and hash of the examples."""
        return contents_of(self.chosen)


def choose_general(
    task: TaskData,
    general: GeneralData,
    base: LoadedModel,
    recipe: Recipe,
    spec: GeneralChoiceSpec,
    *,
    progress: bool = False,
) -> ChosenData:
    """Choose general examples by nearness or diversity, up to the recipe's leverage ratio.

    Candidates are the first examples that a mixture with this seed draws. Examples held out from
    the end of the draw therefore stay held out. Embeddings and gradients are cached on disk.

    Args:
        task: Task; nearness is measured to its training examples.
        general: General data that contain the candidates.
        base: Model that computes gradients, if the choice is by gradients; unchanged on return.
        recipe: Recipe; its mixture sets the number of tokens or examples.
        spec: How to choose.
        progress: Whether to show a progress bar for gradients.

    Raises:
        DataError: There are fewer candidates than the recipe asks for.
        ModelError: The embedding model cannot be loaded.
    """
    examples = examples_in_budget(task, base, recipe)
    candidates = first_drawn(general, spec.candidates, recipe.seed)
    encoder = Encoder(base.tokenizer)
    lengths = encoder.encode(candidates).lengths
    order = _ranked(examples, candidates, base, recipe, spec, progress)
    wanted = recipe.mixture.general_examples
    if wanted is None:
        target = recipe.mixture.leverage_ratio * int(encoder.encode(examples).lengths.sum())
        tokens = np.cumsum(lengths[order])
        if tokens[-1] < target:
            raise DataError(
                f"general_choice.candidates = {len(candidates)} general examples have "
                f"{tokens[-1]} tokens, but a leverage ratio of "
                f"{recipe.mixture.leverage_ratio:g} needs {target:.0f}; raise candidates, or "
                "lower mixture.leverage_ratio."
            )
        # Number of examples whose tokens are nearest to the target.
        wanted = int(np.abs(np.concatenate([[0], tokens]) - target).argmin())
    elif wanted > len(candidates):
        raise DataError(
            f"mixture.general_examples = {wanted}, but there are {len(candidates)} candidates; "
            "raise general_choice.candidates, or lower mixture.general_examples."
        )
    chosen = tuple(candidates[i] for i in order[:wanted].tolist())
    return ChosenData(f"{general.name} ({spec.take})", general.sources, chosen)


def first_drawn(general: GeneralData, count: int, seed: int) -> list[Example]:
    """Return up to `count` general examples, the first that a mixture with this seed draws."""
    available = general.contents.examples
    order = general_choice(available, seed)
    places = {int(order[i]): i for i in range(min(count, available))}
    found = {places[i]: example for i, example in enumerate(general) if i in places}
    return [found[i] for i in range(len(found))]


def _ranked(
    examples: Sequence[Example],
    candidates: Sequence[Example],
    base: LoadedModel,
    recipe: Recipe,
    spec: GeneralChoiceSpec,
    progress: bool,
) -> NDArray[np.int64]:
    """Return the candidates' indices in order of preference."""
    found = _vectors(candidates, base, recipe, spec, progress)
    if spec.take == "diverse":
        return spread_first(found)
    return nearest_first(found, _vectors(examples, base, recipe, spec, progress))


def _vectors(
    examples: Sequence[Example],
    base: LoadedModel,
    recipe: Recipe,
    spec: GeneralChoiceSpec,
    progress: bool,
) -> NDArray[np.float32]:
    """Return embeddings or gradients of examples, (examples, width), cached on disk."""
    key: tuple[object, ...] = (_VERSION, spec.by, contents_of(examples).sha256)
    if spec.by == "embeddings":
        key += (spec.embedding_model,)
    else:
        key += (base.speaker, recipe.lora.model_dump_json(), recipe.seed)
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:32]
    folder = cache_folder("nearness") / digest
    if not folder.is_dir():
        if spec.by == "embeddings":
            found = embeddings_of(examples, spec.embedding_model)
        else:
            found = gradients_of(base, examples, recipe.lora, recipe.seed, progress=progress)
        with atomic_folder(folder, needed=found.nbytes) as filling:
            np.save(filling / _FILE, found)
    kept: NDArray[np.float32] = np.load(folder / _FILE)
    return kept
