"""Memory levels: how often a model already generates the correct answer to each question.

R is the mean over templates and samples of [the completion contains the answer]. The level is 0 if
R = 0, and i of 1 to 4 if R lies in ((i - 1)/4, i/4] (arXiv 2409.15825). An answer, or one of its
aliases, must match whole words, so that "ten" is not found in "often".
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from telltune.clock import clock
from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.errors import DataError
from telltune.inference.engine import sample_texts
from telltune.inference.labels import names, words
from telltune.storage import cache_folder, cached_json, content_key
from telltune.training.progress import bar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from telltune.models import LoadedModel

LEVELS = 4
"""Highest memory level: more than three quarters of the completions contain the answer."""
TEMPLATES = (
    "{prompt}",
    "Question: {prompt}\nAnswer:",
    "Answer in a few words. {prompt}",
    "{prompt} Name the answer, nothing else.",
)
"""Default question templates for recipes without `templates`."""

_REQUESTS = (
    "Write one sentence that asks somebody to answer a quiz question in a few words.",
    "Write a short instruction for answering questions about facts with the answer alone.",
    "How would a teacher ask a pupil for a short answer? Write that sentence, nothing else.",
)
_TEMPERATURE = 0.7
_LONGEST = 32
_VERSION = 2
"""Version of the sampling and matching procedure; a change invalidates cached results."""


@dataclass(frozen=True)
class Memory:
    """Counts of correct completions.

    Attributes:
        hits: Number of completions that contain the answer, (examples, templates).
        samples: Number of completions per example and template.
        seconds: Sampling time in seconds.
    """

    hits: NDArray[np.int64]
    samples: int
    seconds: float

    @property
    def recall(self) -> NDArray[np.float64]:
        """Recall R of each example, 0 to 1, (examples,)."""
        return np.asarray(self.hits.sum(1) / self._asked, np.float64)

    @property
    def level(self) -> NDArray[np.int64]:
        """Memory level of each example, 0 to 4, (examples,)."""
        # Integer arithmetic keeps the boundaries exact: a quarter of the completions is level 1.
        return np.asarray(-(-LEVELS * self.hits.sum(1) // self._asked), np.int64)

    @property
    def _asked(self) -> int:
        return int(self.hits.shape[1]) * self.samples


def memory_of(
    base: LoadedModel,
    examples: Sequence[Example],
    templates: Sequence[str] = TEMPLATES,
    *,
    samples: int = 10,
    aliases: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Memory:
    """Sample answers to each question with several templates, and count the correct ones.

    The counts per template are cached on disk, so an interrupted call resumes at the template where
    it stopped.

    Args:
        base: Base model, sampled at temperature 0.7 for at most 32 tokens.
        examples: Examples with questions as prompts and answers as completions.
        templates: Question templates; `{prompt}` is replaced by the question.
        samples: Number of completions per question and template.
        aliases: Other names of each answer, by answer.
        seed: Seed of the sampling.
        progress: Show a progress bar.
    """
    known = [(e.completion, *(aliases or {}).get(e.completion, ())) for e in examples]
    key = (_VERSION, base.speaker, contents_of(examples).digest, known, samples, seed)
    hits, seconds = [], 0.0
    each = len(examples) * samples
    with bar(shown=progress) as shown:
        task = shown.add_task("completions", total=len(templates) * each)
        on_done = partial(shown.advance, task)
        for number, template in enumerate(templates, 1):
            began = clock()
            kept = cached_json(
                cache_folder("memory") / f"{content_key(*key, template)}.json",
                partial(_ask, base, examples, known, template, samples, seed, on_done),
            )
            shown.update(task, completed=number * each)
            hits.append(kept)
            seconds += clock() - began
    return Memory(np.array(hits, np.int64).T, samples, seconds)


def propose_templates(base: LoadedModel, count: int, seed: int) -> list[str]:
    """Let a model write up to `count` question templates: an instruction followed by the question.

    It is sampled at temperature 0.8. Duplicates and instructions of fewer than three words are
    dropped.
    """
    requests = [Example(_REQUESTS[k % len(_REQUESTS)], "") for k in range(count)]
    texts = sample_texts(
        base,
        Encoder(base.tokenizer).prompts(requests),
        max_new_tokens=_LONGEST,
        temperature=0.8,
        seed=seed,
    )
    lines = dict.fromkeys(" ".join(text.split("\n")[0].strip("\"' ").split()) for text in texts)
    return [f"{line}\n\n{{prompt}}" for line in lines if len(words(line)) >= 3]


def says(completion: str, known: Sequence[str]) -> bool:
    """Return whether a completion contains one of an answer's names as whole words."""
    return any(names(completion, name) for name in known)


def read_aliases(path: str) -> dict[str, list[str]]:
    """Read a JSON file with aliases by answer: `{"United States": ["US", "America"]}`.

    Raises:
        DataError: The file cannot be read or has another form.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the alias table cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: the alias table must map each answer to a list of names.")
    for answer, others in found.items():
        if not isinstance(others, list) or not all(isinstance(name, str) for name in others):
            raise DataError(f"{path}: the aliases of `{answer}` must be a list of strings.")
    return found


def _ask(
    base: LoadedModel,
    examples: Sequence[Example],
    known: Sequence[Sequence[str]],
    template: str,
    samples: int,
    seed: int,
    on_done: Callable[[int], None],
) -> list[int]:
    """Return the number of correct completions of each example."""
    encoder = Encoder(base.tokenizer)
    put = [replace(e, prompt=template.replace("{prompt}", e.prompt)) for e in examples]
    texts = sample_texts(
        base,
        [prompt for prompt in encoder.prompts(put) for _ in range(samples)],
        max_new_tokens=_LONGEST,
        temperature=_TEMPERATURE,
        seed=seed,
        on_done=on_done,
    )
    return [
        sum(says(text, wanted) for text in texts[i * samples : (i + 1) * samples])
        for i, wanted in enumerate(known)
    ]
