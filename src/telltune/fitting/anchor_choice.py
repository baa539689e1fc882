"""Let the model propose anchors from task examples, and rank them by loss before training.

A good anchor makes task responses more likely even without training. Candidates are therefore
ranked by the untrained base's mean loss per response token. The model may quote the examples that
it is shown, so the ranking uses other examples only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.errors import DataError, RecipeError
from telltune.inference.labels import words
from telltune.inference.scoring import response_nll
from telltune.inference.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.task import TaskData
    from telltune.inference.api_client import ApiClient
    from telltune.models import LoadedModel

# Prompts to the model; candidates differ by wording, examples and sampling.
_REQUESTS = (
    "Below are inputs and the outputs that somebody wrote for them. Write their instruction.",
    "Study these examples of a task. Write one short instruction for answering such inputs.",
    "Here are solved examples. State the rule that leads from input to output, as a command.",
)
_SHOWN = 6
_FEW = 10
"""Number of held-out examples below which a ranking has a warning."""
_LONGEST_PROPOSAL = 80
_TEMPERATURE = 0.8


@dataclass(frozen=True)
class Candidate:
    """An anchor and its loss before training.

    Attributes:
        anchor: The anchor; None for the row without an anchor.
        origin: "recipe", "none", or the proposer: "model" or "teacher".
        loss: Mean negative log-likelihood per response token on held-out examples, in nats.
        tokens: Mean number of tokens that the anchor adds to a prompt.
    """

    anchor: Anchor | None
    origin: str
    loss: float
    tokens: float


@dataclass(frozen=True)
class Ranking:
    """Ranked anchors.

    Attributes:
        candidates: The candidates, best first.
        held_out: Number of task examples used for the ranking. None of these was shown to the model
            for its proposals.
        warnings: Reasons to doubt the ranking, in full sentences.
        notes: Sentences on what the teacher was asked.
    """

    candidates: list[Candidate]
    held_out: int
    warnings: list[str]
    notes: tuple[str, ...] = ()


def propose_anchors(
    base: LoadedModel, task: TaskData, count: int, seed: int, teacher: ApiClient | None = None
) -> list[Anchor]:
    """Ask the base model or a teacher for instructions that fit the task's examples.

    A few training examples are shown at a time, at temperature 0.8, but never those that
    `rank_anchors` uses. There are `count` requests; fewer anchors are returned if the model repeats
    itself.
    """
    encoder = Encoder(base.tokenizer)
    examples, _ = _shown_and_held_out(task)
    requests = []
    for k in range(count):
        start = (k * _SHOWN) % max(len(examples) - _SHOWN, 1)
        shown = "\n\n".join(
            f"Input: {e.prompt}\nOutput: {e.completion}" for e in examples[start : start + _SHOWN]
        )
        requests.append(Example(f"{_REQUESTS[k % len(_REQUESTS)]}\n\n{shown}", ""))
    texts = Writer(base, teacher).write(
        requests,
        encoder.prompts(requests),
        max_tokens=_LONGEST_PROPOSAL,
        temperature=_TEMPERATURE,
        seed=seed,
    )
    place = task.anchor.place if task.anchor else "user"
    cleaned = dict.fromkeys(_cleaned(text) for text in texts)
    return [Anchor(text, place=place) for text in cleaned if len(words(text)) >= 3]


def rank_anchors(
    base: LoadedModel,
    task: TaskData,
    proposals: Sequence[Anchor],
    limit: int = 100,
    proposer: str = "model",
) -> Ranking:
    """Rank the recipe's anchor, no anchor, and the proposals, best first.

    Up to `limit` dev examples are scored, or the second half of the training examples if there are
    none. Examples whose prompt was shown to the model are skipped. `proposer` is the origin of the
    proposals.

    Raises:
        DataError: There are too few examples to hold any out.
    """
    _, held_out = _shown_and_held_out(task)
    held_out = held_out[:limit]
    candidates: list[tuple[str, Anchor | None]] = [("none", None)]
    if task.anchor is not None:
        candidates.append(("recipe", task.anchor))
    candidates += [(proposer, proposal) for proposal in proposals]
    plain = Encoder(base.tokenizer).encode(held_out)
    ranked = []
    for origin, anchor in candidates:
        try:
            encoded = Encoder(anchored_tokenizer(base.tokenizer, anchor)).encode(held_out)
        except RecipeError:
            continue  # An anchor must not contain a control token, and this proposal quotes one.
        loss = response_nll(base.model, encoded).sum() / encoded.response_lengths.sum()
        added = (encoded.prompt_lengths - plain.prompt_lengths).mean()
        ranked.append(Candidate(anchor, origin, float(loss), float(added)))
    ranked.sort(key=lambda candidate: candidate.loss)
    warnings = []
    if len(held_out) < _FEW:
        warnings.append(
            f"The anchors are ranked on only {len(held_out)} held-out task examples, so their "
            "order may be due to chance; add examples to task.dev or task.train."
        )
    return Ranking(ranked, len(held_out), warnings)


def _shown_and_held_out(task: TaskData) -> tuple[Sequence[Example], Sequence[Example]]:
    """Return training examples to show to the model for its proposals, and others for ranking.

    Raises:
        DataError: No example is left for ranking.
    """
    half = len(task.train) // 2
    shown, held_out = (task.train, task.dev) if task.dev else (task.train[:half], task.train[half:])
    asked = {(example.history, example.prompt) for example in shown}
    held_out = tuple(e for e in held_out if (e.history, e.prompt) not in asked)
    if not shown or not held_out:
        raise DataError(
            "anchors are ranked on task examples that the model was not shown, and none of "
            f"{len(task.train)} training and {len(task.dev)} dev examples is left; give two "
            "examples with different prompts, or other examples in task.dev."
        )
    return shown, held_out


def _cleaned(text: str) -> str:
    """Return the first paragraph of an answer without a heading label and quotes."""
    first = text.strip().split("\n\n")[0]
    for label in ("Instruction:", "Rule:", "Command:", "Task:"):
        first = first.removeprefix(label)
    return " ".join(first.strip().strip("\"'").split())
