"""Training runs that a study shares among cells whose answers alone differ."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from telltune.clock import spare
from telltune.storage import writing
from telltune.training.adapter import set_trained_weights, trainable, trained_weights
from telltune.training.log import LOG
from telltune.training.processes import processes
from telltune.training.run import Trained, run_inputs, train

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from telltune.models import LoadedModel
    from telltune.recipe import Recipe
    from telltune.training.run import TrainingOptions
    from telltune.training.training_data import TrainingData


@dataclass
class SharedTraining:
    """The last training run, whose result the next run takes over if its inputs are the same.

    Attributes:
        runs: Number of runs, including those that were taken over.
        key: Hash of all that determines the last run's weights; None if no other run can have them.
    """

    runs: int = 0
    key: str | None = None
    _weights: Mapping[str, Tensor] = field(default_factory=dict)
    _told: tuple[float, int, bytes] = (0.0, 0, b"")

    def train(
        self, base: LoadedModel, recipe: Recipe, data: TrainingData, options: TrainingOptions
    ) -> Trained:
        """Train as `telltune.training.run.train` does, or take over the last run.

        Weights, log, number of steps and seconds are then those of the last run; see `clock`.
        """
        assert options.out is not None
        self.runs += 1
        log = options.out / LOG
        key = _key(base, recipe, data, options)
        if key is not None and key == self.key:
            model = trainable(base, recipe)
            set_trained_weights(model, self._weights)
            seconds, steps, lines = self._told
            with writing(log):
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_bytes(lines)
            spare(seconds)
            return Trained(model.eval(), seconds, steps)
        self.key = None  # An error must not leave the key of other weights.
        trained = train(base, recipe, data, options)
        if key is not None:
            self._weights = trained_weights(trained.model)
            self._told = trained.seconds, trained.steps, log.read_bytes()
            self.key = key
        return trained


def can_share(recipe: Recipe) -> bool:
    """Return whether weights and log are all that a run leaves, so that another can have them."""
    training = recipe.training
    return not (training.report_to or training.full_parameters or recipe.lora.changes_base)


def _key(
    base: LoadedModel, recipe: Recipe, data: TrainingData, options: TrainingOptions
) -> str | None:
    """Return a hash of all that determines a run's weights and log; None if others do as well."""
    alone = options.stopping is None and not options.callbacks and processes().count == 1
    if not (alone and can_share(recipe)):
        return None
    inputs: dict[str, Any] = {
        **run_inputs(base, data, options),
        **{name: getattr(recipe, name).model_dump_json() for name in ("model", "lora", "training")},
        "seed": recipe.seed,
    }
    if options.confidence is not None:
        values = hashlib.sha256(options.confidence.values.tobytes()).hexdigest()
        inputs["confidence"] = [values, options.confidence.scale]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
