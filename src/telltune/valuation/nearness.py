"""Selection of general examples that are near the task or far from one another.

Nearness is the mean cosine to the task's examples, of sentence embeddings or of gradients with
respect to a new adapter. The gradients follow LESS (arXiv 2402.04333), which uses Adam's gradients
during a warm-up on the data. Here the adapter is untrained: `lora_A` is random and only `lora_B`
has a gradient, which is therefore a random projection of the full weights' gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.encoding import Encoder
from telltune.models import context_length
from telltune.models.kernels.packing import pack, token_nll
from telltune.models.threads import adapt_threads, shared_cores
from telltune.training.adapter import add_lora, borrowing
from telltune.training.progress import bar
from telltune.valuation.embeddings import embed
from telltune.valuation.gradient_sketch import GradientSketch, gradient_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.models import LoadedModel
    from telltune.recipe import LoraSpec

__all__ = ["embeddings_of", "gradients_of", "nearest_first", "spread_first"]

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

    Each example takes one forward and one backward pass.

    Args:
        base: Base model; a temporary adapter is added and removed.
        examples: Examples, truncated to the model's context.
        lora: LoRA configuration of the adapter.
        seed: Seed of the adapter's initialization and of the sketch.
        progress: Show a progress bar.
    """
    limit = context_length(base.model.config)
    encoded = Encoder(base.tokenizer, max_length=limit, too_long="truncate").encode(examples)
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

    Args:
        candidates: Unit vectors of the candidates, (candidates, width).
        task: Unit vectors of the task's examples, (task examples, width).
    """
    return np.argsort(-(candidates @ task.mean(0)), kind="stable")


def spread_first(candidates: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return candidate indices in farthest-first order, (candidates,).

    Farthest-first traversal (Gonzalez, 1985): the first k indices cover all candidates within twice
    the smallest radius that any k candidates can achieve.

    Args:
        candidates: Unit vectors, (candidates, width). The traversal starts at the first.
    """
    order = np.zeros(len(candidates), np.int64)
    nearest = np.full(len(candidates), -np.inf)
    for i in range(1, len(candidates)):
        nearest = np.maximum(nearest, candidates @ candidates[order[i - 1]])
        nearest[order[i - 1]] = np.inf
        order[i] = int(nearest.argmin())
    return order
