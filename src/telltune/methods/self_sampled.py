"""TELL with general responses that the model or a teacher wrote (DELIA, arXiv 2408.10841).

The model's own responses keep the general data on its distribution, so training on them changes the
model less than other responses do. Those of a teacher draw it towards the teacher. They are sampled
at temperature 0.7 and top-p 0.95, with up to 512 tokens. They are cached on disk for other methods
and sizes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

from telltune.clock import clock
from telltune.data.contents import Contents, contents_of
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Message
from telltune.data.general import GeneralData
from telltune.errors import RecipeError
from telltune.fitting.build_plan import build_run_plan, longest_example
from telltune.fitting.general_choice import first_drawn
from telltune.fitting.model_info import ModelInfo
from telltune.fitting.protocol import Settings, teacher_of
from telltune.fitting.trained_method import TrainedMethod
from telltune.inference.writer import Writer
from telltune.storage import cache_folder, jsonl_lines, make_once, write_text
from telltune.training.processes import processes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from telltune.data.task import TaskData
    from telltune.fitting.predictor import Predictor
    from telltune.models import LoadedModel

_TEMPERATURE = 0.7
_TOP_P = 0.95
_LONGEST = 512
# Examples per file; a killed process loses at most the last file.
_CHUNK = 64
_WRITTEN = ("prompt", "completion", "source", "origin", "reasoning", "tools")
"""Fields of an example in such a file, besides its history."""


@dataclass(frozen=True)
class SampledData(GeneralData):
    """General prompts with a model's own responses, in cached files.

    Attributes:
        files: Files in the order in which the mixture draws on them.
        count: Number of examples to take from them.
    """

    files: tuple[Path, ...]
    count: int

    def __iter__(self) -> Iterator[Example]:
        """Iterate over the examples, reading one file at a time."""
        return islice(chain.from_iterable(map(_read, self.files)), self.count)

    # This is not cached, because there are a few thousand examples at most.
    @property
    def contents(self) -> Contents:
        """Number and hash of the examples."""
        return contents_of(self)


@dataclass(frozen=True)
class SelfSampled(TrainedMethod):
    """Trains on general prompts with the base model's own responses, or with a teacher's.

    Attributes:
        by_teacher: Whether the recipe's teacher writes the responses.
    """

    by_teacher: bool = False

    def run(
        self, task: TaskData, general: GeneralData | None, base: LoadedModel, settings: Settings
    ) -> Predictor:
        """Sample responses to the general examples that TELL would use, and mix these in."""
        recipe = settings.recipe
        if recipe.general_choice is not None:
            raise RecipeError(
                f"method `{self.name}` answers the general prompts drawn by its seed; remove "
                "`general_choice`, or use `tell`."
            )
        teacher = teacher_of(recipe, self.name) if self.by_teacher else None
        known = ModelInfo.of(base.model.config, base.tokenizer)
        # `build_run_plan` raises an error if the recipe has no general data.
        counts = build_run_plan(self, task, general, known, self.configured(recipe)).counts
        assert general is not None  # `build_run_plan` has checked this.
        began = clock()
        longest = longest_example(known, recipe)
        # The other processes read what the first one has sampled.
        with processes().first_before_others():
            writer = Writer(base, teacher)
            sampled = sample_responses(
                writer, general, counts.general_examples, recipe.seed, longest
            )
        if teacher is not None:
            logging.getLogger(__name__).warning("%s", teacher.usage.told(teacher.spec))
        sampling = clock() - began
        recipe = recipe.changed(mixture={"general_examples": counts.general_examples})
        settings = replace(settings, recipe=recipe, run_plan=None)
        found = super().run(task, sampled, base, settings)
        # Sampling is a part of this method's training time.
        cost = replace(found.cost, seconds=found.cost.seconds + sampling)
        return replace(found, cost=cost)


def sample_responses(
    writer: Writer, general: GeneralData, count: int, seed: int, max_length: int
) -> SampledData:
    """Return the first `count` general examples that a mixture draws, with a model's responses.

    The base model, without an adapter, or a teacher answers. An example that would be longer than
    `max_length` tokens keeps its given response.
    """
    # Whole chunks are sampled, so that a larger mixture contains the responses of a smaller one.
    chosen = first_drawn(general, -(-count // _CHUNK) * _CHUNK, seed)
    settings = (writer.speaker, _TEMPERATURE, _TOP_P, _LONGEST, max_length, seed)
    digest = hashlib.sha256(f"{settings}|{general.contents.digest}".encode()).hexdigest()[:32]
    folder = cache_folder("self_sampled", digest)
    files = []
    for start in range(0, len(chosen), _CHUNK):
        examples = chosen[start : start + _CHUNK]
        file = folder / f"{start}.jsonl"
        # Each chunk has its own seed, so that it is the same after an interruption.
        make_once(file, partial(_write, file, writer, examples, max_length, seed=seed + start))
        files.append(file)
    teacher = writer.teacher
    by = "self-sampled" if teacher is None else f"answered by {teacher.spec.model}"
    return SampledData(f"{general.name} ({by})", general.sources, tuple(files), count)


def _read(file: Path) -> Iterator[Example]:
    for line in jsonl_lines(file):
        values = json.loads(line)
        history = tuple(Message(*turn) for turn in values.pop("history"))
        yield Example(**values, history=history)


def _write(
    file: Path, writer: Writer, examples: list[Example], max_length: int, *, seed: int
) -> None:
    """Write JSON lines; an empty answer or a prompt without room keeps the given response.

    So does a prompt with tools that a teacher would answer, since the client sends none.
    """
    encoder = Encoder(writer.base.tokenizer)
    prompts = encoder.prompts(examples)
    longest = min(_LONGEST, max_length // 4)
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= max_length - longest]
    if writer.teacher is not None:
        fitting = [i for i in fitting if not examples[i].tools]
    texts = writer.write(
        [examples[i] for i in fitting],
        [prompts[i] for i in fitting],
        max_tokens=longest,
        temperature=_TEMPERATURE,
        top_p=_TOP_P,
        seed=seed,
        thinking=True,
    )
    found = list(examples)
    for i, text in zip(fitting, texts, strict=True):
        if text:
            found[i] = replace(found[i], completion=text, reasoning="")
    # Encoded again from text, an answer may have more tokens than were sampled.
    short = encoder.encode(found).lengths <= max_length
    kept = (found[i] if short[i] else example for i, example in enumerate(examples))
    rows = (
        {name: getattr(example, name) for name in _WRITTEN}
        | {"history": [list(turn) for turn in example.history]}
        for example in kept
    )
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


TELL_SELF_SAMPLED = SelfSampled(
    "tell_self_sampled", "TELL, self-sampled general data", anchored=True, uses_general=True
)
TELL_TEACHER_SAMPLED = SelfSampled(
    "tell_teacher_sampled",
    "TELL, general data answered by a teacher",
    anchored=True,
    uses_general=True,
    by_teacher=True,
)
