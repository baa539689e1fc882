"""Several inputs in one prompt and their answers in one reply (OverPrompt, arXiv 2305.14973).

The task description and the shots then cost tokens once per group. Answers are matched by number: a
reply must contain each number exactly once. If it does not, the group is asked again, then in two
halves, down to single inputs. Training groups examples in the same form.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from telltune.data.examples import Example, prepend_shots
from telltune.data.numbered import ask_group, read_answers, say_answers
from telltune.errors import DataError, RecipeError
from telltune.fitting.predictor import Predictor
from telltune.inference.labels import words
from telltune.models import context_length

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from telltune.data.encoding import Encoder
    from telltune.recipe import OverPromptSpec


_RETRY_TEMPERATURE = 0.5
"""Sampling temperature of a retry; greedy decoding would repeat the same reply."""
_AROUND = 8
"""Maximum number of tokens of an answer's number and punctuation."""


@dataclass
class Usage:
    """Counts of answering.

    Attributes:
        prompts: Number of prompts, including retries and halves.
        input_tokens: Number of prompt tokens.
        output_tokens: Number of reply tokens.
        retried: Number of groups asked again because the numbers did not match.
        halved: Number of groups split in halves because the retry did not match either.
        shrunk: Number of groups split because they did not fit into the model's context.
        unread: Number of single inputs whose reply has no number; the whole reply is the answer.
        truncated: Number of prompts with a single input that lost their start, because the context
            does not hold them and a reply.
    """

    prompts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    retried: int = 0
    halved: int = 0
    shrunk: int = 0
    unread: int = 0
    truncated: int = 0


