"""Steps that would ruin a run: found as they happen, and left out when they come again.

Where a loss or a gradient is no number, or a loss explodes, the run goes back to its last
checkpoint and leaves out the examples of that step. arXiv 2403.07648 does so on loss spikes, too.
The limit here, three times the loss of guessing among all tokens (32 nats with 49,152 of them), is
far above an ordinary spike, which is trained through. What is left out stands in the log and in
tell.json.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from telltune.errors import RecipeError, TellError
from telltune.training.log import read_log
from telltune.training.work import step_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from telltune.data.examples import Example
    from telltune.data.mixture import Mixture
    from telltune.training.trainer import MixtureTrainer

__all__ = ["HealthCallback", "LeftOut", "UnhealthyStepError"]

# A run that this many steps are left out of is ill itself.
_MOST = 3
# Whoever guesses among all tokens has a loss of ln(vocabulary). A healthy step is far below; a few
# labels that a model was sure of and that are wrong may come near to it, and are no reason to stop.
_TIMES_GUESSING = 3


class UnhealthyStepError(Exception):
    """Ends training at a step that must not count.

    Attributes:
        step: Its number, from 1.
        reason: What was wrong, for people.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step, self.reason = step, reason


class HealthCallback(TrainerCallback):
    """Looks at what each step measured; before it is logged, and before a checkpoint is written.

    Args:
        vocabulary: Of the model.
    """

    def __init__(self, vocabulary: int) -> None:
        self.limit = _TIMES_GUESSING * math.log(vocabulary)
        """In nats a token."""
        self.trainer: MixtureTrainer | None = None
        """Set once the trainer exists; it holds what each step measured."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Raise where the step is not healthy.

        Raises:
            UnhealthyStepError: It is not.
        """
        if not logs or "loss" not in logs or self.trainer is None:
            return
        for name, value in (("loss", logs["loss"]), ("gradient", logs.get("grad_norm"))):
            if value is not None and not math.isfinite(value):
                raise UnhealthyStepError(state.global_step, f"the {name} is {value}")
        for source in ("task", "general"):
            loss = self.trainer.step_record.get(f"loss_{source}", 0.0)
            if loss > self.limit:
                raise UnhealthyStepError(
                    state.global_step,
                    f"the loss of {source} data is {loss:.1f} nats a token, over {_TIMES_GUESSING} "
                    "times that of guessing",
                )


class LeftOut:
    """The steps that a run leaves out, from those that its log tells of on.

    Args:
        log: The run's training_log.jsonl, which need not exist yet.
        mixture: Which examples each step sees.
        texts: Task and general data before they were encoded, which tell where examples are from.
    """

    def __init__(
        self, log: Path, mixture: Mixture, texts: tuple[Sequence[Example], Iterable[Example] | None]
    ) -> None:
        self.steps: dict[int, dict[str, Any]] = {
            row["step"]: row["skipped"] for row in read_log(log) if "skipped" in row
        }
        """By number, from 1: the reason, and where the step's examples are from."""
        self._mixture = mixture
        self._task, self._general = texts

    def add(self, error: UnhealthyStepError) -> None:
        """Leave one more out, and say so.

        Raises:
            RecipeError: There have been too many.
        """
        examples = self._examples(error.step)
        named = ", ".join(examples)
        if len(self.steps) == _MOST:
            before = "; ".join(
                f"step {step}: {told['reason']}, {', '.join(told['examples'])}"
                for step, told in sorted(self.steps.items())
            )
            raise RecipeError(
                f"training does not stay healthy: at step {error.step} {error.reason}, after "
                f"{_MOST} steps were left out already. Lower training.learning_rate, or look at "
                f"these examples: {named}. Left out before: {before}."
            )
        self.steps[error.step] = {"reason": error.reason, "examples": examples}
        logging.getLogger(__name__).warning(
            "At step %d %s. Training goes back to its last checkpoint and leaves out the examples "
            "of this step: %s.",
            error.step,
            error.reason,
            named,
        )

    def _examples(self, step: int) -> list[str]:
        """Where a step's examples are from: file and line, or a number where nobody can tell."""
        places = step_places(self._mixture, step - 1)
        wanted = {index for is_task, index in places if not is_task}
        general = {}
        # The general data may be gone since they were encoded.
        with suppress(TellError):
            # Read no further than to the last of them.
            seen = islice(enumerate(self._general or ()), max(wanted, default=-1) + 1)
            general = {index: example.origin for index, example in seen if index in wanted}
        origins = [
            (self._task[index].origin if is_task and self._task else general.get(index, ""))
            for is_task, index in places
        ]
        return [
            origin or f"{'task' if is_task else 'general'} example {index}"
            for origin, (is_task, index) in zip(origins, places, strict=True)
        ]
