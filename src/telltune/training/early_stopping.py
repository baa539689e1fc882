"""Looking at dev data along a run: keep the best weights, and stop when nothing improves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from telltune.storage import write_json
from telltune.training.checkpoints import copied

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from telltune.training.callbacks import Stopwatch
    from telltune.training.checkpoints import Checkpoints
    from telltune.training.trainer import MixtureTrainer

__all__ = ["DevLook", "EarlyStopping"]

PATIENCE = 3
"""Looks without a better one after which the run stops."""
_STATE, _WEIGHTS = "early_stopping.json", "best.safetensors"


@dataclass(frozen=True)
class DevLook:
    """The result of one look at dev data.

    Attributes:
        step: Optimizer steps done.
        loss: Mean over the dev examples of the loss per response token, in nats.
        score: Score of the answers, higher is better; None where they are not scored.
    """

    step: int
    loss: float
    score: float | None

    @property
    def rank(self) -> tuple[float, float]:
        """Key by which looks are compared: the score, and between equal scores the loss."""
        return (self.score or 0.0, -self.loss)


class EarlyStopping(TrainerCallback):
    """Looks at dev data, remembers the best weights, and stops a run that no longer improves.

    Args:
        looks: Number of looks, evenly along the run.
        look: Takes the model, and returns the loss and the score of a `DevLook`.
    """

    def __init__(self, looks: int, look: Callable[[Any], tuple[float, float | None]]) -> None:
        self._count, self._look = looks, look
        self.looks: list[DevLook] = []
        self.trainer: MixtureTrainer | None = None
        """Set once the trainer exists; its log gets what a look finds."""
        self.watch: Stopwatch | None = None
        """Set together with `trainer`; it does not count the time of a look."""
        self._weights: dict[str, torch.Tensor] = {}

    @property
    def best(self) -> DevLook:
        """The best look, the earliest of equal ones."""
        return max(self.looks, key=lambda look: look.rank)

    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:  # noqa: ARG002
        """Look, if it is time, and stop after `PATIENCE` looks without a better one."""
        if self._is_enough():
            # A run that was killed between its last look and its end.
            control.should_training_stop = True
            return
        step = state.global_step
        if step * self._count // state.max_steps == (step - 1) * self._count // state.max_steps:
            return
        model = found["model"]
        look = DevLook(step, *self._look(model))
        self.looks.append(look)
        if self.best is look:
            self._weights = copied(_trained(model))
        control.should_training_stop |= self._is_enough()
        if self.trainer is not None:
            told = {"dev_loss": look.loss, "dev_score": look.score}
            self.trainer.step_record |= {k: v for k, v in told.items() if v is not None}
        if self.watch is not None:
            self.watch.resume()

    def _is_enough(self) -> bool:
        return bool(self.looks) and (len(self.looks) - 1 - self.looks.index(self.best) >= PATIENCE)

    def restore(self, model: Any) -> None:
        """Give a model the weights of the best look."""
        for name, values in _trained(model).items():
            values.copy_(self._weights[name])

    def save(self, checkpoints: Checkpoints, folder: Path) -> None:
        """Put what is known so far beside the rest of a checkpoint."""
        write_json(folder / _STATE, {"looks": [asdict(look) for look in self.looks]})
        if self._weights:
            checkpoints.later(partial(save_file, self._weights, folder / _WEIGHTS))

    def load(self, folder: Path | None) -> None:
        """Continue from a checkpoint, or from nothing."""
        self.looks, self._weights = [], {}
        if folder is None:
            return
        kept = json.loads((folder / _STATE).read_text(encoding="utf-8"))["looks"]
        self.looks = [DevLook(**look) for look in kept]
        if self.looks:
            self._weights = load_file(folder / _WEIGHTS)

    def to_dict(self) -> dict[str, Any]:
        """For tell.json: the step whose weights were kept, and every look."""
        return {"kept_step": self.best.step, "looks": [asdict(look) for look in self.looks]}


def _trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
