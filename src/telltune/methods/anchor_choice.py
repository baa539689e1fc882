"""Let the model write anchors from the task's own examples, and choose by loss before training.

A good anchor already makes held-out task responses likelier, so candidates are ranked by the mean
loss a token that the untrained base gives to responses they introduce.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.errors import DataError, RecipeError
from telltune.inference.engine import make_generator
from telltune.inference.scoring import response_nll

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.task import TaskData
    from telltune.models import BaseModel

__all__ = ["Candidate", "propose_anchors", "rank_anchors"]

# How the question to the model is worded; candidates differ by wording, examples and sampling.
_REQUESTS = (
    "Below are inputs and the outputs that somebody wrote for them. Write their instruction.",
    "Study these examples of a task. Write one short instruction for answering such inputs.",
    "Here are solved examples. State the rule that leads from input to output, as a command.",
)
_SHOWN = 6
_LONGEST_PROPOSAL = 80


@dataclass(frozen=True)
class Candidate:
    """One anchor and how well it fits before any training.

    Attributes:
        anchor: None is the row without an anchor.
        origin: "recipe", "model" or "none".
        loss: Mean negative log-likelihood a response token on held-out examples, in nats.
        tokens: How many tokens the anchor adds to each prompt.
    """

    anchor: Anchor | None
    origin: str
    loss: float
    tokens: float


def propose_anchors(base: BaseModel, task: TaskData, count: int, seed: int) -> list[Anchor]:
    """Ask the base model for instructions that fit the task's examples.

    Args:
        base: Writes them, at temperature 0.8.
        task: Its training examples are shown, a few at a time.
        count: How many to ask for; fewer come back where the model repeats itself.
        seed: Of the sampling.
    """
    import torch

    torch.manual_seed(seed)
    encoder = Encoder(base.tokenizer)
    requests = []
    for k in range(count):
        start = (k * _SHOWN) % max(len(task.train) - _SHOWN, 1)
        shown = "\n\n".join(
            f"Input: {e.prompt}\nOutput: {e.completion}" for e in task.train[start : start + _SHOWN]
        )
        requests.append(Example(f"{_REQUESTS[k % len(_REQUESTS)]}\n\n{shown}", ""))
    generator = make_generator(base.model, int(base.tokenizer.pad_token_id or 0))
    answers = generator.generate(
        encoder.prompts(requests),
        max_new_tokens=_LONGEST_PROPOSAL,
        stop_ids=encoder.stop_ids,
        temperature=0.8,
    )
    texts = base.tokenizer.batch_decode(answers, skip_special_tokens=True)
    place = task.anchor.place if task.anchor else "user"
    cleaned = dict.fromkeys(_cleaned(text) for text in texts)
    return [Anchor(text, place=place) for text in cleaned if len(text.split()) >= 3]


def rank_anchors(
    base: BaseModel, task: TaskData, proposals: Sequence[Anchor], limit: int = 100
) -> list[Candidate]:
    """Score the recipe's own anchor, none at all, and the proposals; the best first.

    Args:
        base: The untrained model.
        task: Scored on its dev examples, or on the second half of its training examples.
        proposals: From `propose_anchors`.
        limit: At most so many held-out examples.

    Raises:
        DataError: Too few examples to hold any out.
    """
    held_out = (task.dev or task.train[len(task.train) // 2 :])[:limit]
    if len(task.train) < 2:
        raise DataError("an anchor needs two task examples or more: one to show, one to hold out.")
    candidates: list[tuple[str, Anchor | None]] = [("none", None)]
    if task.anchor is not None:
        candidates.append(("recipe", task.anchor))
    candidates += [("model", proposal) for proposal in proposals]
    plain = Encoder(base.tokenizer).encode(held_out)
    ranked = []
    for origin, anchor in candidates:
        try:
            encoded = Encoder(anchored_tokenizer(base.tokenizer, anchor)).encode(held_out)
        except RecipeError:
            continue  # a proposal that quotes a control token cannot be an anchor
        loss = response_nll(base.model, encoded).sum() / encoded.response_lengths.sum()
        added = (encoded.prompt_lengths - plain.prompt_lengths).mean()
        ranked.append(Candidate(anchor, origin, float(loss), float(added)))
    return sorted(ranked, key=lambda candidate: candidate.loss)


def _cleaned(text: str) -> str:
    """The first paragraph of an answer, without the label or quotes that models put around it."""
    first = text.strip().split("\n\n")[0]
    for label in ("Instruction:", "Rule:", "Command:", "Task:"):
        first = first.removeprefix(label)
    return " ".join(first.strip().strip("\"'").split())
