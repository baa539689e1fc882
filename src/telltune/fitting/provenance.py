"""Provenance of a run, recorded in tell.json for `tell verify`.

The same recipe and seed on the same machine, with the same versions and threads, give the same
adapter, byte for byte in fp32 on a CPU. On another machine the order of the examples is the same,
but rounding may differ. `computed_with` records what the rounding depends on.
"""

from __future__ import annotations

import hashlib
import platform
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.fingerprint import file_hash
from telltune.errors import ModelError
from telltune.models import base_weights
from telltune.training.speed import training_shape

if TYPE_CHECKING:
    from telltune.data.mixture import Mixture
    from telltune.fitting.run_plan import RunPlan
    from telltune.models import ModelShape
    from telltune.recipe import Recipe

# Keys of `training_shape` that also affect the rounding of sums.
_DECISIVE = ("machine", "instructions", "threads", "torch", "precision")


def provenance(run_plan: RunPlan, shape: ModelShape, recipe: Recipe) -> dict[str, Any]:
    """Return the provenance of a run besides its recipe, data and counts.

    Args:
        run_plan: Run plan.
        shape: Sizes of the model.
        recipe: Recipe of the run.

    Returns:
        `order` (sha256 of the examples of each step), `base_weights` (sha256 per file; empty for a
        hub model, which its commit identifies; None if unknown) and `computed_with`.
    """
    machine = training_shape(shape, recipe)
    try:
        # The hash of a large file takes a while; it is cached as long as the file is unchanged.
        weights = {path.name: file_hash(path) for path in base_weights(recipe.model)}
    except ModelError:
        weights = None  # The weights were removed during training.
    return {
        "order": order_hash(run_plan.mixture, run_plan.epochs),
        "base_weights": weights,
        "computed_with": {
            "system": platform.platform(),
            **{name: machine[name] for name in _DECISIVE},
        },
    }


def order_hash(mixture: Mixture, epochs: int) -> str:
    """Return a sha256 of the examples of each optimizer step, in order."""
    digest = hashlib.sha256()
    for epoch in range(epochs):
        for is_task, index in mixture.batches(epoch):
            digest.update(np.uint64(len(index)).tobytes())
            digest.update(is_task.astype(np.uint8).tobytes())
            digest.update(index.astype("<i8").tobytes())
    return digest.hexdigest()
