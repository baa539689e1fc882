"""Requests and replies of OpenAI-compatible chat completions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from telltune.data.thinking import without_thinking
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.data.examples import Example


@dataclass(frozen=True)
class Reply:
    """Reply to one request.

    Attributes:
        text: The answer without thinking and without white space around it.
        input_tokens: Number of tokens that the model read.
        output_tokens: Number of tokens that the model wrote, thinking included.
        cut: Whether the answer reached the limit on its tokens.
    """

    text: str
    input_tokens: int
    output_tokens: int
    cut: bool = False


def chat_request(
    example: Example,
    *,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    labels: Sequence[str],
) -> dict[str, Any]:
    """Return the request to answer an example's prompt; see `ApiClient.ask`.

    Raises:
        DataError: The example has tools.
    """
    if example.tools:
        where = example.origin or "an example"
        raise DataError(f"{where}: tools cannot be sent to an API model.")
    turns = [{"role": turn.role, "content": turn.content} for turn in example.history]
    request: dict[str, Any] = {
        "messages": [*turns, {"role": "user", "content": example.prompt}],
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    if temperature > 0:
        request |= {"top_p": top_p, "seed": seed}
    if labels:
        request["response_format"] = _one_of(labels)
    return request


def _one_of(labels: Sequence[str]) -> dict[str, Any]:
    """Return the format of an answer that is one of the labels."""
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(labels)}},
        "required": ["label"],
        "additionalProperties": False,
    }
    of_label = {"name": "label", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": of_label}


def label_in(text: str) -> str:
    """Return the label of a structured answer; another text is returned as it is."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    label = found.get("label") if isinstance(found, dict) else None
    return label if isinstance(label, str) else text


def read_reply(completion: Any, request: dict[str, Any]) -> Reply:
    """Read a reply; a server that does not count tokens is taken to use one per four bytes.

    Raises:
        ValueError: It is not a chat completion.
    """
    try:
        choice = completion.choices[0]
        # There is no content if thinking took all tokens, or if a filter removed it.
        text = choice.message.content or ""
        written = text.encode("utf-8", "replace")
        read = json.dumps(request["messages"], ensure_ascii=False).encode("utf-8", "replace")
        tokens = [
            int(getattr(completion.usage, name, None) or len(content) // 4)
            for name, content in (("prompt_tokens", read), ("completion_tokens", written))
        ]
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
        tokens = []
    # The budget is computed in floating point.
    if not tokens or min(tokens) < 0 or max(tokens) > 2**53:
        if hasattr(completion, "to_json"):
            completion = completion.to_json(indent=None, warnings=False)
        raise ValueError(f"`{completion}`")
    cut = choice.finish_reason == "length"
    return Reply(without_thinking(text).strip(), tokens[0], tokens[1], cut)
