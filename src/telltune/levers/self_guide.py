"""SELF-GUIDE: a model generates its own task data from a few demonstrations (arXiv 2407.12874).

The model writes new inputs from the instruction and the demonstrations' inputs. With a closed set
of labels, each input is requested for a given label; otherwise the prompt also shows some of the
model's earlier inputs. Inputs that are empty, boilerplate, length outliers or duplicates are
discarded. Each remaining input is answered several times after the demonstrations, and the most
frequent answer is kept if enough samples agree on it. Labels are balanced: inputs are requested
for the rarest labels, and surplus examples of frequent labels are discarded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from telltune.clock import clock
from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message, as_turns
from telltune.errors import DataError
from telltune.inference.labels import closed_set
from telltune.levers.filters import TextFilter, agreed, balanced
from telltune.levers.protocol import Yield
from telltune.levers.synthesis import Synthesis, instruction_of
from telltune.models import context_length
from telltune.storage import cache_folder, cached_json, content_key
from telltune.training.progress import bar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from telltune.data.task import TaskData
    from telltune.inference.writer import Writer
    from telltune.recipe import SynthesisSpec

SOURCE = "synthetic"
_AT_ONCE = 32
"""Number of inputs requested per round."""
_SHOWN = (4, 4)
"""Maximum numbers of demonstrations and of the model's earlier inputs in a request."""
_ANSWERING_TEMPERATURE = 0.2
_VERSION = 4


@dataclass(frozen=True)
class SelfGuide(Synthesis):
    """The lever `synthesis` with `make: examples`."""

    def describe(self) -> str:
        """Return a clause for `tell plan`."""
        said = f"{self.writer} makes up to {self.spec.examples} task examples"
        if self.teacher is None:
            return said
        requests = self.spec.rounds * _AT_ONCE * (1 + self.spec.samples)
        return f"{said} in at most {requests:,} requests"

    def _make(self, task: TaskData, writer: Writer, *, seed: int, progress: bool) -> Yield:
        """Generate examples like the labeled ones.

        The confidence of an example is the share of samples that agree on its answer. Every round
        is cached on disk, so an interrupted call resumes at the round where it stopped.

        Raises:
            DataError: There are fewer than two labeled examples, or no example is kept; the message
                then has the counts by reason.
        """
        spec, demonstrations = self.spec, task.train
        if len(demonstrations) < 2:
            raise DataError(
                f"SELF-GUIDE needs at least two demonstrations, but there are "
                f"{len(demonstrations)}; add more."
            )
        rounds_of = _Rounds(writer, demonstrations, instruction_of(task), spec, seed)
        inputs = TextFilter([e.prompt for e in demonstrations])
        answers = TextFilter([e.completion for e in demonstrations], distinct=False)
        kept: list[Example] = []
        even: list[Example] = []
        refused: Counter[str] = Counter()
        rounds = asked = 0
        with bar(shown=progress) as shown:
            counter = shown.add_task("examples", total=spec.examples)
            while rounds < spec.rounds and len(even) < spec.examples:
                fresh = []
                for text in rounds_of.inputs(rounds, kept):
                    asked += 1
                    if reason := inputs.reason(text):
                        refused[f"input: {reason}"] += 1
                    else:
                        fresh.append((f"{SOURCE}:{asked}", text))
                sampled = rounds_of.answers(rounds, [text for _, text in fresh]) if fresh else []
                rounds += 1
                for (origin, text), samples in zip(fresh, sampled, strict=True):
                    answer, share, reason = agreed(
                        samples, rounds_of.labels, spec.consistency, answers
                    )
                    if reason:
                        refused[f"answer: {reason}"] += 1
                    else:
                        kept.append(Example(text, answer, SOURCE, origin, confidence=share))
                even = balanced(kept, rounds_of.labels)
                shown.update(counter, completed=min(len(even), spec.examples))
        # `balanced` draws evenly from the labels; the first `spec.examples` need not be balanced.
        found = tuple(balanced(kept, rounds_of.labels, spec.examples))
        refused["label too frequent"] = len(kept) - len(even)
        refused["more than asked for"] = len(even) - len(found)
        got = Yield(
            self.name,
            found,
            asked,
            {reason: count for reason, count in refused.most_common() if count},
            (f"Inputs were written in {rounds} rounds.",),
            rounds_of.seconds,
            self.shots(task),
        )
        if not found:
            raise DataError(f"SELF-GUIDE kept no examples: {got}.")
        return got


