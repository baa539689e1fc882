"""RCL: train to reason first and answer then (TRACE, arXiv 2310.06762)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from telltune.data.encoding import Encoder
from telltune.errors import DataError
from telltune.inference.labels import closed_set
from telltune.methods.selection import usable
from telltune.methods.trained import Trained
from telltune.synthesis.auxiliary import refine
from telltune.synthesis.self_guide import instruction_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.data.task import GeneralData, TaskData
    from telltune.methods.protocol import Predictor, Settings
    from telltune.models import BaseModel
    from telltune.recipe import Recipe

__all__ = ["RCL", "can_reason", "with_reasons"]

_ANSWER = "Answer:"


@dataclass(frozen=True)
class Reasoned(Trained):
    """Trains on completions with a rationale before the answer."""

    def run(
        self, task: TaskData, general: GeneralData | None, base: BaseModel, settings: Settings
    ) -> Predictor:
        """Find rationales, train on them, and give the answers alone.

        Raises:
            DataError: The data have no rationales, and the answers are no closed set for which the
                model could write some.
        """
        given = usable(task, base, settings.recipe)
        task, recipe = with_reasons(task, base, settings.recipe)
        settings = replace(settings, recipe=recipe, prepared=None)
        found = super().run(task, general, base, settings)
        tokens = int(Encoder(base.tokenizer).encode(given).lengths.sum())
        return replace(
            found,
            labels=closed_set(example.completion for example in given),
            # What somebody had to label; a rationale of the data's own is not counted.
            cost=replace(found.cost, task_tokens=tokens),
        )


def with_reasons(task: TaskData, base: BaseModel, recipe: Recipe) -> tuple[TaskData, Recipe]:
    """A task whose completions reason first.

    Rationales are those of the data. Where no example has one the model writes them, and they are
    checked against the true answer: one from which another answer follows is left out, so that the
    example has its answer alone.

    Args:
        task: Its examples within the recipe's budget of tokens are used.
        base: Writes rationales, without an adapter.
        recipe: The run's.

    Returns:
        The task, and the recipe that uses all of it.

    Raises:
        DataError: There are no rationales, and none can be checked.
    """
    examples = usable(task, base, recipe)
    if not can_reason(examples):
        raise DataError(
            "rcl trains to reason first, and these examples have no rationale, nor is there a "
            "closed set of labels (at most 100, each twice on average) by which the model's own "
            "could be checked; name a column in columns.rationale, or use method: sft_anchor."
        )
    reasons = [example.rationale for example in examples]
    if not any(reasons):
        instruction = instruction_of(task.anchor.prompt if task.anchor else None)
        chains = refine(base, examples, instruction, seed=recipe.seed)
        reasons = [f"{chain.evidence} {chain.reason}" if chain.agreed else "" for chain in chains]
    train = tuple(
        replace(e, completion=f"{reason.strip()}\n{_ANSWER} {e.completion}".lstrip())
        for e, reason in zip(examples, reasons, strict=True)
    )
    spec = recipe.task.model_copy(update={"max_tokens": None})
    recipe = recipe.model_copy(update={"task": spec})
    return replace(task, train=train, answer_after=_ANSWER), recipe


def can_reason(examples: Sequence[Example]) -> bool:
    """Whether examples have rationales, or labels by which the model's own can be checked."""
    return any(e.rationale for e in examples) or bool(closed_set(e.completion for e in examples))


RCL = Reasoned("rcl", "reason, then answer (RCL)", anchored=True, mixes=False)
