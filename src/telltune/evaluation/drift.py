"""Measures of forgetting out of distribution: on prompts and prose that are in no training data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import yaml

from telltune.data.encoded import EncodedSet
from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.inference.scoring import response_nll

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from transformers import PreTrainedTokenizerBase

    from telltune.fitting.predictor import Predictor

_LONGEST = 64
"""Maximum number of tokens in an answer to an everyday prompt."""


@dataclass(frozen=True)
class Drift:
    """How far a model has moved from its base outside of all training data.

    Attributes:
        drift: Mean negative log-likelihood per token of the base's own greedy answers to everyday
            prompts, minus that under the base, in nats.
        prose_nll: Mean negative log-likelihood per token of prose without a chat template, in nats.
        everyday_words: Mean number of words in the model's own answers to everyday prompts, of
            which each has at most 64 tokens.
        everyday_leakage: Share of these answers in the task's format, 0 to 1; None if the task's
            answers have no recognizable format.
    """

    drift: float
    prose_nll: float
    everyday_words: float
    everyday_leakage: float | None


@dataclass(frozen=True)
class OwnAnswers:
    """A base's own greedy answers to everyday prompts.

    Attributes:
        prompts: The prompts.
        texts: The answers.
        encoded: Token ids of the prompts, with the answers as responses.
        nll: Mean negative log-likelihood of the answers under the base, in nats per token.
        prose_nll: That of the prose.
    """

    prompts: tuple[Example, ...]
    texts: tuple[str, ...]
    encoded: EncodedSet
    nll: float
    prose_nll: float

    @classmethod
    def of(cls, base: Predictor, tokenizer: PreTrainedTokenizerBase, count: int) -> OwnAnswers:
        """Let the base answer the first `count` everyday prompts."""
        plain = base.beside_its_task(tokenizer)
        prompts = tuple(Example(prompt, "") for prompt in _texts()["prompts"][:count])
        asked = plain.prompt_ids(prompts)
        answers = plain.generator.generate(asked, max_new_tokens=_LONGEST, stop_ids=plain.stop_ids)
        # An answer of full length was cut short.
        end = Encoder(tokenizer).end_ids
        said = [answer if len(answer) == _LONGEST else answer + end for answer in answers]
        encoded = EncodedSet.of(asked, said)
        return cls(
            prompts,
            tuple(plain.final_texts(answers)),
            encoded,
            _mean_nll(plain.model, encoded),
            _mean_nll(plain.model, _prose(tokenizer)),
        )

    def drift(self, looks_like_the_task: Callable[[str], bool] | None) -> Drift:
        """Return the measures of the base itself, as `measure_drift` would."""
        return _drift(0.0, self.prose_nll, self.texts, looks_like_the_task)


def measure_drift(
    predictor: Predictor,
    tokenizer: PreTrainedTokenizerBase,
    own: OwnAnswers,
    looks_like_the_task: Callable[[str], bool] | None,
) -> Drift:
    """Measure how far a predictor's model has moved from the base that gave `own`.

    The template of the tokenizer has no anchor. `looks_like_the_task` is from `task_format`.
    """
    plain = predictor.beside_its_task(tokenizer)
    plain.max_new_tokens = _LONGEST
    return _drift(
        _mean_nll(plain.model, own.encoded) - own.nll,
        _mean_nll(plain.model, _prose(tokenizer)),
        plain.predict(own.prompts),
        looks_like_the_task,
    )


def _drift(
    drift: float,
    prose_nll: float,
    answers: Sequence[str],
    looks_like_the_task: Callable[[str], bool] | None,
) -> Drift:
    leakage = None
    if looks_like_the_task is not None:
        leakage = sum(map(looks_like_the_task, answers)) / len(answers)
    return Drift(drift, prose_nll, sum(len(a.split()) for a in answers) / len(answers), leakage)


def _prose(tokenizer: PreTrainedTokenizerBase) -> EncodedSet:
    ids = tokenizer(_texts()["prose"], add_special_tokens=False)["input_ids"]
    return EncodedSet.of([row[:1] for row in ids], [row[1:] for row in ids])


@cache
def _texts() -> dict[str, list[str]]:
    text = files("telltune.evaluation").joinpath("everyday.yaml").read_text(encoding="utf-8")
    found: dict[str, list[str]] = yaml.safe_load(text)
    return found


def _mean_nll(model: Any, encoded: EncodedSet) -> float:
    return float(response_nll(model, encoded).sum() / encoded.response_lengths.sum())
