"""How much an optimizer step computes: the unit in which a run's time is forecast.

Measured on SmolLM2-135M and two Zen 3 cores, a second does the same FLOP (within a tenth) whether
a step holds 16 short task examples or as many long general ones, which no count of tokens gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from telltune.data.encoded import EncodedSet
    from telltune.data.mixture import Mixture
    from telltune.models import ModelShape
    from telltune.recipe import TrainingSpec

__all__ = ["Work", "flop", "sampled_steps", "step_places", "step_work"]


class Work(NamedTuple):
    """What an optimizer step computes."""

    rows: int
    """Of examples, each row computed at once."""
    tokens: int
    """Of its examples."""
    computed: int
    """Of its rows: a prefix that a row's examples share counts once."""
    responses: int
    """Tokens with logits."""
    pairs: int
    """Of tokens in one example, before a causal mask."""
    row_tokens: int
    """Of the longest row."""
    row_responses: int
    """Of the row with the most."""


def sampled_steps(
    mixture: Mixture, epochs: int, count: int
) -> list[tuple[int, list[tuple[bool, int]]]]:
    """Optimizer steps spread evenly over a run; all of them where there are no more than `count`.

    Returns:
        Each step's number, from 0, and its examples: is it task data, and the index.
    """
    total = mixture.batches_per_epoch * epochs
    chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()
    return [(step, step_places(mixture, step)) for step in chosen]


def step_places(mixture: Mixture, step: int) -> list[tuple[bool, int]]:
    """The examples of an optimizer step, from 0: is it task data, and the index."""
    epoch, place = divmod(step, mixture.batches_per_epoch)
    start = place * mixture.batch_size
    return mixture.slots(epoch, start, min(start + mixture.batch_size, len(mixture))).pairs


def step_work(
    step: Iterable[tuple[bool, int]],
    task: EncodedSet,
    general: EncodedSet | None,
    budget: int,
    *,
    packed: bool = True,
    own_prompts: bool = False,
) -> Work:
    """What training computes for a step's examples.

    Args:
        step: Of each example: is it task data, and the index.
        task: Encoded task data.
        general: Encoded general data; None where no step asks for any.
        budget: Tokens in a row.
        packed: Whether examples share rows.
        own_prompts: Whether each task example's prompt is scaled by a confidence of its own, so
            that task examples share no prefix.
    """
    from telltune.models.packing import pack

    sources, examples = [], []
    for is_task, index in step:
        source = task if is_task else general
        assert source is not None  # the mixture has no general slots without general data
        sources.append((is_task, index if own_prompts and is_task else 0))
        examples.append(source[index])
    rows = pack(examples, budget, sources=sources, together=packed)
    lengths = [len(ids) for ids, _ in examples]
    computed = [row.tokens for row in rows]
    responses = [row.targets.numel() for row in rows]
    return Work(
        rows=len(rows),
        tokens=sum(lengths),
        computed=sum(computed),
        responses=sum(responses),
        pairs=sum(length**2 for length in lengths),
        row_tokens=max(computed),
        row_responses=max(responses),
    )


def flop(work: Work, model: ModelShape, spec: TrainingSpec) -> float:
    """FLOP of forward and backward.

    A product costs 2 FLOP a weight and token in each direction: forward, backward to activations,
    and, where every weight is trained, backward to weights. Logits exist at response tokens only.
    """
    directions = 3 if spec.full_parameters else 2
    again = 1 if spec.gradient_checkpointing else 0
    layers = 2.0 * model.layer_weights * work.computed * (directions + again)
    logits = 2.0 * model.vocabulary * model.hidden * work.responses * directions
    # Causal attention sees half of the pairs, in two products; its backward has five.
    attention = 2.0 * model.layers * model.hidden * work.pairs * (3.5 + again)
    return float(layers + logits + attention)
