"""Losses of single held-out tokens at several moments of a training: how each is learned."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from telltune.models.attention import packed_attention
from telltune.models.packing import can_pack, pack, token_nll

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from telltune.data.encoded import EncodedSet

__all__ = ["LossCurves", "LossRecorder", "token_losses"]


@dataclass(frozen=True)
class LossCurves:
    """How the losses of tokens went during a training.

    Attributes:
        steps: Optimizer steps done, ascending from 0, (m,).
        losses: Of each token after each of them, in nats, (m, tokens).
    """

    steps: NDArray[np.int64]
    losses: NDArray[np.float64]


def token_losses(model: Any, encoded: EncodedSet, *, budget: int = 2048) -> NDArray[np.float64]:
    """The loss of every response token of a set, in order, in nats, (tokens,).

    Args:
        model: A causal language model; it computes without dropout here.
        encoded: The examples.
        budget: Tokens computed at once.
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
    # A row holds an example's tokens in their order, but examples as they fitted best.
    order = torch.cat(owners).argsort(stable=True)
    found: NDArray[np.float64] = torch.cat(losses)[order].numpy()
    return found


class LossRecorder(TrainerCallback):
    """Writes the losses of held-out tokens at even distances, the start and the end included.

    One JSON line a moment. A resumed run first drops the lines that come after its checkpoint:
    their steps are done again.

    Args:
        path: The file; its folder exists when training begins.
        encoded: The held-out examples.
        moments: How many, besides the start; a shorter run has one a step.
    """

    def __init__(self, path: Path, encoded: EncodedSet, moments: int) -> None:
        self.path = path
        self.encoded = encoded
        self.moments = moments
        self._steps: set[int] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:  # noqa: ARG002
        """Choose the moments, cut the file where the run stands, and record the start."""
        even = np.linspace(0, state.max_steps, self.moments + 1)
        self._steps = {int(step) for step in even.round()}
        kept = [row for row in self._rows() if row["step"] <= state.global_step]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        self.path.write_text(lines, encoding="utf-8")
        if not kept:
            self._record(0, found["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:  # noqa: ARG002
        """Record, if this is a moment."""
        if state.global_step in self._steps:
            self._record(state.global_step, found["model"])

    def curves(self) -> LossCurves:
        """What was recorded."""
        rows = self._rows()
        return LossCurves(
            np.array([row["step"] for row in rows]), np.array([row["losses"] for row in rows])
        )

    def _record(self, step: int, model: Any) -> None:
        losses = [round(loss, 5) for loss in token_losses(model, self.encoded).tolist()]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "losses": losses}) + "\n")

    def _rows(self) -> list[dict[str, Any]]:
        """All that was recorded; a line cut short by a kill is not there."""
        rows = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return rows
