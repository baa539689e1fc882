"""Auxiliary tasks that a model generates from classification examples (MT-ISA, arXiv 2412.09046).

The published chain for sentiment is aspect, opinion, polarity. For any closed set of labels, this
module uses evidence (the deciding words), reason (a sentence on their meaning) and label. If the
most likely label is wrong, the model is given the true label and tries again, up to ten attempts in
all. The probability p of the true label in the best attempt gives the confidence c = 1/2 + p/2.
Since the prompts contain true labels, the results are for training only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from telltune.clock import clock
from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message
from telltune.errors import DataError
from telltune.inference.labels import closed_set, why_no_labels
from telltune.inference.scoring import label_nll
from telltune.levers.protocol import Yield
from telltune.levers.synthesis import Synthesis, instruction_of
from telltune.models import context_length
from telltune.storage import cache_folder, cached_json, content_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.task import TaskData
    from telltune.inference.writer import Writer

AUXILIARY = ("evidence", "reason")
"""Names of the auxiliary tasks; each is a separate source."""

_ASKS = {
    "evidence": "Which words decide the answer? Quote them.",
    "reason": "In one sentence, what do they say about the answer?",
}
_DECIDES = "So what is the answer?"
_TEMPERATURE = 0.7
_LONGEST = 48
_ATTEMPTS = 10
_VERSION = 3


@dataclass(frozen=True)
class Chain:
    """A model's explanation of one example's label.

    Attributes:
        evidence: Words of the input that decide the label.
        reason: Sentence on what the words mean for the label.
        likelihood: Probability of the true label after both, among all labels.
        attempts: Number of the attempt that produced this chain, 1 to 10.
        agreed: Whether the true label was the most likely one.
    """

    evidence: str
    reason: str
    likelihood: float
    attempts: int
    agreed: bool


@dataclass(frozen=True)
class Auxiliary(Synthesis):
    """The lever `synthesis` with `make: auxiliary`."""

    def describe(self) -> str:
        """Return a clause for `tell plan`."""
        said = f"{self.writer} makes auxiliary tasks from each task example"
        if self.teacher is None:
            return said
        return f"{said} in at most {_ATTEMPTS * len(AUXILIARY)} requests each"

    def _make(
        self,
        task: TaskData,
        writer: Writer,
        *,
        seed: int,
        progress: bool,  # noqa: ARG002 - it has none
    ) -> Yield:
        """Make two auxiliary examples from each labeled one.

        Raises:
            DataError: The answers are not a closed set of labels.
        """
        chains, seconds = refine(writer, task.train, instruction_of(task), seed=seed)
        made = tuple(auxiliary_examples(task.train, chains))
        asked = len(AUXILIARY) * len(chains)
        note = (
            f"{sum(chain.agreed for chain in chains)} of {len(chains)} chains end in the true "
            f"label; the best chain came after {fmean(c.attempts for c in chains):.1f} attempts on "
            "average."
        )
        return Yield(
            self.name,
            made,
            asked,
            {"empty text": asked - len(made)} if asked > len(made) else {},
            (note,),
            seconds,
            self.shots(task),
        )


def refine(
    writer: Writer, examples: Sequence[Example], instruction: str, *, seed: int = 0
) -> tuple[list[Chain], float]:
    """Let a model explain each example's label, with up to ten attempts to reach the true one.

    Every attempt is cached on disk. The instruction is the system message. The teacher, by default
    the base model, writes the explanations at temperature 0.7. The base model, without an adapter,
    gives the likelihood of the labels.

    Returns:
        The best chain of each example: the one with the highest likelihood of the true label. And
        the time of all attempts in seconds, also of cached ones.

    Raises:
        DataError: The answers are not a closed set of labels.
    """
    labels = closed_set(example.completion for example in examples)
    if not labels:
        reason = why_no_labels(example.completion for example in examples)
        raise DataError(
            f"auxiliary tasks need a closed set of labels, but {reason}; use "
            "`synthesis.make: examples`."
        )
    asker = _Asker(writer, examples, labels, instruction, seed)
    chains: list[Chain | None] = [None] * len(examples)
    wrong = list(range(len(examples)))
    told: dict[int, str] = {}
    for attempt in range(_ATTEMPTS):
        for i, chain, guess in asker.attempt(attempt, wrong, told):
            before = chains[i]
            # Later attempts can be worse, so the one with the most likely true label is kept.
            if before is None or chain.likelihood >= before.likelihood:
                chains[i] = chain
            told[i] = guess
        wrong = [i for i in wrong if told[i] != examples[i].answer]
        if not wrong:
            break
    return [chain for chain in chains if chain is not None], asker.seconds


def auxiliary_examples(examples: Sequence[Example], chains: Sequence[Chain]) -> list[Example]:
    """Return an evidence and a reason example per chain; empty texts are skipped."""
    found = []
    for example, chain in zip(examples, chains, strict=True):
        for task in AUXILIARY:
            said: str = getattr(chain, task)
            if said:
                found.append(
                    replace(
                        example,
                        prompt=f"{example.prompt}\n\n{_ASKS[task]}",
                        completion=said,
                        source=f"auxiliary: {task}",
                        confidence=0.5 + 0.5 * chain.likelihood,
                    )
                )
    return found


class _Asker:
    """Runs one attempt for many examples at once."""

    def __init__(
        self,
        writer: Writer,
        examples: Sequence[Example],
        labels: Sequence[str],
        instruction: str,
        seed: int,
    ) -> None:
        self.writer, self.examples = writer, examples
        self.labels = list(map(str.strip, labels))
        self.instruction, self.seed = instruction, seed
        self.seconds = 0.0
        self._encoder = Encoder(writer.base.tokenizer)
        self._label_ids = self._encoder.completions(
            [replace(examples[0], completion=label, reasoning="") for label in labels]
        )
        digest = contents_of(examples).sha256
        self._key = (_VERSION, writer.speaker, digest, instruction, seed)

    def attempt(
        self, number: int, wrong: Sequence[int], told: dict[int, str]
    ) -> list[tuple[int, Chain, str]]:
        """Return the index, the chain and the most likely label of each example in `wrong`.

        `number` counts attempts from 0. `told` has the most likely labels of earlier ones by index.
        """
        shown = [[i, told.get(i)] for i in wrong]
        path = cache_folder("auxiliary") / f"{content_key(*self._key, number, shown)}.json"
        began = clock()
        kept = cached_json(path, partial(self._ask, number, wrong, told))
        self.seconds += clock() - began
        return [(i, Chain(**chain), guess) for i, chain, guess in kept]

    def _ask(
        self, number: int, wrong: Sequence[int], told: dict[int, str]
    ) -> list[tuple[int, dict[str, Any], str]]:
        asked = [self._opening(i, told.get(i)) for i in wrong]
        said: dict[str, list[str]] = {}
        for step, task in enumerate(AUXILIARY):
            said[task] = self._generate(asked, number * len(AUXILIARY) + step)
            following = _ASKS[AUXILIARY[step + 1]] if step + 1 < len(AUXILIARY) else _DECIDES
            asked = [
                replace(
                    example,
                    prompt=following,
                    history=(
                        *example.history,
                        Message("user", example.prompt),
                        Message("assistant", text or "-"),
                    ),
                )
                for example, text in zip(asked, said[task], strict=True)
            ]
        nll = label_nll(self.writer.base.model, self._fitting(asked), self._label_ids)
        likely = (-nll).softmax(dim=1)
        found = []
        for row, i in enumerate(wrong):
            true = self.labels.index(self.examples[i].answer)
            guess = int(likely[row].argmax())
            chain = Chain(
                said["evidence"][row],
                said["reason"][row],
                likelihood=round(float(likely[row, true]), 6),
                attempts=number + 1,
                agreed=guess == true,
            )
            found.append((i, asdict(chain), self.labels[guess]))
        return found

    def _opening(self, i: int, guess: str | None) -> Example:
        example = self.examples[i]
        hint = ""
        if guess is not None:
            hint = f"\n\nThe answer is {example.answer}, not {guess}. Look again."
        return Example(
            f"{example.prompt}{hint}\n\n{_ASKS[AUXILIARY[0]]}",
            "",
            history=(Message("system", self.instruction),),
        )

    def _generate(self, asked: Sequence[Example], draw: int) -> list[str]:
        texts = self.writer.write(
            asked,
            self._fitting(asked),
            max_tokens=_LONGEST,
            temperature=_TEMPERATURE,
            seed=self.seed * 1_000_000 + draw,
        )
        return [" ".join(text.split()) for text in texts]

    def _fitting(self, asked: Sequence[Example]) -> list[list[int]]:
        """Return the prompts' token ids; the start of a prompt too long for the context is cut."""
        room = context_length(self.writer.base.model.config) - _LONGEST
        return [prompt[-room:] for prompt in self._encoder.prompts(asked)]