@dataclass
class GroupPredictor(Predictor):
    """Answers groups of inputs.

    Attributes:
        spec: Group size and answer format.
        usage: Counts of answering so far.
    """

    spec: OverPromptSpec = field(kw_only=True)
    usage: Usage = field(default_factory=Usage, kw_only=True)

    def predict(
        self, examples: Sequence[Example], *, on_done: Callable[[int], None] | None = None
    ) -> list[str]:
        """Answer each example's prompt; see `Predictor.predict`.

        Raises:
            RecipeError: `evaluation.answers` is `likelihood`, which generates no replies; or a
                reply may be as long as the context.
            DataError: An example has earlier turns, a system turn or tools of its own.
        """
        if self.evaluation.answers == "likelihood":
            raise RecipeError(
                "method `over_prompt` needs generated replies; set evaluation.answers: generate."
            )
        check_one_turn(examples)
        examples = self._bare(examples)
        answers = [""] * len(examples)
        order = self._order(examples)
        n = self.spec.inputs
        waiting = [(order[i : i + n], False) for i in range(0, len(order), n)]
        while waiting:
            waiting = self._round(examples, waiting, answers, on_done)
        return answers

    def label_scores(
        self,
        examples: Sequence[Example],  # noqa: ARG002 - as for every predictor
        *,
        on_done: Callable[[int], None] | None = None,  # noqa: ARG002
    ) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Refuse: labels of inputs in a group have no scores of their own.

        Raises:
            RecipeError: Always.
        """
        raise RecipeError(
            "answers to groups of inputs have no label scores; use an adapter that answers one "
            "input at a time."
        )

    @property
    def longest_reply(self) -> int:
        """Maximum number of tokens of the reply to a whole group."""
        return self._room(self.spec.inputs)

    def counts(self) -> dict[str, int]:
        """Return the counts of data, as for every method, and of answering so far."""
        return super().counts() | asdict(self.usage)

    def remarks(self) -> tuple[str, ...]:
        """Return remarks if replies could not be read, or prompts were too long."""
        told = []
        if self.usage.unread:
            told.append(
                f"{self.usage.unread} replies to a single input do not contain its number, so each "
                "whole reply is taken as the answer."
            )
        if self.usage.truncated:
            told.append(
                f"{self.usage.truncated} prompts with a single input lost their start, because the "
                "model's context does not hold them and a reply; lower over_prompt.shots or "
                "evaluation.max_new_tokens."
            )
        return tuple(told)

    def _round(
        self,
        examples: Sequence[Example],
        waiting: list[tuple[list[int], bool]],
        answers: list[str],
        on_done: Callable[[int], None] | None,
    ) -> list[tuple[list[int], bool]]:
        """Ask all waiting groups, new ones first, and return the groups to ask again."""
        again: list[tuple[list[int], bool]] = []
        for retry in (False, True):
            groups = [group for group, asked in waiting if asked == retry]
            fitting, asked = [], []
            for group in groups:
                prompt = self._prompt([examples[i] for i in group])
                if len(group) == 1 or self._fits(prompt, len(group)):
                    fitting.append(group)
                    asked.append(prompt)
                else:
                    self.usage.shrunk += 1
                    again += [(half, False) for half in _halves(group)]
            for group, reply in zip(fitting, self._ask(asked, fitting, retry), strict=True):
                found = read_answers(reply, len(group))
                if found is not None or len(group) == 1:
                    if found is None:
                        self.usage.unread += 1
                        found = [reply]
                    for i, answer in zip(group, found, strict=True):
                        answers[i] = answer
                    if on_done is not None:
                        on_done(len(group))
                elif not retry:
                    self.usage.retried += 1
                    again.append((group, True))
                else:
                    self.usage.halved += 1
                    again += [(half, False) for half in _halves(group)]
        return again

    def _prompt(self, group: Sequence[Example]) -> Example:
        return prepend_shots(self.shots, replace(grouped(group, self.spec), completion=""))

    def _fits(self, prompt: Example, count: int) -> bool:
        """Return whether the context holds a prompt and its reply; that of a teacher is unknown."""
        if self.teacher is not None:
            return True
        [ids] = self._encoder.prompts([prompt])
        return len(ids) + self._room(count) <= context_length(self.model.config)

    def _room(self, count: int) -> int:
        return count * (self.max_new_tokens + _AROUND)

    def _ask(self, asked: list[Example], groups: list[list[int]], retry: bool) -> list[str]:
        if not asked:
            return []
        longest = self._room(max(map(len, groups)))
        temperature = _RETRY_TEMPERATURE if retry else 0.0
        if self.teacher is not None:
            told = self._replies(
                asked, max_tokens=longest, temperature=temperature, seed=self.usage.prompts
            )
            self.usage.prompts += len(told)
            self.usage.input_tokens += sum(reply.input_tokens for reply in told)
            self.usage.output_tokens += sum(reply.output_tokens for reply in told)
            return [self.answer(reply.text).strip() for reply in told]
        context, prompts = context_length(self.model.config), []
        if context <= self._room(1):
            raise RecipeError(
                f"a reply of {self._room(1):,} tokens leaves no room for a prompt in the model's "
                f"context of {context:,}; lower evaluation.max_new_tokens."
            )
        for prompt, group in zip(self._encoder.prompts(asked), groups, strict=True):
            # Only a single input can be too long; it loses its start.
            room = context - self._room(len(group))
            self.usage.truncated += len(prompt) > room
            prompts.append(prompt[-room:])
        with torch.random.fork_rng():
            torch.manual_seed(self.usage.prompts)
            replies = self.generator.generate(
                prompts,
                max_new_tokens=longest,
                stop_ids=self._encoder.stop_ids,
                temperature=temperature,
            )
        self.usage.prompts += len(prompts)
        self.usage.input_tokens += sum(map(len, prompts))
        self.usage.output_tokens += sum(map(len, replies))
        return [text.strip() for text in self._texts(replies)]

    def _order(self, examples: Sequence[Example]) -> list[int]:
        """Return the order of the inputs, whose consecutive members form groups."""
        if self.spec.order == "given":
            return list(range(len(examples)))
        if self.spec.order == "shuffled":
            return [int(i) for i in np.random.default_rng(0).permutation(len(examples))]
        return by_topic([example.prompt for example in examples])


def grouped(group: Sequence[Example], spec: OverPromptSpec) -> Example:
    """Return one example for several: their numbered prompts, and their numbered completions."""
    prompt = ask_group([example.prompt for example in group], spec.answers)
    completion = say_answers([example.completion for example in group], spec.answers)
    return Example(prompt, completion, source=group[0].source, origin=group[0].origin)


def training_groups(
    examples: Sequence[Example], spec: OverPromptSpec, seed: int, encoder: Encoder, longest: int
) -> tuple[Example, ...]:
    """Return examples in groups, as `GroupPredictor` asks.

    Every example appears once in a full group, once in a group of half that size, and so on down to
    single inputs, each time beside others. The predictor halves a group whose reply it cannot read,
    so it needs all these sizes.

    Args:
        examples: Examples of one turn.
        spec: Group size and answer format.
        seed: Seed of the draws.
        encoder: Encoder with the anchor.
        longest: Maximum number of tokens of a group; larger groups are halved.

    Raises:
        DataError: An example has earlier turns, a system turn or tools of its own.
    """
    check_one_turn(examples)
    draws = np.random.default_rng([seed, 5])
    waiting: list[list[int]] = []
    size = min(spec.inputs, len(examples))
    while True:
        order = [int(i) for i in draws.permutation(len(examples))]
        waiting += [order[i : i + size] for i in range(0, len(order), size)]
        if size == 1:
            break
        size = (size + 1) // 2
    made: list[Example] = []
    while waiting:
        asked = [grouped([examples[i] for i in group], spec) for group in waiting]
        long = encoder.encode(asked).lengths > longest
        halves: list[list[int]] = []
        for group, example, is_long in zip(waiting, asked, long, strict=True):
            if is_long and len(group) > 1:
                halves += _halves(group)
            else:
                made.append(example)
        waiting = halves
    return tuple(made)


def by_topic(texts: Sequence[str]) -> list[int]:
    """Return an order in which each text is followed by its nearest remaining text by TF-IDF."""
    if len(texts) < 2:
        return list(range(len(texts)))
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Each text has a word, if only the empty one: texts of signs alone have no others.
    vectors = TfidfVectorizer(sublinear_tf=True, analyzer=lambda text: words(text) or [""])
    vectors = vectors.fit_transform(texts)
    order, left = [0], set(range(1, len(texts)))
    while left:
        near = (vectors @ vectors[order[-1]].T).toarray().ravel()
        order.append(min(left, key=lambda i: (-near[i], i)))
        left.remove(order[-1])
    return order


def check_one_turn(examples: Sequence[Example]) -> None:
    """Check that all examples can share one turn with other inputs.

    Raises:
        DataError: An example has earlier turns, a system turn or tools of its own.
    """
    for example in examples:
        if example.history or example.tools:
            raise DataError(
                f"{example.origin or 'an example'}: method `over_prompt` puts several inputs in "
                "one turn, but this one has earlier turns, a system turn or tools of its own; use "
                "method `few_shot`."
            )


def _halves(group: list[int]) -> tuple[list[int], list[int]]:
    middle = (len(group) + 1) // 2
    return group[:middle], group[middle:]
