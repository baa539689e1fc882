"""RCL: train to reason before answering (TRACE, arXiv 2310.06762)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from telltune.data.encoding import Encoder
from telltune.errors import DataError
from telltune.fitting.selection import examples_in_budget
from telltune.fitting.trained_method import TrainedMethod
from telltune.inference.labels import closed_set, labels_of, why_no_labels
from telltune.inference.writer import Writer
from telltune.levers.auxiliary import refine
from telltune.levers.synthesis import instruction_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.data.task import TaskData
    from telltune.fitting.predictor import Predictor
    from telltune.fitting.protocol import Settings
    from telltune.models import LoadedModel
    from telltune.recipe import Recipe

_ANSWER = "Answer:"


@dataclass(frozen=True)
class Reasoned(TrainedMethod):
    """Trains on completions with a rationale before the answer."""

    def run(
        self, task: TaskData, general: GeneralData | None, base: LoadedModel, settings: Settings
    ) -> Predictor:
        """Train on completions with rationales; the predictor returns only the answers.

        Raises:
            DataError: The data have no rationales, and the answers are not a closed set, so
                rationales from the model cannot be checked.
        """
        given = examples_in_budget(task, base, settings.recipe)
        task, recipe = with_reasons(task, base, settings.recipe)
        settings = replace(settings, recipe=recipe, run_plan=None)
        found = super().run(task, general, base, settings)
        tokens = int(Encoder(base.tokenizer).encode(given).lengths.sum())
        return replace(
            found,
            labels=labels_of(task, given),
            # Only labeled tokens count; rationales in the data do not.
            cost=replace(found.cost, task_tokens=tokens),
        )


def with_reasons(task: TaskData, base: LoadedModel, recipe: Recipe) -> tuple[TaskData, Recipe]:
    """Return a task whose completions have a rationale before the answer, and the recipe for it.

    Examples within the recipe's budget of tokens are used. Rationales come from the data. If no
    example has one, the model writes them and they are checked against the true answer. A rationale
    that leads to another answer is dropped, and the completion is then the answer alone.

    Raises:
        DataError: The data have no rationales, and the model's cannot be checked.
    """
    examples = examples_in_budget(task, base, recipe)
    if not can_reason(examples):
        reason = why_no_labels(example.completion for example in examples)
        raise DataError(
            "method `rcl` needs rationales, or a closed set of labels to check the model's own, "
            f"but {reason}; name a column in columns.rationale, or use method: sft_anchor."
        )
    reasons = [example.rationale for example in examples]
    if not any(reasons):
        chains, _ = refine(Writer(base), examples, instruction_of(task), seed=recipe.seed)
        reasons = [f"{chain.evidence} {chain.reason}" if chain.agreed else "" for chain in chains]
    if lacking := sum(not reason for reason in reasons):
        logging.getLogger(__name__).warning(
            "Method `rcl`: %d of %d examples have no rationale%s, so they are learned from their "
            "answers alone.",
            lacking,
            len(examples),
            "" if any(e.rationale for e in examples) else " from which the true answer follows",
        )
    train = tuple(
        replace(e, completion=f"{reason.strip()}\n{_ANSWER} {e.completion}".lstrip())
        for e, reason in zip(examples, reasons, strict=True)
    )
    recipe = recipe.changed(task={"max_tokens": None})
    return replace(task, train=train, answer_after=_ANSWER), recipe


def can_reason(examples: Sequence[Example]) -> bool:
    """Return whether there are rationales, or labels to check the model's own rationales."""
    return any(e.rationale for e in examples) or bool(closed_set(e.completion for e in examples))


RCL = Reasoned("rcl", "reason, then answer (RCL)", anchored=True, uses_general=False)
