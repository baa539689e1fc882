"""Turns of a conversation, in the usual layouts of chat data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from telltune.data.fields import Fields, RowRefusedError, is_blank, listed
from telltune.data.parsed_row import Number
from telltune.errors import shown

MEDIA = ("image", "images", "audio", "audios", "video", "videos")
"""Keys of content other than text."""

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "model": "assistant",
}
# Most turns have only these keys, and are read faster.
_PLAIN = frozenset({"role", "content", "from", "value"})
_CALLS = ("tool_calls", "function_call")
_REASONING = ("reasoning_content", "thinking", "reasoning")
# Names of the loss weight in the data of OpenAI, ms-swift and axolotl.
_WEIGHTS = ("weight", "loss", "train", "training")
# Names of loss weights for parts of an answer, in the data of axolotl and ms-swift, and of a mark
# that some tools read as "train on this" and others as "do not".
_PARTLY = ("train_detail", "loss_scale", "mask")


class Turn(NamedTuple):
    """One turn of a conversation.

    Attributes:
        role: Role, "system", "user" or "assistant".
        content: Text of the turn.
        reasoning: Thinking before the text, if the data contain it.
        learned: Whether the turn carries loss, which only answers can.
    """

    role: str
    content: str
    reasoning: str = ""
    learned: bool = False


def read_turns(fields: Fields, key: str, *, learned: bool) -> list[Turn]:
    """Read the list of turns under a key: objects {role, content}, {from, value} or {role: text}.

    With `learned`, answers without a weight of their own carry loss.

    Raises:
        RowRefusedError: The value is not a list of turns with text.
    """
    found = fields.take(key)
    if not isinstance(found, list):
        raise RowRefusedError(
            f"no conversation: key `{key}` is missing, empty or not a list of turns"
        )
    turns = []
    for number, values in enumerate(_one_by_one(found), start=1):
        if not isinstance(values, dict):
            raise RowRefusedError(f"turn {number} in key `{key}` is not an object")
        turn = _read_turn(fields, fields.inner(key, values), number, learned=learned)
        if turn is not None:
            turns.append(turn)
    if not turns:
        raise RowRefusedError(f"no conversation: key `{key}` contains no turn with text")
    return turns


def _one_by_one(turns: list[object]) -> Iterator[object]:
    """Yield turns, also from objects of texts by role such as {human: ..., assistant: ...}."""
    for values in turns:
        if isinstance(values, dict) and values and all(map(chat_role, values)):
            told = ((role, text) for role, text in values.items() if text is not None)
            yield from ({"role": role, "content": text} for role, text in told)
        else:
            yield values


def read_history(fields: Fields, key: str = "history") -> list[Turn]:
    """Read earlier turns, as a list of [question, answer] pairs or of turns.

    Raises:
        RowRefusedError: The key has another value.
    """
    found = fields.take(key)
    if found is None:
        return []
    if isinstance(found, list) and isinstance(found[0], dict):
        return read_turns(fields, key, learned=False)
    turns = []
    for pair in found if isinstance(found, list) else [found]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowRefusedError(
                f"key `{key}` must be a list of [question, answer] pairs, or of turns with `role` "
                "and `content`"
            )
        earlier = Fields({"question": pair[0], "answer": pair[1]})
        turns.append(Turn("user", earlier.text("question", f"text in key `{key}`")))
        turns.append(Turn("assistant", earlier.text("answer", f"text in key `{key}`")))
    return turns


def read_tools(fields: Fields) -> str:
    """Return the tools of a row as JSON text. Functions in OpenAI's older layout become tools.

    Raises:
        RowRefusedError: The value is not a list of objects.
    """
    key = fields.first(("tools", "functions"))
    if key is None:
        return ""
    value = fields.take(key)
    try:
        tools = json.loads(value) if isinstance(value, str) else _as_json(value)
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise TypeError
        if key == "functions":
            tools = [{"type": "function", "function": function} for function in tools]
        text = json.dumps(tools, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RowRefusedError(
            f"key `{key}` must be a list of objects that define tools, or its JSON text"
        ) from error
    return text if tools else ""


def _as_json(value: object) -> object:
    """Convert text to numbers and drop the nulls that Arrow adds to objects.

    Values without a JSON form do not change. `json.dumps` raises TypeError for them.
    """
    if isinstance(value, Number):
        return json.loads(value)
    if isinstance(value, list):
        return [_as_json(one) for one in value]
    if isinstance(value, dict):
        return {key: _as_json(one) for key, one in value.items() if one is not None}
    return value


def asks(turn: object) -> bool:
    """Return whether a turn, as it is in the data, is a user turn."""
    last = next(reversed([*_one_by_one([turn])]), None)
    return isinstance(last, dict) and chat_role(last.get("role") or last.get("from")) == "user"


def reasoning_of(fields: Fields, keys: Sequence[str] = _REASONING[:2]) -> str:
    """Return the thinking next to an answer, or ""."""
    key = fields.first(keys)
    return "" if key is None else fields.text(key, "reasoning")


def check_order(body: Sequence[Turn], *, offset: int) -> None:
    """Refuse an order of turns that a chat template would refuse or change.

    Raises:
        RowRefusedError: User and assistant turns do not alternate, or the last turn is not an
            answer.
    """
    for index, turn in enumerate(body):
        wanted = ("user", "assistant")[index % 2]
        if turn.role != wanted:
            raise RowRefusedError(
                f"turn {index + offset + 1} is from `{turn.role}`, but must be from `{wanted}`: "
                "user and assistant turns alternate after an optional system turn"
            )
    if len(body) % 2 or not body:
        raise RowRefusedError("no response: the conversation does not end with an assistant turn")


def _read_turn(row: Fields, turn: Fields, number: int, *, learned: bool) -> Turn | None:
    """Return one turn, or None for a system turn without text."""
    said_by = turn.take(turn.first(("role", "from")) or "role")
    role = chat_role(said_by)
    plain = turn.filled.keys() <= _PLAIN
    if said_by is None:
        raise RowRefusedError(
            f"turn {number} has no `role` or `from`: its keys are {listed(turn.values)}"
        )
    if role is None:
        raise RowRefusedError(
            f"turn {number} has role `{shown(str(said_by))}`, which telltune does not support; the "
            f"roles are {', '.join(_ROLES)}"
        )
    if not plain and (key := turn.first(_CALLS)):
        raise RowRefusedError(
            f"turn {number} has a tool call (`{key}`), which telltune does not train on: remove "
            "the row"
        )
    if not plain and (key := turn.first(MEDIA)):
        raise RowRefusedError(f"turn {number} has `{key}`, but telltune supports text only")
    content_key = turn.first(("content", "value")) or "content"
    if role == "system" and not turn.has(content_key):
        return None
    content = _content(turn, content_key, f"turn {number}", f"text in turn {number} ({role})")
    if plain or role != "assistant":
        return Turn(role, content, learned=learned and role == "assistant")
    if key := turn.first(_PARTLY):
        raise RowRefusedError(
            f"turn {number} has `{key}`, but telltune trains on whole answers: write `train: true` "
            "or `train: false` instead"
        )
    weight = turn.first(_WEIGHTS)
    if weight and turn.flag(weight) is False and learned:
        learned = False
        row.left_out.append(f"the answer in turn {number} has `{weight}: 0`")
    return Turn(role, content, reasoning_of(turn, _REASONING), learned)


def chat_role(said_by: object) -> str | None:
    """Return the role that a name of a role means, or None if it means none."""
    return _ROLES.get(said_by.strip().lower()) if isinstance(said_by, str) else None


def _content(turn: Fields, key: str, where: str, what: str) -> str:
    """Return the text of a turn. A list of parts is joined with newlines."""
    parts = turn.filled.get(key)
    if not isinstance(parts, list):
        return turn.text(key, what)
    turn.take(key)
    texts = []
    for values in parts:
        if not isinstance(values, dict):
            raise RowRefusedError(
                f"no {what}: key `{key}` contains a list, but not of {{type: text, text: ...}}"
            )
        part = turn.inner(key, values)
        # Some data have no types, and name the kind of a part by its key (Qwen-VL).
        kind = part.take("type") or part.first(MEDIA)
        if kind not in (None, "text", "input_text", "output_text"):
            raise RowRefusedError(
                f"{where} has a part of type `{shown(str(kind))}`, but telltune supports text only"
            )
        if not is_blank(values.get("text")):
            texts.append(part.text("text", what))
    return Fields({key: "\n".join(texts)}).text(key, what)