class _Rounds:
    """Writes inputs and answers, one round at a time.

    `seconds` is the time that it took, also for cached rounds.
    """

    def __init__(
        self,
        writer: Writer,
        demonstrations: Sequence[Example],
        instruction: str,
        spec: SynthesisSpec,
        seed: int,
    ) -> None:
        self.writer, self.demonstrations, self.instruction = writer, demonstrations, instruction
        self.spec, self.seed = spec, seed
        self.seconds = 0.0
        self.labels = closed_set(example.completion for example in demonstrations)
        self._encoder = Encoder(writer.base.tokenizer)
        lengths = self._encoder.encode(demonstrations)
        self._longest_input = int(lengths.prompt_lengths.max() * 1.5) + 8
        self._longest_answer = int(lengths.response_lengths.max() * 1.5) + 8

    def inputs(self, number: int, earlier: Sequence[Example]) -> list[str]:
        """Return the new inputs of a round, given the earlier examples; cached on disk."""
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
        """Return the sampled answers of a round, (inputs, samples); cached on disk."""
        rng = np.random.default_rng([self.seed, number, 1])

        def write() -> list[list[str]]:
            # The order of demonstrations differs between samples, which makes agreement
            # informative. It is the same for all inputs, so that they are computed only once.
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
        whole = (_VERSION, self.writer.speaker, demonstrations, self.instruction, self.seed, *key)
        path = cache_folder("self_guide") / f"{content_key(*whole)}.json"
        began = clock()
        written = cached_json(path, write)
        self.seconds += clock() - began
        return written

    @property
    def _system(self) -> Message:
        return Message("system", self.instruction)

    def _wanted(self, rng: np.random.Generator, earlier: Sequence[Example]) -> list[str | None]:
        """Return the label to request for each input of a round, the rarest labels first."""
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
        """Return a request for an input, with earlier requests and inputs as its history."""
        most, most_own = _SHOWN
        shown = [self.demonstrations[i] for i in rng.permutation(len(self.demonstrations))[:most]]
        turns = [(self._ask(e.answer if self.labels else None), e.prompt) for e in shown]
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
        """Return up to `spec.shots` demonstrations as messages, in random order."""
        order = rng.permutation(len(self.demonstrations))
        return as_turns([self.demonstrations[i] for i in order[: self.spec.shots]])

    def _generate(
        self, requests: Sequence[Example], longest: int, temperature: float, draw: int
    ) -> list[str]:
        room = context_length(self.writer.base.model.config) - longest
        return self.writer.write(
            requests,
            self._fitting(requests, room),
            max_tokens=longest,
            temperature=temperature,
            seed=self.seed * 1_000_000 + draw,
        )

    def _fitting(self, requests: Sequence[Example], room: int) -> list[list[int]]:
        """Return the requests' token ids; one too long for the context loses earlier turns."""
        prompts = self._encoder.prompts(requests)
        # The first message is the system message, which stays.
        long = [i for i, p in enumerate(prompts) if len(p) > room and len(requests[i].history) > 1]
        if long:
            fewer = [
                replace(r, history=r.history[:1] + r.history[3:])
                for r in (requests[i] for i in long)
            ]
            for i, prompt in zip(long, self._fitting(fewer, room), strict=True):
                prompts[i] = prompt
        return [prompt[-room:] for prompt in prompts]
