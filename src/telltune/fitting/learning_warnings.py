"""Warnings before a run that is too short to learn, and after a run that did not learn."""

from __future__ import annotations

import math
from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING, Any

from telltune.data.thinking import without_thinking
from telltune.inference.labels import closed_set

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.fitting.run_plan import RunPlan

_FEW_STEPS = 20
_ENOUGH_STEPS = 40
# A run that learned only the set of labels is as good as guessing by frequency. The factor allows
# for rounding, dropout and variation between batches.
_WORSE_THAN_GUESSING = 1.2
# If answers are not labels: ratio of final to first loss above which hardly anything was learned.
_HARDLY_MOVED = 0.9


def warnings_before(run_plan: RunPlan) -> list[str]:
    """Return a warning if a run has too few optimizer steps to learn a task."""
    counts = run_plan.counts
    if counts.optimizer_steps >= _FEW_STEPS:
        return []
    passes = math.ceil(counts.passes * _ENOUGH_STEPS / counts.optimizer_steps)
    few = (
        f"{counts.optimizer_steps} optimizer steps are too few to learn most tasks; "
        f"`--set mixture.passes={passes}` gives about {_ENOUGH_STEPS}, and so does a smaller "
        "training.batch_size."
    )
    return [few]


def guessing_loss(answers: Sequence[str], response_tokens: float) -> float | None:
    """Return the loss per token in nats of a model that guesses labels by their frequency.

    This is the entropy of the labels divided by the mean number of response tokens, end of turn
    included. None if the answers are not labels alone, without thinking.
    """
    if not closed_set(answers) or any(without_thinking(text) != text for text in answers):
        return None
    shares = [count / len(answers) for count in Counter(answers).values()]
    return -sum(share * math.log(share) for share in shares) / response_tokens


def warnings_after(
    run_plan: RunPlan,
    examples: Sequence[Example],
    log: Sequence[dict[str, Any]],
    *,
    with_classifier: bool = False,
) -> list[str]:
    """Return a warning if the task loss in the training log shows that a run did not learn.

    With `with_classifier`, a classifier chooses the labels together with the adapter.
    """
    losses = [row["loss_task"] for row in log if "loss_task" in row]
    if not losses:
        return []
    last = losses[-max(1, len(losses) // 5) :]
    first, final = losses[0], fmean(last)
    guessing = guessing_loss(
        [example.completion for example in examples], float(run_plan.task.response_lengths.mean())
    )
    # With a single label the guessing loss is 0, so the loss is compared with its first value.
    missed = "the labels were not learned"
    if with_classifier:
        missed = "the adapter did not learn the labels, so the classifier alone decides the answers"
    if guessing and final > _WORSE_THAN_GUESSING * guessing:
        found = (
            f"the task loss ended at {final:.2f} nats per token, but guessing the labels by their "
            f"frequency gives {guessing:.2f}: {missed}"
        )
    elif not guessing and final > _HARDLY_MOVED * first:
        found = (
            f"the task loss only went from {first:.2f} to {final:.2f} nats per token: hardly "
            "anything was learned"
        )
    else:
        return []
    return [f"{found}; {_help(run_plan)}."]


def _help(run_plan: RunPlan) -> str:
    """Return the settings that would let the run learn more."""
    given = [
        key
        for key in ("training.learning_rate", "mixture.passes", "training.batch_size")
        if key not in run_plan.settings
    ]
    if given:
        return "try " + " ".join(f"--set {key}=auto" for key in given)
    return f"try --set mixture.passes={2 * run_plan.counts.passes}"
