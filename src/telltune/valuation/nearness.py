"""Which general examples are near to the task, or lie far apart from one another.

Nearness is the mean cosine to the task's examples, of sentence embeddings, or of the gradients that
an example gives to a fresh adapter (after LESS, arXiv 2402.04333, which takes the gradients of Adam
along a warm-up on the data; here the adapter is as it starts: one half is random and the other has
the gradient, so that it is a random projection of the weights' own).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.encoding import Encoder
from telltune.models import context_length
from telltune.models.packing import pack, token_nll
from telltune.models.threads import adapt_threads, shared_cores
from telltune.training.adapter import add_lora, borrowing
from telltune.training.progress import bar
from telltune.valuation.embeddings import embed
from telltune.valuation.quanta_gradients import GradientSketch, gradient_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.data.examples import Example
    from telltune.models import BaseModel
    from telltune.recipe import LoraSpec

__all__ = ["embeddings_of", "gradients_of", "nearest_first", "spread_first"]

_WIDTH = 2**12
"""Numbers of a sketched gradient: cosines are off by 1/64 at most, as a standard deviation."""


def embeddings_of(examples: Sequence[Example], model: str) -> NDArray[np.float32]:
    """Sentence embeddings of prompt and answer, of length 1, (examples, width)."""
    return embed([f"{example.prompt}\n{example.completion}" for example in examples], model)


def gradients_of(
    base: BaseModel,
    examples: Sequence[Example],
    lora: LoraSpec,
    seed: int,
    *,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Sketched gradients of each example's mean loss, of length 1, (examples, width).

    Args:
        base: Gets an adapter, which is taken off again.
        examples: A forward and a backward pass each; cut to the model's context.
        lora: Of the adapter.
        seed: Of its start, and of the sketch.
        progress: Show a bar.
    """
    limit = context_length(base.model.config)
    encoded = Encoder(base.tokenizer, max_length=limit, too_long="truncate").encode(examples)
    model: Any = add_lora(base, lora, seed)
    with borrowing(model):
        model.eval()
        # The others' gradient is nought as long as these are: nothing to compute, nor to sketch.
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
    """Candidates by their mean cosine to the task's examples, (candidates,).

    Args:
        candidates: Of length 1, (candidates, width).
        task: Likewise, (task examples, width).
    """
    return np.argsort(-(candidates @ task.mean(0)), kind="stable")


def spread_first(candidates: NDArray[np.float32]) -> NDArray[np.int64]:
    """Candidates so that each is the one farthest from all before it, (candidates,).

    Farthest-first traversal (Gonzalez, 1985): every beginning of the list covers all of them
    within twice the least distance that as many could.

    Args:
        candidates: Of length 1, (candidates, width). The first is taken first.
    """
    order = np.zeros(len(candidates), np.int64)
    nearest = np.full(len(candidates), -np.inf)
    for i in range(1, len(candidates)):
        nearest = np.maximum(nearest, candidates @ candidates[order[i - 1]])
        nearest[order[i - 1]] = np.inf
        order[i] = int(nearest.argmin())
    return order
