"""Top model of a cascade: a large model that labels the inputs that no lower level answers."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from telltune.errors import RecipeError
from telltune.inference.label_matching import read_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Message
    from telltune.fitting.protocol import Predictor

__all__ = ["Endpoint", "LabeledItem", "LocalModel", "Top", "local_model"]

_LONGEST = 32
"""Maximum number of tokens of an answer: a label and a few words around it."""


@dataclass(frozen=True)
class LabeledItem:
    """Answer of the top model to one input.

    Attributes:
        label: One of the labels; None if the model gave none.
        tokens: Number of tokens read and written.
        seconds: Time of the call in seconds, retries included.
        failure: Reason why there is no label; "" otherwise.
    """

    label: str | None
    tokens: int
    seconds: float
    failure: str = ""


class Top(Protocol):
    """A model that labels the inputs that no lower level answers."""

    def label(self, text: str) -> LabeledItem:
        """Label one input; a failure is returned, not raised."""
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

    def label(self, text: str) -> LabeledItem:
        """Return the label that the predictor's answer names."""
        from telltune.data.examples import Example

        began = time.perf_counter()
        [answer] = self.predictor.predict([Example(text, "")])
        spent = time.perf_counter() - began
        # A baseline has no language model and reads no tokens.
        read = self.predictor.model is not None
        tokens = len(self.predictor.tokenizer(text + answer)["input_ids"]) if read else 0
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
        instruction: System message for the base model.

    Raises:
        ModelError: The model cannot be loaded.
    """
    from telltune.data.anchor import Anchor, anchored_tokenizer
    from telltune.fitting.baseline_folder import load_folder
    from telltune.fitting.protocol import Predictor
    from telltune.models import load_base
    from telltune.recipe import ModelSpec

    if adapter is not None:
        return LocalModel(load_folder(Path(adapter)), labels)
    base = load_base(ModelSpec(name=model))
    anchor = Anchor(instruction, place="system")
    tokenizer = anchored_tokenizer(base.tokenizer, anchor)
    return LocalModel(Predictor(base.model, tokenizer, anchor, _LONGEST), labels)


@dataclass
class Endpoint:
    """A server with OpenAI's chat completions API.

    Attributes:
        url: URL of the server, up to and including `/v1`.
        model: Name of the model on the server.
        labels: Allowed labels.
        instruction: System message.
        shots: Messages shown before each input.
        timeout: Timeout of a call in seconds.
        key: API key, sent as a bearer token and never stored.

    Raises:
        RecipeError: The URL is not an HTTP address.
    """

    url: str
    model: str
    labels: Sequence[str]
    instruction: str
    shots: tuple[Message, ...] = ()
    timeout: float = 30.0
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise RecipeError(f"endpoint {self.url} is not an HTTP address; use http://HOST/v1.")

    def label(self, text: str) -> LabeledItem:
        """Label one input; retry once if the call fails or gives no label."""
        began = time.perf_counter()
        tokens, failure = 0, ""
        for _ in range(2):
            try:
                answer, used = self._call(text)
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                failure = f"{type(error).__name__}: {error}"
                _wait(error, began, self.timeout)
                continue
            tokens += used
            label = read_label(answer, self.labels)
            if label is not None:
                return LabeledItem(label, tokens, time.perf_counter() - began)
            failure = f"no label in `{answer[:80]}`"
        return LabeledItem(None, tokens, time.perf_counter() - began, failure)

    def _call(self, text: str) -> tuple[str, int]:
        turns = [{"role": "system", "content": self.instruction}]
        turns += [{"role": turn.role, "content": turn.content} for turn in self.shots]
        turns.append({"role": "user", "content": text})
        body = {"model": self.model, "messages": turns, "temperature": 0, "max_tokens": _LONGEST}
        request = urllib.request.Request(  # noqa: S310 - http(s) by `__post_init__`
            f"{self.url.rstrip('/')}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self.key}"} if self.key else {}),
        )
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:  # noqa: S310
            found: dict[str, Any] = json.loads(reply.read())
        answer = found["choices"][0]["message"]["content"]
        if not isinstance(answer, str):
            raise TypeError("the reply's content is not a string")
        return answer, int(found.get("usage", {}).get("total_tokens", 0))


def _wait(error: Exception, began: float, timeout: float) -> None:
    """Wait as long as a rate-limiting server asks for, within the timeout of the call."""
    if not (isinstance(error, urllib.error.HTTPError) and error.code in (429, 503)):
        return
    try:
        asked = float(error.headers.get("Retry-After") or 1.0)
    except ValueError:
        asked = 1.0
    left = timeout - (time.perf_counter() - began)
    time.sleep(max(0.0, min(asked, left)))
