"""Measures of forgetting: loss on general data, and the task's format outside the task."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.data.choice import general_choice
from telltune.errors import DataError
from telltune.fitting.general_choice import examples_at
from telltune.inference.labels import closed_set

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedTokenizerBase

    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.fitting.predictor import Predictor


@dataclass(frozen=True)
class Forgetting:
    """Behavior of a model outside its task, without the anchor.

    Attributes:
        general_nll: Mean negative log-likelihood per response token of held-out general examples,
            in nats.
        leakage: Share of general prompts answered in the task's format, 0 to 1; None if the task's
            answers have no recognizable format.
    """

    general_nll: float
    leakage: float | None


def held_out_general(general: GeneralData, count: int, used: int, seed: int) -> list[Example]:
    """Return general examples that a mixture of this seed does not reach in its first epoch.

    They are the last examples in the order in which the mixture draws general data.

    Raises:
        DataError: Training leaves fewer than `count` examples.
    """
    available = general.contents.examples
    if used + count > available:
        raise DataError(
            f"general data: {available} examples are too few to train on {used} and hold out "
            f"{count}; add examples, or lower `forgetting.examples`."
        )
    order = general_choice(available, seed)
    return examples_at(general, [int(order[available - 1 - i]) for i in range(count)])


def task_format(completions: Sequence[str]) -> Callable[[str], bool] | None:
    """Return a function that tests whether an answer has the task's format.

    Answers from a closed set of labels are recognized by their text, and JSON answers by their
    keys. The result is None if the completions have no recognizable format.
    """
    labels = {_plain(label) for label in closed_set(completions)}
    if labels:
        return lambda answer: _plain(answer) in labels
    keys = [_json_keys(completion) for completion in completions]
    if keys and all(found is not None for found in keys):
        known = frozenset().union(*(found for found in keys if found is not None))

        def like_the_tasks(answer: str) -> bool:
            found = _json_keys(answer)
            return found is not None and found <= known

        return like_the_tasks
    return None


def measure_forgetting(
    predictor: Predictor,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    prompts: int,
    looks_like_the_task: Callable[[str], bool] | None,
) -> Forgetting:
    """Measure a predictor's model on held-out general examples.

    The template of the tokenizer has no anchor. `looks_like_the_task` is from `task_format`.
    """
    plain = predictor.beside_its_task(tokenizer)
    nll, tokens = plain.nll(examples)
    leakage = None
    if looks_like_the_task is not None and prompts:
        answers = plain.predict(examples[:prompts])
        leakage = sum(map(looks_like_the_task, answers)) / len(answers)
    return Forgetting(float(nll.sum() / tokens.sum()), leakage)


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(" .\"'").casefold()


def _json_keys(text: str) -> frozenset[str] | None:
    """Return the keys of a JSON object or of the objects in a list; None for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    rows = value if isinstance(value, list) else [value]
    if not all(isinstance(row, dict) for row in rows):
        return None
    return frozenset(key for row in rows for key in row)
