"""Turns of a conversation, in the layouts that chat data have."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from telltune.data.fields import Fields, RowRefusedError, is_blank
from telltune.errors import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MEDIA", "Turn", "asks", "check_order", "read_history", "read_turns", "reasoning_of"]

MEDIA = ("image", "images", "audio", "audios", "video", "videos")
"""Keys that hold what is no text."""

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
# What most turns have, and nothing beside: they are read quicker.
_PLAIN = frozenset({"role", "content", "from", "value"})
_CALLS = ("tool_calls", "function_call")
_REASONING = ("reasoning_content", "thinking", "reasoning")
# What OpenAI, ms-swift and axolotl call it.
_WEIGHTS = ("weight", "loss", "train")


class Turn(NamedTuple):
    """One turn, and whether its text is to be learned.

    Attributes:
        role: "system", "user" or "assistant".
        content: What is said.
        reasoning: The thinking before it, where the data have it.
        learned: Whether it carries loss; only for answers.
    """

    role: str
    content: str
    reasoning: str = ""
    learned: bool = False


def read_turns(fields: Fields, key: str, *, learned: bool) -> list[Turn]:
    """Read the list of turns under a key: {role, content} or {from, value} objects.

    Args:
        fields: Of the row.
        key: Which.
        learned: Whether the answers in it carry loss, where they do not say otherwise.

    Raises:
        RowRefusedError: It is no list of turns with text.
    """
    found = fields.take(key)
    if not isinstance(found, list):
        raise RowRefusedError(
            f"no conversation: key `{key}` is missing, empty or not a list of turns"
        )
    turns = []
    for number, values in enumerate(found, start=1):
        if not isinstance(values, dict):
            raise RowRefusedError(f"turn {number} in key `{key}` is not an object")
        turn = _read_turn(fields, fields.inner(key, values), number, learned=learned)
        if turn is not None:
            turns.append(turn)
    if not turns:
        raise RowRefusedError(f"no conversation: key `{key}` holds no turn with text")
    return turns


def read_history(fields: Fields, key: str = "history") -> list[Turn]:
    """Read earlier turns: a list of [question, answer] pairs, or of turns.

    Raises:
        RowRefusedError: The key holds something else.
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
                f"key `{key}` is not a list of [question, answer] pairs, nor of turns with `role` "
                "and `content`"
            )
        earlier = Fields({"question": pair[0], "answer": pair[1]})
        turns.append(Turn("user", earlier.text("question", f"text in key `{key}`")))
        turns.append(Turn("assistant", earlier.text("answer", f"text in key `{key}`")))
    return turns


def asks(turn: object) -> bool:
    """Whether a turn, as data have it, is one of the user."""
    return isinstance(turn, dict) and _role(turn.get("role") or turn.get("from")) == "user"


def reasoning_of(fields: Fields, keys: Sequence[str] = _REASONING[:2]) -> str:
    """The thinking that stands beside an answer, or ""."""
    key = fields.first(keys)
    return "" if key is None else fields.text(key, "reasoning")


def check_order(body: Sequence[Turn], *, offset: int) -> None:
    """Refuse what a chat template would refuse, or would put into other words.

    Args:
        body: The turns behind the system turn.
        offset: Number of turns before them.

    Raises:
        RowRefusedError: User and assistant do not take turns, or the last is no answer.
    """
    for index, turn in enumerate(body):
        wanted = ("user", "assistant")[index % 2]
        if turn.role != wanted:
            raise RowRefusedError(
                f"turn {index + offset + 1} is from `{turn.role}` where one from `{wanted}` should "
                "stand: a system turn comes first, then user and assistant take turns"
            )
    if len(body) % 2 or not body:
        raise RowRefusedError("no response: the conversation does not end with an assistant turn")


def _read_turn(row: Fields, turn: Fields, number: int, *, learned: bool) -> Turn | None:
    """One turn; None for a system turn without text."""
    said_by = turn.take(turn.first(("role", "from")) or "role")
    role = _role(said_by)
    plain = turn.filled.keys() <= _PLAIN
    if role is None or (not plain and turn.first(_CALLS)):
        what = "a tool call" if role else f"role `{shown(str(said_by))}`"
        raise RowRefusedError(
            f"turn {number} has {what}, which telltune does not train; the roles are "
            f"{', '.join(_ROLES)}"
        )
    if not plain and (key := turn.first(MEDIA)):
        raise RowRefusedError(f"turn {number} has `{key}`, and telltune reads text only")
    content_key = turn.first(("content", "value")) or "content"
    if role == "system" and not turn.has(content_key):
        return None
    content = _content(turn, content_key, f"turn {number}", f"text in turn {number} ({role})")
    if plain or role != "assistant":
        return Turn(role, content, learned=learned and role == "assistant")
    weight = turn.first(_WEIGHTS)
    if weight and turn.flag(weight) is False and learned:
        learned = False
        row.left_out.append(f"the answer in turn {number} has `{weight}: 0`")
    return Turn(role, content, reasoning_of(turn, _REASONING), learned)


def _role(said_by: object) -> str | None:
    return _ROLES.get(said_by.lower()) if isinstance(said_by, str) else None


def _content(turn: Fields, key: str, where: str, what: str) -> str:
    """The text of a turn, which may come in parts; these become paragraphs."""
    parts = turn.filled.get(key)
    if not isinstance(parts, list):
        return turn.text(key, what)
    turn.take(key)
    texts = []
    for values in parts:
        if not isinstance(values, dict):
            raise RowRefusedError(
                f"no {what}: key `{key}` holds a list, and not one of {{type: text, text: ...}}"
            )
        part = turn.inner(key, values)
        kind = part.take("type")
        if kind not in (None, "text", "input_text", "output_text"):
            raise RowRefusedError(
                f"{where} has a part of type `{shown(str(kind))}`, and telltune reads text only"
            )
        if not is_blank(values.get("text")):
            texts.append(part.text("text", what))
    return Fields({key: "\n".join(texts)}).text(key, what)
