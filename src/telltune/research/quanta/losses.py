"""Losses of single held-out tokens at several moments of a training run."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.models.kernels.attention import packed_attention
from telltune.models.kernels.packing import can_pack, pack, token_nll
from telltune.storage import jsonl_lines
from telltune.training.hf_trainer import TrainerCallback

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from telltune.data.encoded import EncodedSet


@dataclass(frozen=True)
class LossCurves:
    """Losses of tokens in the course of a training run.

    Attributes:
        steps: Numbers of completed optimizer steps, ascending from 0, (m,).
        losses: Loss of each token after these steps, in nats, (m, tokens).
    """

    steps: NDArray[np.int64]
    losses: NDArray[np.float64]


def token_losses(model: Any, encoded: EncodedSet, *, budget: int = 2048) -> NDArray[np.float64]:
    """Return the loss of every response token of a set, in order, in nats, (tokens,).

    Args:
        model: A causal language model, evaluated without dropout.
        encoded: Encoded examples.
        budget: Number of tokens computed at once.
    """
    was_training = model.training
    model.eval()
    together = can_pack(model)
    owners, losses = [], []
    with torch.inference_mode(), packed_attention(model) if together else nullcontext():
        for batch in pack([encoded[i] for i in range(len(encoded))], budget, together=together):
            owners.append(batch.rows)
            losses.append(token_nll(model, batch).double().cpu())
    model.train(was_training)
    # Packing reorders the examples but keeps the token order within each, so a stable sort works.
    order = torch.cat(owners).argsort(stable=True)
    found: NDArray[np.float64] = torch.cat(losses)[order].numpy()
    return found


class LossRecorder(TrainerCallback):
    """Callback that records held-out token losses at evenly spaced steps, start and end included.

    Each moment is one JSON line. A resumed run first drops the lines of steps after its checkpoint,
    because these steps are repeated.

    Args:
        path: Output file; its folder must exist when training begins.
        encoded: Encoded held-out examples.
        moments: Number of moments besides the start; a run with fewer steps records every step.
    """

    def __init__(self, path: Path, encoded: EncodedSet, moments: int) -> None:
        self.path = path
        self.encoded = encoded
        self.moments = moments
        self._steps: set[int] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:  # noqa: ARG002
        """Choose the moments, truncate the file to the current step, and record the start."""
        even = np.linspace(0, state.max_steps, self.moments + 1)
        self._steps = {int(step) for step in even.round()}
        kept = [row for row in self._rows() if row["step"] <= state.global_step]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        self.path.write_text(lines, encoding="utf-8")
        if not kept:
            self._record(0, found["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:  # noqa: ARG002
        """Record the losses if this step is a moment."""
        if state.global_step in self._steps:
            self._record(state.global_step, found["model"])

    def curves(self) -> LossCurves:
        """Return the recorded losses."""
        rows = self._rows()
        return LossCurves(
            np.array([row["step"] for row in rows]), np.array([row["losses"] for row in rows])
        )

    def _record(self, step: int, model: Any) -> None:
        losses = [round(loss, 5) for loss in token_losses(model, self.encoded).tolist()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "losses": losses}) + "\n")

    def _rows(self) -> list[dict[str, Any]]:
        """Return all recorded rows up to the first incomplete line, as left by a killed run."""
        rows = []
        if self.path.exists():
            for line in jsonl_lines(self.path):
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break
        return rows
