"""Schemas: from one row of a data file to examples, or to the reason why not."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from telltune.data.examples import Example, Message
from telltune.errors import shown

if TYPE_CHECKING:
    from telltune.recipe import Columns

__all__ = ["SCHEMAS", "RowRefusedError", "Schema", "find_schema"]

Values = Mapping[str, object]
Turns = list[Message]

SHOWN_KEYS = 12
COMPARED_KEYS = 1000


class RowRefusedError(ValueError):
    """A row that is no example; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Schema:
    """One known way to lay out a row.

    Attributes:
        name: As documentation and messages call it, such as "prompt/completion".
        keys: A row of this schema has them all.
        turns: Reads a row's turns, in order, or raises `RowRefusedError`.
        whole_conversation: Every assistant turn is learned, not only the last.
        confidence_key: Where a row says how far its answer can be trusted; None if it does not.
        rationale_key: Where it says why; None if it does not.
    """

    name: str
    keys: tuple[str, ...]
    turns: Callable[[Values], Turns]
    whole_conversation: bool = False
    confidence_key: str | None = None
    rationale_key: str | None = None

    def examples(self, values: Values, *, source: str, origin: str) -> list[Example]:
        """The examples in one row; a conversation gives one for each assistant turn.

        Raises:
            RowRefusedError: The row is not an example; says why.
        """
        turns = self.turns(values)
        head, body = (turns[:1], turns[1:]) if turns[0].role == "system" else ([], turns)
        _check_order(body, offset=len(head))
        first_answer = 1 if self.whole_conversation else len(body) - 1
        confidence = _confidence(values, self.confidence_key)
        rationale = ""
        if self.rationale_key is not None and not _is_blank(values.get(self.rationale_key)):
            rationale = _text(values, self.rationale_key, "rationale")
        return [
            Example(
                prompt=body[answer - 1].content,
                completion=body[answer].content,
                source=source,
                origin=origin,
                history=tuple(head + body[: answer - 1]),
                confidence=confidence,
                rationale=rationale,
            )
            for answer in range(first_answer, len(body), 2)
        ]


def find_schema(values: Values, columns: Columns | None = None) -> Schema:
    """The schema that a row's keys fit, or the one that the recipe's `columns` describe.

    Raises:
        RowRefusedError: No schema fits, or two do and telltune would have to guess.
    """
    if columns is not None:
        return _schema_of_columns(values, columns)
    fitting = _fitting(values.keys())
    if len(fitting) > 1:
        # Tables that were joined fill up the columns of the other table with nulls.
        fitting = _fitting(key for key, value in values.items() if value is not None) or fitting
    if not fitting:
        raise RowRefusedError(
            f"the keys {_listed(values)} fit no schema that telltune knows "
            f"({', '.join(schema.name for schema in SCHEMAS)}); name yours in the recipe: "
            "`columns: {prompt: ..., completion: ...}`"
        )
    if len(fitting) > 1 and not fitting[0].whole_conversation:
        raise RowRefusedError(
            f"the keys {_listed(values)} fit both {fitting[0].name} and {fitting[1].name}; say "
            "which in the recipe: `columns: {prompt: ..., completion: ...}`"
        )
    return fitting[0]


def _fitting(keys: Iterable[str]) -> list[Schema]:
    present = set(keys)
    fitting = [schema for schema in SCHEMAS if present.issuperset(schema.keys)]
    if any(schema.name == _ALPACA for schema in fitting):
        # Alpaca's `input` belongs to its `instruction`.
        fitting = [schema for schema in fitting if schema.name != _INPUT_OUTPUT]
    return fitting


