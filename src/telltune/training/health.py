"""Detection of unhealthy optimizer steps, which are skipped when training is resumed.

If a loss or gradient is not finite, or the loss spikes, the run returns to its last checkpoint and
skips the examples of that step, as in arXiv 2403.07648. A spike raises the losses of most tokens,
unlike a wrong label or a hard text. Therefore the median loss of the step's response tokens is
compared with those of the recent steps of the same run, by source. Until enough steps are known,
and in any case, the limit is three times the loss of uniform guessing among all tokens. Skipped
steps are recorded in the log and in tell.json.
"""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from telltune.errors import RecipeError, TellError
from telltune.training.log import read_log
from telltune.training.step_flops import step_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from telltune.data.examples import Example
    from telltune.data.mixture import Mixture

__all__ = ["SOURCES", "HealthCallback", "LeftOut", "UnhealthyStepError"]

SOURCES = ("general", "task")
"""Sources of examples, in the order of `Step.is_task`."""

# Maximum number of skipped steps. With more, the run itself is unhealthy.
_MOST = 3
# Uniform guessing among all tokens has a loss of ln(vocabulary). A healthy step is far below. A few
# wrong labels on which the model is confident may come close to it, which is no reason to stop.
_TIMES_GUESSING = 3
# A median loss is a spike if it is above this quantile of the recent ones by more than the margin, and
# more than double. Early in a run and in hard texts, losses vary in proportion to their size.
_RECENT = 32
_LEAST_KNOWN = 8
_QUANTILE = 0.9
_MARGIN = 1.5
"""Nats per token."""
_TIMES_RECENT = 2


class UnhealthyStepError(Exception):
    """Raised at an unhealthy step to end training.

    Attributes:
        step: Step number, from 1.
        reason: Description of the problem, for users.
    """

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"step {step}: {reason}")
        self.step, self.reason = step, reason


class HealthCallback(TrainerCallback):
    """Check the measurements of each step before they are logged and a checkpoint is written.

    Args:
        vocabulary: Vocabulary size of the model.
        measured: Measurements of the latest step, from the trainer.
    """

    def __init__(self, vocabulary: int, measured: Mapping[str, Any]) -> None:
        self.limit = _TIMES_GUESSING * math.log(vocabulary)
        """Maximum loss in nats per token."""
        self._measured = measured

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        """Check the loss and the gradient of the step.

        Raises:
            UnhealthyStepError: If the step is unhealthy.
        """
        if not logs or "loss" not in logs:
            return
        for name, value in (("loss", logs["loss"]), ("gradient", logs.get("grad_norm"))):
            if value is not None and not math.isfinite(value):
                raise UnhealthyStepError(state.global_step, f"the {name} is {value}")
        for source in SOURCES:
            loss = self._measured.get(f"loss_{source}", 0.0)
            if loss > self.limit:
                raise UnhealthyStepError(
                    state.global_step,
                    f"the loss of {source} data is {loss:.1f} nats per token, more than "
                    f"{_TIMES_GUESSING} times that of uniform guessing",
                )
        # The history is part of checkpoints, so a resumed run compares with the same steps.
        spike = spike_of(self._measured, state.log_history[:-1])
        if spike:
            raise UnhealthyStepError(state.global_step, spike)


def spike_of(measured: Mapping[str, float], history: Sequence[Mapping[str, float]]) -> str:
    """Describe the loss spike of a step, or return "" if there is none.

    The step spikes if the median losses of all its sources that are known well enough spike.

    Args:
        measured: Measurements of the step, with `median_task` and `median_general` in nats per
            token, or one of them.
        history: Measurements of the steps before it, in order.
    """
    found = []
    for source in SOURCES:
        name = f"median_{source}"
        if name not in measured:
            continue
        known = (row[name] for row in reversed(history) if name in row)
        recent = list(islice(known, _RECENT))
        if len(recent) < _LEAST_KNOWN:
            continue
        usual = float(np.quantile(recent, _QUANTILE))
        if measured[name] <= max(usual + _MARGIN, usual * _TIMES_RECENT):
            return ""
        found.append(
            f"the median loss of {source} tokens is {measured[name]:.1f} nats, but at most "
            f"{usual:.1f} in nine of ten recent steps"
        )
    return " and ".join(found)


class LeftOut:
    """Skipped steps of a run, starting with those in its log.

    Args:
        log: Path of the run's training_log.jsonl, which need not exist yet.
        mixture: Mixture, which defines the examples of each step.
        texts: Task and general data before encoding, which have the origins of examples.
    """

    def __init__(
        self, log: Path, mixture: Mixture, texts: tuple[Sequence[Example], Iterable[Example] | None]
    ) -> None:
        self.steps: dict[int, dict[str, Any]] = {
            row["step"]: row["skipped"] for row in read_log(log) if "skipped" in row
        }
        """Reason and origins of the examples of each skipped step, by step number from 1."""
        self._mixture = mixture
        self._task, self._general = texts

    def add(self, error: UnhealthyStepError) -> None:
        """Skip another step, and log a warning.

        Raises:
            RecipeError: If too many steps were skipped.
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
                f"{_MOST} steps were already skipped. Lower training.learning_rate, or check these "
                f"examples: {named}. Skipped before: {before}."
            )
        self.steps[error.step] = {"reason": error.reason, "examples": examples}
        logging.getLogger(__name__).warning(
            "At step %d %s. Training resumes from the last checkpoint and skips the examples of "
            "this step: %s.",
            error.step,
            error.reason,
            named,
        )

    def _examples(self, step: int) -> list[str]:
        """Return the origins of a step's examples: file and line, or an index if unknown."""
        places = step_places(self._mixture, step - 1)
        wanted = {index for is_task, index in places if not is_task}
        general = {}
        # The general data may have been removed since they were encoded.
        with suppress(TellError):
            # Read only up to the last wanted example.
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
