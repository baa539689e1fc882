"""Bodies of requests in OpenAI's form, checked, and the prompts in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from telltune.data.examples import Example, Message
from telltune.data.fields import Fields, RowRefusedError
from telltune.data.turns import Turn, check_order, read_turns
from telltune.errors import DataError
from telltune.serving.models import Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

# Keys that do not change the answer.
_WITHOUT_EFFECT = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_retention", "parallel_tool_calls"),
)
# Keys that this server does not support, and values that ask for nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}

_LEAST_TEMPERATURE = 0.01
"""Temperature below which decoding is greedy."""

_Stop = Annotated[str, Field(min_length=1)]


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    """Whether a last chunk has the numbers of tokens."""


class ChatBody(BaseModel):
    """Body of a request to `/v1/chat/completions`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    """Name of a served folder."""
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    """Turns of the conversation; the last one is the user's."""
    stream: bool | None = None
    """Whether the answer comes in pieces."""
    stream_options: StreamOptions | None = None
    """Options of a streamed answer."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest answer in tokens; by default the adapter's own limit."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Another name of `max_tokens`, which it overrides."""
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    """Sampling temperature; by default 0, as in `tell predict`."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Probability of the likeliest tokens that are sampled from."""
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4)] | None = None
    """Texts that end the answer; they are not part of it."""
    seed: int | None = None
    """Seed of the sampling."""

    @model_validator(mode="before")
    @classmethod
    def _without_neutral_keys(cls, values: Any) -> Any:
        """Leave out unsupported keys that ask for nothing, and refuse the others."""
        if not isinstance(values, dict):
            return values
        kept = {}
        for key, value in values.items():
            if value is None or key in _WITHOUT_EFFECT or value in _NEUTRAL.get(key, ()):
                continue
            if key in _NEUTRAL:
                raise ValueError(f"`{key}` is not supported by this server; leave it out")
            kept[key] = value
        return kept

    @model_validator(mode="after")
    def _streams_with_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` needs `stream: true`")
        return self

    @property
    def sampling(self) -> Sampling:
        """How the answer is generated."""
        temperature = self.temperature or 0.0
        return Sampling(
            max_new_tokens=self.max_completion_tokens or self.max_tokens,
            # Logits divided by a smaller number could overflow.
            temperature=temperature if temperature >= _LEAST_TEMPERATURE else 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
        )

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def messages_example(messages: Sequence[dict[str, Any]]) -> Example:
    """Return the conversation of a request, to be answered at its end.

    Raises:
        DataError: A message is not text of a known role, or the order of the roles is wrong.
    """
    fields = Fields({"messages": list(messages)})
    try:
        turns = read_turns(fields, "messages", learned=False)
        if turns[-1].role != "user":
            raise RowRefusedError("the last message is not from `user`")
        opening = int(turns[0].role == "system")
        check_order([*turns[opening:], Turn("assistant", "")], offset=opening)
    except RowRefusedError as refusal:
        raise DataError(f"messages: {refusal}.") from None
    if unread := fields.unread():
        raise DataError(f"messages: {', '.join(sorted(unread))}: unknown keys; leave them out.")
    history = tuple(Message(turn.role, turn.content) for turn in turns[:-1])
    return Example(turns[-1].content, "", history=history)