def _schema_of_columns(values: Values, columns: Columns) -> Schema:
    named = columns.prompt, columns.completion, columns.system
    for name in (*named, columns.confidence, columns.rationale):
        if name is not None and name not in values:
            near = difflib.get_close_matches(name, islice(values, COMPARED_KEYS), n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"the columns are {_listed(values)}"
            raise RowRefusedError(f"no column `{shown(name)}`, which the recipe names; {hint}")
    return Schema(
        f"{columns.prompt}/{columns.completion}",
        (columns.prompt, columns.completion),
        partial(
            _flat_turns,
            prompt_key=columns.prompt,
            completion_key=columns.completion,
            system_key=columns.system,
        ),
        confidence_key=columns.confidence,
        rationale_key=columns.rationale,
    )


def _flat_turns(
    values: Values, *, prompt_key: str, completion_key: str, system_key: str | None = "system"
) -> Turns:
    return [
        *_system_turn(values, system_key),
        Message("user", _text(values, prompt_key, "prompt")),
        Message("assistant", _text(values, completion_key, "response")),
    ]


def _alpaca_turns(values: Values) -> Turns:
    prompt = _text(values, "instruction", "prompt")
    if not _is_blank(values.get("input")):
        prompt = f"{prompt}\n\n{_text(values, 'input', 'input')}"
    return [
        *_system_turn(values, "system"),
        *_alpaca_history(values.get("history")),
        Message("user", prompt),
        Message("assistant", _text(values, "output", "response")),
    ]


def _alpaca_history(history: object) -> Turns:
    if history is None:
        return []
    turns = []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowRefusedError("key `history` is not a list of [question, answer] pairs")
        earlier = {"question": pair[0], "answer": pair[1]}
        turns.append(Message("user", _text(earlier, "question", "text in key `history`")))
        turns.append(Message("assistant", _text(earlier, "answer", "text in key `history`")))
    return turns


def _conversation_turns(
    values: Values, *, key: str, role_key: str, text_key: str, roles: Mapping[str, str]
) -> Turns:
    listed = values.get(key)
    if not isinstance(listed, list) or not listed:
        raise RowRefusedError(
            f"no conversation: key `{key}` is missing, empty or not a list of turns"
        )
    turns = _system_turn(values, "system")
    for number, turn in enumerate(listed, start=1):
        if not isinstance(turn, dict):
            raise RowRefusedError(f"turn {number} in key `{key}` is not an object")
        said_by = turn.get(role_key)
        role = roles.get(said_by) if isinstance(said_by, str) else None
        if role is None or turn.get("tool_calls") or turn.get("function_call"):
            what = "a tool call" if role else f"role `{shown(str(said_by))}`"
            raise RowRefusedError(
                f"turn {number} has {what}, which telltune does not train; the roles are "
                f"{', '.join(roles)}"
            )
        if role == "system" and _is_blank(turn.get(text_key)):
            continue
        turns.append(Message(role, _text(turn, text_key, f"text in turn {number} ({role})")))
    if not turns:
        raise RowRefusedError(f"no conversation: key `{key}` holds no turn with text")
    return turns


def _check_order(body: Turns, *, offset: int) -> None:
    """Refuse what a chat template would refuse, or would put into other words."""
    for index, turn in enumerate(body):
        wanted = ("user", "assistant")[index % 2]
        if turn.role != wanted:
            raise RowRefusedError(
                f"turn {index + offset + 1} is from `{turn.role}` where one from `{wanted}` should "
                "stand: a system turn comes first, then user and assistant take turns"
            )
    if len(body) % 2 or not body:
        raise RowRefusedError("no response: the conversation does not end with an assistant turn")


def _system_turn(values: Values, key: str | None) -> Turns:
    if key is None or _is_blank(values.get(key)):
        return []
    return [Message("system", _text(values, key, "system text"))]


def _text(values: Values, key: str, what: str) -> str:
    """The text under a key; numbers and truth values become text as JSON spells them."""
    if key not in values:
        raise RowRefusedError(f"no {what}: key `{shown(key)}` is missing")
    value = values[key]
    if _is_blank(value):
        raise RowRefusedError(f"no {what}: key `{shown(key)}` is empty")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        kind = {"list": "a list", "dict": "an object"}.get(type(value).__name__, "binary or a date")
        raise RowRefusedError(f"no {what}: key `{shown(key)}` holds {kind}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowRefusedError(
            f"the {what} in key `{shown(key)}` has half a character (a lone surrogate) at "
            f"character {error.start + 1}: write the whole one"
        ) from error
    return value


def _confidence(values: Values, key: str | None) -> float:
    if key is None:
        return 1.0
    try:
        found = float(_text(values, key, "confidence"))
    except ValueError as error:
        if isinstance(error, RowRefusedError):
            raise
        found = math.nan
    if not 0 < found <= 1:
        raise RowRefusedError(
            f"the confidence in key `{shown(key)}` is no number above 0 and up to 1"
        )
    return found


def _is_blank(value: object) -> bool:
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and not value.strip())


def _listed(keys: Collection[str]) -> str:
    names = [f"`{shown(key)}`" for key in islice(keys, SHOWN_KEYS)]
    more = len(keys) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


_ALPACA = "instruction/input/output"
_INPUT_OUTPUT = "input/output"


def _flat(prompt_key: str, completion_key: str) -> Schema:
    return Schema(
        f"{prompt_key}/{completion_key}",
        (prompt_key, completion_key),
        partial(_flat_turns, prompt_key=prompt_key, completion_key=completion_key),
    )


def _conversation(key: str, role_key: str, text_key: str, **roles: str) -> Schema:
    turns = partial(_conversation_turns, key=key, role_key=role_key, text_key=text_key, roles=roles)
    return Schema(key, (key,), turns, whole_conversation=True)


# Conversations first: where a row has both forms, a conversation says all that flat keys say.
SCHEMAS = (
    _conversation(
        "messages", "role", "content", system="system", user="user", assistant="assistant"
    ),
    _conversation(
        "conversations",
        "from",
        "value",
        system="system",
        human="user",
        gpt="assistant",
        user="user",
        assistant="assistant",
    ),
    _flat("prompt", "completion"),
    _flat("prompt", "response"),
    _flat("query", "response"),
    _flat("question", "answer"),
    _flat("prompt", "answer"),  # TRACE's own files
    _flat("input", "output"),
    Schema(_ALPACA, ("instruction", "output"), _alpaca_turns),
)
