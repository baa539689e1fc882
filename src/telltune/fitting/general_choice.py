"""Choice of general data for a task: the nearest to the task, or the most diverse.

Nearness is the mean cosine to the task's examples, of sentence embeddings or of gradients with
respect to a new adapter. The gradients follow LESS (arXiv 2402.04333), which uses Adam's gradients
during a warm-up on the data. Here the adapter is untrained: `lora_A` is random and only `lora_B`
has a gradient, which is therefore a random projection of the full weights' gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.choice import general_choice
from telltune.data.contents import Contents, contents_of
from telltune.data.encoding import Encoder
from telltune.data.general import GeneralData
from telltune.errors import DataError
from telltune.fitting.selection import examples_in_budget
from telltune.models import LoadedModel, context_length
from telltune.models.kernels.packing import pack, token_nll
from telltune.models.threads import adapt_threads, shared_cores
from telltune.storage import atomic_folder, cache_folder, content_key, make_once
from telltune.training.adapter import add_lora, borrowing
from telltune.training.progress import bar
from telltune.valuation.embeddings import embed, encoder_revision
from telltune.valuation.gradient_sketch import GradientSketch, gradient_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.data.task import TaskData
    from telltune.recipe import GeneralChoiceSpec, LoraSpec, Recipe

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
    """Choose general examples by nearness to the training examples or by diversity.

    The recipe's mixture sets their number or tokens. Candidates are the first examples that a
    mixture with this seed draws. Examples held out from the end of the draw therefore stay held
    out. Embeddings and gradients are cached on disk; the base model is unchanged on return.

    Raises:
        DataError: There are fewer candidates than the recipe asks for.
        ModelError: The embedding model cannot be loaded.
    """
    examples = examples_in_budget(task, base, recipe)
    candidates = first_drawn(general, spec.candidates, recipe.seed)
    encoder = Encoder(base.tokenizer)
    lengths = encoder.encode(candidates).lengths
    found = _vectors(candidates, base, recipe, spec, progress)
    if spec.take == "diverse":
        order = spread_first(found)
    else:
        order = nearest_first(found, _vectors(examples, base, recipe, spec, progress))
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
    return examples_at(general, [int(order[i]) for i in range(min(count, available))])


def examples_at(general: GeneralData, indices: Sequence[int]) -> list[Example]:
    """Return the general examples at these indices, in their order."""
    places = {index: place for place, index in enumerate(indices)}
    found = {places[i]: example for i, example in enumerate(general) if i in places}
    return [found[place] for place in range(len(found))]


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
        key += (encoder_revision(spec.embedding_model),)
    else:
        key += (base.speaker, recipe.lora.model_dump_json(), recipe.seed)
    folder = cache_folder("nearness") / content_key(*key)

    def make() -> None:
        if spec.by == "embeddings":
            found = embeddings_of(examples, spec.embedding_model)
        else:
            found = gradients_of(base, examples, recipe.lora, recipe.seed, progress=progress)
        with atomic_folder(folder, needed=found.nbytes) as filling:
            np.save(filling / _FILE, found)

    make_once(folder, make)
    kept: NDArray[np.float32] = np.load(folder / _FILE)
    return kept


_WIDTH = 2**12
"""Width of a sketched gradient; the standard deviation of a cosine is at most 1/64."""


def embeddings_of(examples: Sequence[Example], model: str) -> NDArray[np.float32]:
    """Return unit-length sentence embeddings of prompt and completion, (examples, width)."""
    return embed([f"{example.prompt}\n{example.completion}" for example in examples], model)


def gradients_of(
    base: LoadedModel,
    examples: Sequence[Example],
    lora: LoraSpec,
    seed: int,
    *,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Return unit-length sketched gradients of each example's mean loss, (examples, width).

    Each example, truncated to the model's context, takes one forward and one backward pass through
    a temporary adapter. `seed` is that of its initialization and of the sketch.
    """
    context = context_length(base.model.config)
    encoded = Encoder(base.tokenizer, context=context, too_long="truncate").encode(examples)
    model: Any = add_lora(base, lora.model_copy(update={"init": "default"}), seed)
    with borrowing(model):
        model.eval()
        # `lora_B` is initialized to zero, so the gradient of `lora_A` is zero and is skipped.
        second = {id(w) for name, w in model.named_parameters() if "lora_B" in name}
        weights = [w for w in gradient_weights(model) if id(w) in second]
        sketch = GradientSketch(weights, width=_WIDTH, seed=seed)
        found = np.empty((len(encoded), sketch.width), np.float32)
        with bar(shown=progress) as shown, shared_cores():
            task = shown.add_task("gradients", total=len(encoded))
            for i in range(len(encoded)):
                adapt_threads()
                [row] = pack([encoded[i]], 1, together=False)
                found[i] = sketch.of(token_nll(model, row).mean())
                shown.advance(task)
    lengths = np.linalg.norm(found, axis=1, keepdims=True).astype(np.float32)
    return np.asarray(found / np.maximum(lengths, 1e-12), np.float32)


def nearest_first(candidates: NDArray[np.float32], task: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return candidate indices by decreasing mean cosine to the task's examples, (candidates,).

    Both arguments hold unit vectors, (candidates, width) and (task examples, width).
    """
    return np.argsort(-(candidates @ task.mean(0)), kind="stable")


def spread_first(candidates: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return candidate indices in farthest-first order from the first one, (candidates,).

    Farthest-first traversal (Gonzalez, 1985): the first k indices cover all candidates within twice
    the smallest radius that any k candidates can achieve. Candidates are unit vectors,
    (candidates, width).
    """
    order = np.zeros(len(candidates), np.int64)
    nearest = np.full(len(candidates), -np.inf)
    for i in range(1, len(candidates)):
        nearest = np.maximum(nearest, candidates @ candidates[order[i - 1]])
        nearest[order[i - 1]] = np.inf
        order[i] = int(nearest.argmin())
    return order
