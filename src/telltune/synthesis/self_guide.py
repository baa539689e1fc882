"""SELF-GUIDE: a model writes its own task data from a few demonstrations (arXiv 2407.12874).

It writes new inputs, from the instruction, the demonstrations' inputs and some of its own earlier
ones (of a closed set of answers: for a label); what is empty, long, short, chatter
or a copy is left out. Each input is then answered several times behind the demonstrations, and the
answer that most samples agree on is kept if enough do. Labels are balanced: inputs are asked for
those that came least, and what there is too many of is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message, as_turns
from telltune.errors import DataError
from telltune.inference.labels import closed_set
from telltune.inference.texts import sample_texts
from telltune.models import context_length
from telltune.storage import cache_folder, read_cached_json, write_json
from telltune.synthesis.agreement import agreed, balanced
from telltune.synthesis.filters import TextFilter
from telltune.training.progress import bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.models import BaseModel
    from telltune.recipe import SynthesisSpec

__all__ = ["Synthetic", "Yield", "instruction_of", "synthesize"]

SOURCE = "synthetic"
_AT_ONCE = 32
"""Inputs asked for in a round."""
_SHOWN = (4, 4)
"""Demonstrations, and earlier inputs of the model's own, that a request shows at most."""
_ANSWERING_TEMPERATURE = 0.2
_VERSION = 2


@dataclass
class Yield:
    """What became of all that was written.

    Attributes:
        rounds: Of writing inputs.
        inputs: Written.
        refused_inputs: By reason.
        answered: Inputs that were kept and answered.
        refused_answers: By reason: `inconsistent`, no label (`label`), or as for inputs.
        unbalanced: Left out because their label came too often.
        surplus: Left out because enough examples had been made.
        kept: Examples in the end.
    """

    rounds: int = 0
    inputs: int = 0
    refused_inputs: dict[str, int] = field(default_factory=dict)
    answered: int = 0
    refused_answers: dict[str, int] = field(default_factory=dict)
    unbalanced: int = 0
    surplus: int = 0
    kept: int = 0

    def __str__(self) -> str:
        refused = Counter(self.refused_inputs) + Counter(self.refused_answers)
        reasons = ", ".join(f"{count} {reason}" for reason, count in refused.most_common())
        share = self.kept / self.inputs if self.inputs else 0.0
        return (
            f"{self.kept} examples of {self.inputs} inputs in {self.rounds} rounds ({share:.0%}); "
            f"left out: {reasons or 'none'}; {self.unbalanced} for balance, "
            f"{self.surplus} more than were asked for"
        )


@dataclass(frozen=True)
class Synthetic:
    """What a model made.

    Attributes:
        examples: Each with the share of samples that agreed on its answer as its confidence.
        told: What became of the rest.
    """

    examples: tuple[Example, ...]
    told: Yield


