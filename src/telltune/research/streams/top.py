"""Top model of a cascade: a large model that labels the inputs that no lower level answers."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from telltune.data.examples import Example, Message
from telltune.errors import TellError
from telltune.inference.api_client import ApiClient, CallError, api_client
from telltune.inference.labels import names, read_label
from telltune.models import context_length
from telltune.research.streams.records import LabeledItem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.fitting.predictor import Predictor
    from telltune.research.streams.spec import CascadeSpec

_LONGEST = 32
"""Maximum number of tokens of a local model's answer: a label and a few words around it."""
_LONGEST_REPLY = 64
"""Maximum number of tokens of a reply; a model behind an API ends earlier by itself."""


class Top(Protocol):
    """A model that labels the inputs that no lower level answers."""

    @property
    def threads(self) -> bool:
        """Whether several threads may ask at a time."""
        ...

    def label(self, text: str) -> LabeledItem:
        """Label one input; a failure is returned, not raised.

        Raises:
            ModelError: The model cannot label any input.
        """
        ...


@dataclass
class LocalModel:
    """A local predictor: a base model, few-shot prompting, or a model from `tell fit`.

    Attributes:
        predictor: Predictor that answers the inputs.
        labels: Allowed labels.
    """

    predictor: Predictor
    labels: Sequence[str]
    threads = False

    def label(self, text: str) -> LabeledItem:
        """Return the label that the predictor's answer names."""
        began = time.perf_counter()
        asked, predictor, tokens = Example(text, ""), self.predictor, 0
        # A baseline has no language model and reads no tokens.
        if predictor.model is not None:
            [prompt] = predictor.prompt_ids([asked])
            tokens = len(prompt)
            if tokens + predictor.max_new_tokens > (most := context_length(predictor.model.config)):
                failure = f"the input has {tokens:,} tokens, and the top's context {most:,}"
                return LabeledItem(None, 0, time.perf_counter() - began, failure)
        [answer] = predictor.predict([asked])
        spent = time.perf_counter() - began
        tokens += len(predictor.tokenizer(answer)["input_ids"]) if tokens else 0
        label = read_label(answer, self.labels)
        failure = "" if label is not None else f"no label in `{answer[:80]}`"
        return LabeledItem(label, tokens, spent, failure)


def local_model(
    model: str, adapter: str | None, labels: Sequence[str], instruction: str
) -> LocalModel:
    """Load a base model with an instruction, or a `tell fit` folder, which needs none.

    Args:
        model: Name of the base model; ignored if `adapter` is given.
        adapter: Folder of `tell fit`, or None.
        labels: Allowed labels.
        instruction: System message for the base model; labels that it does not name are added.

    Raises:
        ModelError: The model cannot be loaded.
    """
    from telltune.data.anchor import Anchor, anchored_tokenizer
    from telltune.fitting.baseline_folder import load_folder
    from telltune.fitting.predictor import Predictor
    from telltune.models import load_base
    from telltune.recipe import ModelSpec

    if adapter is not None:
        return LocalModel(load_folder(Path(adapter)), labels)
    base = load_base(ModelSpec(name=model))
    anchor = Anchor(_with_labels(instruction, labels), place="system")
    tokenizer = anchored_tokenizer(base.tokenizer, anchor)
    return LocalModel(Predictor(base.model, tokenizer, anchor, _LONGEST), labels)


@dataclass
class Endpoint:
    """A model behind an OpenAI-compatible API.

    Attributes:
        client: Client of the model.
        labels: Allowed labels.
        instruction: System message; labels that it does not name are added.
    """

    client: ApiClient
    labels: Sequence[str]
    instruction: str
    threads = True

    def __post_init__(self) -> None:
        self.instruction = _with_labels(self.instruction, self.labels)

    def label(self, text: str) -> LabeledItem:
        """Label one input; if the answer names no label, ask once more and list the labels.

        A request that failed after its retries is a failure of this input.

        Raises:
            ModelError: The server refuses all requests, has failed several times in a row, or the
                budget is spent.
        """
        began = time.perf_counter()
        tokens, failure = 0, ""
        asked = Example(text, "", history=(Message("system", self.instruction),))
        for _ in range(2):
            try:
                reply = self.client.ask(asked, max_tokens=_LONGEST_REPLY, labels=self.labels)
            except CallError as error:
                failure = str(error)
                break
            tokens += reply.input_tokens + reply.output_tokens
            label = read_label(reply.text, self.labels)
            if label is not None:
                return LabeledItem(label, tokens, time.perf_counter() - began)
            failure = f"no label in `{reply.text[:80]}`"
            said = (Message("user", asked.prompt), Message("assistant", reply.text))
            again = f"Name one of these labels, nothing else: {', '.join(self.labels)}"
            asked = replace(asked, prompt=again, history=(*asked.history, *said))
        return LabeledItem(None, tokens, time.perf_counter() - began, failure)


def _with_labels(instruction: str, labels: Sequence[str]) -> str:
    """Return an instruction, followed by the labels unless it names them all."""
    if all(names(instruction, label) for label in labels):
        return instruction
    return f"{instruction} Labels: {', '.join(labels)}."


def make_top(spec: CascadeSpec) -> Top:
    """Load the top model of a cascade, or make its client.

    Raises:
        RecipeError: The variable with the server's key is not set.
        ModelError: The model cannot be loaded.
    """
    top = spec.top
    if top.teacher is not None:
        return Endpoint(api_client(top.teacher), spec.labels, spec.instruction)
    return local_model(top.model, top.adapter, spec.labels, spec.instruction)


def ask(top: Top, text: str) -> LabeledItem:
    """Ask the top model; if it cannot label any input, that is a failure of this one."""
    began = time.perf_counter()
    try:
        return top.label(text)
    except TellError as error:
        return LabeledItem(None, 0, time.perf_counter() - began, str(error))
