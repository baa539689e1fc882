"""Early stopping: evaluate on dev data during a run, keep the best weights, stop in time."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from telltune.storage import write_json
from telltune.training.adapter import trained_parameters
from telltune.training.checkpoints import Checkpoints, copied
from telltune.training.hf_trainer import TrainerCallback

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from telltune.data.contents import Contents
    from telltune.training.callbacks import Stopwatch

PATIENCE = 3
"""Number of consecutive looks without improvement after which the run stops."""
_STATE, _WEIGHTS = "early_stopping.json", "best.safetensors"


@dataclass(frozen=True)
class DevLook:
    """The result of one look at dev data.

    Attributes:
        step: Number of optimizer steps so far.
        loss: Mean over dev examples of the loss per response token, in nats.
        score: Score of the answers, higher is better; None if they are not scored.
    """

    step: int
    loss: float
    score: float | None

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key of looks: the score, then the loss."""
        return (self.score or 0.0, -self.loss)


class EarlyStopping(TrainerCallback):
    """Evaluate on dev data, keep the best weights, and stop a run that no longer improves.

    `looks` evaluations are spread evenly over the run. `look` is a function from the model to the
    loss and score of a `DevLook`. `data` has the hash of the dev examples.
    """

    def __init__(
        self, looks: int, look: Callable[[Any], tuple[float, float | None]], data: Contents
    ) -> None:
        self._count, self._look, self.data = looks, look, data
        self.looks: list[DevLook] = []
        self.measured: dict[str, Any] = {}
        """Measurements of the latest step, which receive the results of looks for the log."""
        self.watch: Stopwatch | None = None
        """Stopwatch of the run, which excludes the time of looks."""
        self._weights: dict[str, torch.Tensor] = {}

    @property
    def best(self) -> DevLook:
        """Best look; the earliest of equal ones."""
        return max(self.looks, key=lambda look: look.rank)

    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:  # noqa: ARG002
        """Take a look if one is due, and stop after `PATIENCE` looks without improvement."""
        step = state.global_step
        if step * self._count // state.max_steps == (step - 1) * self._count // state.max_steps:
            return
        model = found["model"]
        look = DevLook(step, *self._look(model))
        self.looks.append(look)
        if self.best is look:
            self._weights = copied(trained_parameters(model))
        control.should_training_stop |= self.ended
        told = {"dev_loss": look.loss, "dev_score": look.score}
        self.measured |= {name: value for name, value in told.items() if value is not None}
        if self.watch is not None:
            self.watch.resume()

    @property
    def ended(self) -> bool:
        """Whether the run ended for lack of improvement."""
        return bool(self.looks) and (len(self.looks) - 1 - self.looks.index(self.best) >= PATIENCE)

    def restore(self, model: Any) -> None:
        """Copy the weights of the best look into a model."""
        for name, weight in trained_parameters(model).items():
            weight.data.copy_(self._weights[name])

    def save(self, checkpoints: Checkpoints, folder: Path) -> None:
        """Save the looks and the best weights in the folder of a checkpoint."""
        write_json(folder / _STATE, {"looks": [asdict(look) for look in self.looks]})
        if self._weights:
            checkpoints.later(partial(save_file, self._weights, folder / _WEIGHTS))

    def load(self, folder: Path | None) -> None:
        """Restore the state from a checkpoint, or reset it if `folder` is None."""
        self.looks, self._weights = [], {}
        if folder is None:
            return
        kept = json.loads((folder / _STATE).read_text(encoding="utf-8"))["looks"]
        self.looks = [DevLook(**look) for look in kept]
        if self.looks:
            self._weights = load_file(folder / _WEIGHTS)

    def to_dict(self) -> dict[str, Any]:
        """Return the kept step and all looks, for tell.json."""
        return {"kept_step": self.best.step, "looks": [asdict(look) for look in self.looks]}