def synthesize(
    base: BaseModel,
    demonstrations: Sequence[Example],
    instruction: str,
    spec: SynthesisSpec,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Synthetic:
    """Make examples like the demonstrations.

    Every round is kept on disk: what was cut short goes on with the round where it was.

    Args:
        base: Writes inputs and answers, without an adapter.
        demonstrations: Of the task; two or more.
        instruction: What is to be done with an input.
        spec: How many, and how.
        seed: Of all that is drawn.
        progress: Show a bar.

    Raises:
        DataError: Too few demonstrations, or nothing is left; says by which filter.
    """
    if len(demonstrations) < 2:
        raise DataError(
            f"SELF-GUIDE learns from demonstrations what an input looks like, and there are "
            f"{len(demonstrations)}; give two or more."
        )
    writer = _Writer(base, demonstrations, instruction, spec, seed)
    told = Yield()
    inputs = TextFilter([e.prompt for e in demonstrations])
    answers = TextFilter([e.completion for e in demonstrations], distinct=False)
    kept: list[Example] = []
    even: list[Example] = []
    refused_inputs: Counter[str] = Counter()
    refused_answers: Counter[str] = Counter()
    with bar(shown=progress) as shown:
        counter = shown.add_task("examples", total=spec.examples)
        while told.rounds < spec.rounds and len(even) < spec.examples:
            fresh = []
            for text in writer.inputs(told.rounds, kept):
                told.inputs += 1
                reason = inputs.reason(text)
                if reason:
                    refused_inputs[reason] += 1
                else:
                    fresh.append((f"{SOURCE}:{told.inputs}", text))
            told.answered += len(fresh)
            sampled = writer.answers(told.rounds, [text for _, text in fresh]) if fresh else []
            told.rounds += 1
            for (origin, text), samples in zip(fresh, sampled, strict=True):
                answer, share, reason = agreed(samples, writer.labels, spec.consistency, answers)
                if reason:
                    refused_answers[reason] += 1
                else:
                    kept.append(Example(text, answer, SOURCE, origin, confidence=share))
            even = balanced(kept, writer.labels)
            shown.update(counter, completed=min(len(even), spec.examples))
    told.unbalanced = len(kept) - len(even)
    told.refused_inputs, told.refused_answers = dict(refused_inputs), dict(refused_answers)
    # Evenly over the labels: the first so many need not be balanced.
    found = tuple(balanced(kept, writer.labels, spec.examples))
    told.surplus, told.kept = len(even) - len(found), len(found)
    if not found:
        raise DataError(f"SELF-GUIDE kept nothing: {told}.")
    return Synthetic(found, told)


def instruction_of(anchor_prompt: str | None) -> str:
    """What is to be done with an input: the anchor says it, where there is one."""
    return anchor_prompt or "Answer as in the examples."


class _Writer:
    """Writes inputs and answers, a round at a time."""

    def __init__(
        self,
        base: BaseModel,
        demonstrations: Sequence[Example],
        instruction: str,
        spec: SynthesisSpec,
        seed: int,
    ) -> None:
        self.base, self.demonstrations, self.instruction = base, demonstrations, instruction
        self.spec, self.seed = spec, seed
        self.labels = closed_set(example.completion for example in demonstrations)
        self._encoder = Encoder(base.tokenizer)
        lengths = self._encoder.encode(demonstrations)
        self._longest_input = int(lengths.prompt_lengths.max() * 1.5) + 8
        self._longest_answer = int(lengths.response_lengths.max() * 1.5) + 8

    def inputs(self, number: int, earlier: Sequence[Example]) -> list[str]:
        """Those of a round, after what there is already; kept on disk."""
        rng = np.random.default_rng([self.seed, number])

        def write() -> list[str]:
            labels = self._wanted(rng, earlier)
            requests = [self._request(rng, earlier, label) for label in labels]
            return self._generate(requests, self._longest_input, self.spec.temperature, number)

        before = [(example.prompt, example.completion) for example in earlier]
        key = ("inputs", number, self.spec.temperature, before)
        written: list[str] = self._remembered(key, write)
        return written

    def answers(self, number: int, inputs: Sequence[str]) -> list[list[str]]:
        """The samples for each input of a round, (inputs, samples); kept on disk."""
        rng = np.random.default_rng([self.seed, number, 1])

        def write() -> list[list[str]]:
            # Demonstrations stand in another order for each sample, so that agreement means
            # something; and for all inputs in the same, so that they are computed once.
            samples = []
            for sample in range(self.spec.samples):
                history = (self._system, *self._shots(rng))
                asked = [Example(text, "", history=history) for text in inputs]
                draw = number * self.spec.samples + sample
                samples.append(
                    self._generate(asked, self._longest_answer, _ANSWERING_TEMPERATURE, draw)
                )
            return [list(answers) for answers in zip(*samples, strict=True)]

        key = ("answers", number, self.spec.samples, self.spec.shots, list(inputs))
        written: list[list[str]] = self._remembered(key, write)
        return written

    def _remembered(self, key: tuple[Any, ...], write: Callable[[], Any]) -> Any:
        demonstrations = contents_of(self.demonstrations).sha256
        whole = (_VERSION, self.base.speaker, demonstrations, self.instruction, self.seed, *key)
        digest = hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:32]
        path = cache_folder("self_guide") / f"{digest}.json"
        kept = read_cached_json(path)
        if kept is None:
            kept = write()
            write_json(path, kept)
        return kept

    @property
    def _system(self) -> Message:
        return Message("system", self.instruction)

    def _wanted(self, rng: np.random.Generator, earlier: Sequence[Example]) -> list[str | None]:
        """For which label each input of a round is to be: those first that came least."""
        if not self.labels:
            return [None] * _AT_ONCE
        came = Counter(example.completion for example in earlier)
        wanted: list[str | None] = []
        for _ in range(_AT_ONCE):
            least = min(came[label] for label in self.labels)
            label = str(rng.choice([name for name in self.labels if came[name] == least]))
            came[label] += 1
            wanted.append(label)
        return wanted

    def _request(
        self, rng: np.random.Generator, earlier: Sequence[Example], label: str | None
    ) -> Example:
        """Ask for an input, as turns in which inputs have been written before."""
        most, most_own = _SHOWN
        shown = [self.demonstrations[i] for i in rng.permutation(len(self.demonstrations))[:most]]
        turns = [(self._ask(e.completion if self.labels else None), e.prompt) for e in shown]
        if earlier and label is None:
            own = rng.permutation(len(earlier))[: int(rng.integers(0, most_own + 1))]
            turns = [(self._ask(None), earlier[i].prompt) for i in own] + turns
        history = [self._system]
        for ask, text in turns:
            history += [Message("user", ask), Message("assistant", text)]
        return Example(self._ask(label), "", history=tuple(history))

    def _ask(self, label: str | None) -> str:
        if label is None:
            return "Write one more input for this task, different from those before."
        return f"Write one more input for this task, whose answer is: {label}"

    def _shots(self, rng: np.random.Generator) -> tuple[Message, ...]:
        """Demonstrations, in an order of their own."""
        order = rng.permutation(len(self.demonstrations))
        return as_turns([self.demonstrations[i] for i in order[: self.spec.shots]])

    def _generate(
        self, requests: Sequence[Example], longest: int, temperature: float, draw: int
    ) -> list[str]:
        return sample_texts(
            self.base,
            self._fitting(requests, context_length(self.base.model.config) - longest),
            max_new_tokens=longest,
            temperature=temperature,
            seed=self.seed * 1_000_000 + draw,
        )

    def _fitting(self, requests: Sequence[Example], room: int) -> list[list[int]]:
        """Token ids of each request; one that the context cannot hold shows one turn less."""
        prompts = self._encoder.prompts(requests)
        # The first turn is the system's.
        long = [i for i, p in enumerate(prompts) if len(p) > room and len(requests[i].history) > 1]
        if long:
            fewer = [
                replace(r, history=r.history[:1] + r.history[3:])
                for r in (requests[i] for i in long)
            ]
            for i, prompt in zip(long, self._fitting(fewer, room), strict=True):
                prompts[i] = prompt
        return [prompt[-room:] for prompt in prompts]
