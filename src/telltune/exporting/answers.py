"""How the answers of an exported model differ from those of its adapter in telltune."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from telltune.data.task import load_split
from telltune.errors import TellError
from telltune.fitting.adapter_folder import answering_recipe, load_predictor, read_tell

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from telltune.data.examples import Example
    from telltune.data.files import Split

_ASKED = 20


@dataclass(frozen=True)
class SameAnswers:
    """Answers of two models to the same prompts.

    Attributes:
        asked: Number of prompts; 0 if the task data cannot be read here.
        equal: Number of prompts that both answer alike.
        difference: First difference, in a sentence; "" if there is none.
    """

    asked: int
    equal: int
    difference: str = ""


def compare_answers(adapter: Path, model: Path, *, trust_model: bool = False) -> SameAnswers:
    """Ask an adapter and a model made of it the same prompts of the task.

    Both generate text. A classifier beside the adapter has no say, because the model has none.
    """
    examples = _examples(read_tell(adapter))
    if not examples:
        return SameAnswers(0, 0)
    before = _answers(adapter, examples, trust_model=trust_model)
    after = _answers(model, examples, trust_model=trust_model)
    pairs = list(zip(examples, before, after, strict=True))
    differing = [pair for pair in pairs if pair[1] != pair[2]]
    told = ""
    if differing:
        example, old, new = differing[0]
        told = f"{example.origin}: the adapter answers {old!r}, the exported model {new!r}."
    return SameAnswers(len(pairs), len(pairs) - len(differing), told)


def lost_answers(record: dict[str, Any]) -> list[str]:
    """Return how the answers of the export differ from those of telltune."""
    if (merged := record.get("merged")) is not None:
        return list(merged["lost"])
    found = []
    classifier = record.get("classifier") or {}
    if "answers" in classifier:
        found.append(
            "telltune combines the adapter with a small classifier, which the export lacks; it "
            "answers as the adapter alone."
        )
    elif classifier or record["recipe"]["evaluation"]["answers"] == "likelihood":
        found.append("telltune picks the most likely label; other programs generate text.")
    quantization = record["recipe"]["model"]["quantization"]
    if quantization:
        found.append(
            f"The adapter was trained on a base quantized to {quantization}; the export uses the "
            "base's own precision, so answers can differ."
        )
    return found


def lost_prompts(record: dict[str, Any]) -> list[str]:
    """Return what telltune does around a prompt that a chat template cannot do."""
    found = []
    if record.get("shots"):
        found.append(
            f"telltune puts {len(record['shots'])} example turns (`shots` in tell.json) before "
            "each prompt; include them in the messages."
        )
    if record.get("answer_after"):
        found.append(f"The answer is the text after the last {record['answer_after']!r}.")
    if record.get("over_prompt"):
        found.append(
            "The adapter answers numbered inputs, several in one prompt; only `tell predict` and "
            "`tell evaluate` number them."
        )
    return found


def _examples(record: dict[str, Any]) -> Sequence[Example]:
    """Return some examples of the task, those that were not trained on first."""
    recipe = answering_recipe(record)
    splits: tuple[Split, ...] = ("dev", "test", "train")
    for split in splits:
        try:
            return load_split(recipe, split)[:_ASKED]
        except TellError:  # The recipe has no such split, or its files are on another machine.
            continue
    return ()


def _answers(folder: Path, examples: Sequence[Example], *, trust_model: bool) -> list[str]:
    predictor = load_predictor(folder, trust_model=trust_model)
    writes = predictor.evaluation.model_copy(update={"answers": "generate"})
    return replace(predictor, evaluation=writes, classifier=None, in_process=True).predict(examples)
