"""What a run was made of and made with: what tell.json needs to hold for `tell verify`.

The same recipe and seed on the same machine, with the same versions and threads, give the same
adapter, byte for byte in fp32 on a CPU. On another machine the order of the examples is still the
same, and sums are rounded in another order: `computed_with` says by what.
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
    from telltune.methods.run_plan import RunPlan
    from telltune.models import ModelShape
    from telltune.recipe import Recipe

__all__ = ["order_hash", "provenance"]

# Of what a run's speed depends on, that on which the rounding of its sums depends too.
_DECISIVE = ("machine", "instructions", "threads", "torch", "precision")


def provenance(prepared: RunPlan, shape: ModelShape, recipe: Recipe) -> dict[str, Any]:
    """What tell.json holds of a run besides its recipe, data and counts.

    Args:
        prepared: What it trained on.
        shape: Of its model.
        recipe: The run's.

    Returns:
        `order` (a sha256 of which examples each step saw), `base_weights` (a sha256 a file; empty
        for a hub model, which its commit names; None where nobody can tell) and `computed_with`.
    """
    machine = training_shape(shape, recipe)
    try:
        # Gigabytes take a while once; then the hash is remembered while the file stays what it is.
        weights = {path.name: file_hash(path) for path in base_weights(recipe.model)}
    except ModelError:
        weights = None  # it vanished while it was trained on
    return {
        "order": order_hash(prepared.mixture, prepared.epochs),
        "base_weights": weights,
        "computed_with": {
            "system": platform.platform(),
            **{name: machine[name] for name in _DECISIVE},
        },
    }


def order_hash(mixture: Mixture, epochs: int) -> str:
    """A sha256 of which examples each optimizer step sees, in order."""
    digest = hashlib.sha256()
    for epoch in range(epochs):
        for is_task, index in mixture.batches(epoch):
            digest.update(np.uint64(len(index)).tobytes())
            digest.update(is_task.astype(np.uint8).tobytes())
            digest.update(index.astype("<i8").tobytes())
    return digest.hexdigest()
