"""Schemas of data rows, which convert a row to examples or raise the reason why not."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from telltune.data.examples import Example, Message
from telltune.data.fields import Fields, RowRefusedError, Values, is_number, listed
from telltune.data.marks import PREFERENCES, better_answers, leaves_out
from telltune.data.options import OPTION_KEYS, read_options
from telltune.data.turns import (
    MEDIA,
    Turn,
    check_order,
    read_history,
    read_tools,
    read_turns,
    reasoning_of,
)
from telltune.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from telltune.recipe import Columns

UNKNOWN = "(no answer)"
"""Placeholder for the answer of a row without one, when only its prompt is needed."""

CONTEXTS = ("input", "context", "passage", "document", "article", "paragraph")
"""Keys whose texts are appended to the prompt."""

SYSTEM_KEYS = ("system", "system_prompt")

READ_BESIDE = (
    *(*CONTEXTS, *OPTION_KEYS, *SYSTEM_KEYS),
    *("instruction", "history", "tools", "functions"),
)
"""Keys that schemas read in addition to their own, because they are part of what is asked."""

# Keys whose content would change the meaning of a conversation that does not contain it.
_BESIDE = (*CONTEXTS[1:], *OPTION_KEYS)

COMPARED_KEYS = 1000

_SHOWN = 3
_USUAL = "prompt/completion, text/label, messages"


@dataclass(frozen=True, slots=True)
class Schema:
    """Supported layout of a row.

    Attributes:
        name: Name in documentation and messages, such as "prompt/completion".
        keys: Keys that every row of this schema has.
        turns: Function that returns a row's turns in order, or raises `RowRefusedError`.
        answer_key: Key of the answer, or None for a conversation.
        named: Whether the recipe's `columns` define the schema. Other columns are then not read.
        confidence_key: Key of the confidence in the answer, or None.
        rationale_key: Key of the rationale of the answer, or None.
    """

    name: str
    keys: tuple[str, ...]
    turns: Callable[[Fields], list[Turn]]
    answer_key: str | None = None
    named: bool = False
    confidence_key: str | None = None
    rationale_key: str | None = None

    @property
    def classifies(self) -> bool:
        """Whether the answer is a class label."""
        return self.answer_key == "label"

    def read(
        self, fields: Fields, *, source: str, origin: str, all_answers: bool = False
    ) -> list[Example]:
        """Return the examples of one row, one for each answer to train on.

        The fields record which keys were not read and which answers are left out. `all_answers`
        includes those that the row marks as not to be trained on.

        Raises:
            RowRefusedError: The row is not a valid example; gives the reason.
        """
        if self.answer_key is not None and not (self.named or all_answers):
            _refuse_preferences(fields.filled)
        turns = self.turns(fields)
        head, body = (turns[:1], turns[1:]) if turns[0].role == "system" else ([], turns)
        check_order(body, offset=len(head))
        tools = ""
        if not self.named and len(fields.filled) > len(self.keys):
            tools = read_tools(fields)
            if leaves_out(fields, body[-1].content, self.classifies) and not all_answers:
                return []
        confidence = _confidence(fields, self.confidence_key)
        rationale = ""
        if self.rationale_key is not None and fields.has(self.rationale_key):
            rationale = fields.text(self.rationale_key, "rationale")
        messages = [Message(turn.role, turn.content) for turn in (*head, *body)]
        return [
            Example(
                prompt=body[answer - 1].content,
                completion=body[answer].content,
                source=source,
                origin=origin,
                history=tuple(messages[: len(head) + answer - 1]),
                confidence=confidence,
                rationale=rationale,
                reasoning=body[answer].reasoning,
                tools=tools,
            )
            for answer in range(1, len(body), 2)
            if body[answer].learned or all_answers
        ]


def find_schema(
    values: Values, columns: Columns | None = None, beside: Collection[str] = ()
) -> Schema:
    """Return the schema that matches a row's keys, or the schema of the recipe's `columns`.

    `beside` has the keys beside the list of rows, see `ParsedRow`.

    Raises:
        RowRefusedError: No schema matches, more than one does, a column is missing, or a key beside
            the rows is a part of what each of them asks.
    """
    if columns is not None:
        return _schema_of_columns(values, columns)
    fitting = _fitting(values.keys())
    if len(fitting) > 1:
        # Joined tables have nulls in the columns of the other table.
        fitting = _fitting(key for key, value in values.items() if value is not None) or fitting
    if not fitting:
        _refuse_preferences(values)
        raise RowRefusedError(
            f"the keys {listed(values)} match no supported schema ({_nearest(values)}); set the "
            "columns in the recipe: `columns: {prompt: ..., completion: ...}`"
        )
    if len(fitting) > 1 and fitting[0].answer_key is not None:
        raise RowRefusedError(
            f"the keys {listed(values)} match both {fitting[0].name} and {fitting[1].name}; set "
            "the columns in the recipe: `columns: {prompt: ..., completion: ...}`"
        )
    if asked := asked_beside(beside):
        raise RowRefusedError(
            f"{listed(asked)} beside the list of rows would not be read: copy the content into "
            "each row, or rename the key to ignore it"
        )
    return fitting[0]


def asked_beside(beside: Collection[str]) -> list[str]:
    """Return the keys beside the list of rows that are a part of what each row asks."""
    return [key for key in beside if key.casefold() in _ASKED]


def _fitting(keys: Iterable[str]) -> list[Schema]:
    present = set(keys)
    fitting = [schema for schema in SCHEMAS if present.issuperset(schema.keys)]
    if any("instruction" in schema.keys for schema in fitting):
        # Alpaca's `input` belongs to its `instruction`.
        fitting = [schema for schema in fitting if schema.keys[0] != "input"]
    # The schema that reads more is preferred: question/sentence/label over sentence/label.
    return [
        schema
        for schema in fitting
        if not any(set(schema.keys) < set(other.keys) for other in fitting)
    ]


def _nearest(values: Values) -> str:
    """Return the names of the schemas of which the fewest keys are missing."""
    missing = {
        schema.name: len(set(schema.keys) - values.keys())
        for schema in SCHEMAS
        if not values.keys().isdisjoint(schema.keys)
    }
    near = [name for name, count in missing.items() if count == min(missing.values())]
    return f"the nearest: {', '.join(near[:_SHOWN])}" if near else f"such as {_USUAL}"


def _refuse_preferences(values: Values) -> None:
    """Refuse a row with a better and a worse answer, and say how to train on the better one."""
    better = better_answers(values)
    if better is None:
        return
    way = "write each conversation with its better answer under `messages`"
    asked = (schema for schema in SCHEMAS if schema.answer_key and schema.keys[0] in values)
    if "prompt" in values:
        way = f"set in the recipe: `columns: {{prompt: prompt, completion: {better}}}`"
    elif (schema := next(asked, None)) and not isinstance(values[schema.keys[0]], dict):
        way = f"rename `{better}` to `{schema.answer_key}`"
    raise RowRefusedError(
        f"the keys `{better}` and `{PREFERENCES[better]}` are preference data, which telltune does "
        f"not support; to train on the better answers, {way}"
    )


def _schema_of_columns(values: Values, columns: Columns) -> Schema:
    named = columns.prompt, columns.completion, columns.system
    for name in (*named, columns.confidence, columns.rationale):
        if name is not None and name not in values:
            near = difflib.get_close_matches(name, islice(values, COMPARED_KEYS), n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"the columns are {listed(values)}"
            raise RowRefusedError(f"no column `{shown(name)}`, as set in the recipe; {hint}")
    return Schema(
        f"{columns.prompt}/{columns.completion}",
        (columns.prompt, columns.completion),
        partial(
            _named_turns,
            prompt_key=columns.prompt,
            answer_key=columns.completion,
            system_key=columns.system,
        ),
        answer_key=columns.completion,
        named=True,
        confidence_key=columns.confidence,
        rationale_key=columns.rationale,
    )


def _named_turns(
    fields: Fields, *, prompt_key: str, answer_key: str, system_key: str | None
) -> list[Turn]:
    asked = _asked(fields, prompt_key)
    system = [] if system_key is None else _system_turn(fields, (system_key,))
    return [*system, *asked, *_answer(fields, answer_key, asked)]


def _flat_turns(fields: Fields, *, prompt_keys: tuple[str, ...], answer_key: str) -> list[Turn]:
    """Return the turns of a row that has separate keys for prompt and answer.

    The prompt is joined from an instruction, the question, its context and the options of a
    multiple-choice question. With options, the answer becomes one of their labels.
    """
    pair = len(prompt_keys) > 1
    asked = [Turn("user", _pair(fields, prompt_keys))] if pair else _asked(fields, prompt_keys[0])
    parts = [asked[-1].content]
    if "instruction" not in prompt_keys and fields.has("instruction"):
        parts.insert(0, fields.text("instruction", "instruction"))
    parts += [
        _context(fields, key) for key in CONTEXTS if key not in prompt_keys and fields.has(key)
    ]
    if answer_key == "label" and fields.has("label_text"):
        # SetFit's data sets contain both the number and the name of the class.
        fields.take(answer_key)
        answer_key = "label_text"
    answers = _answer(fields, answer_key, asked)
    if reasoning := reasoning_of(fields):
        answers[-1] = answers[-1]._replace(reasoning=reasoning)
    options = read_options(fields, lettered_columns=prompt_keys == ("question",))
    if options is not None:
        shown_already = options.stand_in("\n".join(parts))
        if not shown_already:
            parts.append(options.lines)
        value, said = fields.values[answer_key], answers[-1].content
        if said != UNKNOWN and (is_number(value) or not shown_already):
            right = options.right(value, said)
            # A prompt that already shows the options may use other letters or none, so the answer
            # is then the text of the option.
            said = options.texts[right] if shown_already else options.labels[right]
            answers[-1] = answers[-1]._replace(content=said)
    asked[-1] = asked[-1]._replace(content="\n\n".join(parts))
    return [*_system_turn(fields, SYSTEM_KEYS), *read_history(fields), *asked, *answers]


def _conversation_turns(fields: Fields, *, key: str) -> list[Turn]:
    system, history = _system_turn(fields, SYSTEM_KEYS), read_history(fields)
    turns = read_turns(fields, key, learned=True)
    if turns[-1].role == "user":
        _refuse_preferences(fields.filled)
    for beside in filter(fields.has, _BESIDE):
        value = fields.values[beside]
        said = "\n".join(turn.content for turn in turns)
        if not (isinstance(value, str) and value.strip() in said):
            raise RowRefusedError(
                f"the content of key `{beside}` is not part of the conversation: add it to the "
                "turn that it belongs to, or rename the key to ignore it"
            )
    return [*system, *history, *turns]


def _asked(fields: Fields, key: str) -> list[Turn]:
    if _is_turns(fields.values.get(key)):
        return read_turns(fields, key, learned=False)
    return [Turn("user", fields.text(key, "prompt"))]


def _answer(fields: Fields, key: str, asked: list[Turn]) -> list[Turn]:
    value = fields.values.get(key)
    if _is_turns(value):
        turns = read_turns(fields, key, learned=True)
        # Preference data repeat the prompt before each answer, so it is removed here.
        repeated = [turn[:2] for turn in turns[: len(asked)]] == [turn[:2] for turn in asked]
        return turns[len(asked) :] if repeated and len(turns) > len(asked) else turns
    if key in ("answer", "answers"):
        value = value.get("text") if isinstance(value, dict) else value
        if isinstance(value, list):
            return [_first_answer(fields, key, value)]
        if key == "answers" and isinstance(value, str) and value.lstrip().startswith(("{", "[")):
            raise RowRefusedError(
                "key `answers` contains a list or an object as text: save the data as JSONL or "
                "Parquet instead of CSV, or write the first answer alone"
            )
    return [Turn("assistant", fields.text(key, "response"), learned=True)]


def _first_answer(fields: Fields, key: str, answers: list[object]) -> Turn:
    """Return the first of several correct answers, as in SQuAD."""
    fields.take(key)
    text = Fields({key: answers[0] if answers else None}).text(key, "response")
    if any(other != answers[0] for other in answers):
        fields.leave(f"{key}[1:]")
    return Turn("assistant", text, learned=True)


def _is_turns(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _pair(fields: Fields, keys: tuple[str, ...]) -> str:
    """Return texts with their names, one per line: "Sentence 1: ..."."""
    names = [re.sub(r"(\d)", r" \1", key).capitalize() for key in keys]
    return "\n".join(
        f"{name}: {fields.text(key, key)}" for name, key in zip(names, keys, strict=True)
    )


def _context(fields: Fields, key: str) -> str:
    value = fields.values[key]
    if not isinstance(value, list):
        return fields.text(key, key)
    fields.take(key)
    return "\n\n".join(Fields({key: one}).text(key, key) for one in value)


def _system_turn(fields: Fields, keys: tuple[str, ...]) -> list[Turn]:
    key = fields.first(keys)
    return [] if key is None else [Turn("system", fields.text(key, "system text"))]


def _confidence(fields: Fields, key: str | None) -> float:
    if key is None:
        return 1.0
    try:
        found = float(fields.text(key, "confidence"))
    except ValueError as error:
        if isinstance(error, RowRefusedError):
            raise
        found = math.nan
    if not 0 < found <= 1:
        raise RowRefusedError(
            f"the confidence in key `{shown(key)}` must be a number above 0 and at most 1"
        )
    return found


def _flat(*keys: str, name: str = "") -> Schema:
    """Return a schema of prompt keys followed by the answer key."""
    turns = partial(_flat_turns, prompt_keys=keys[:-1], answer_key=keys[-1])
    return Schema(name or "/".join(keys), keys, turns, answer_key=keys[-1])


def _conversation(key: str) -> Schema:
    return Schema(key, (key,), partial(_conversation_turns, key=key))


# Conversations come first: if a row has both forms, the conversation contains the flat keys.
SCHEMAS = (
    _conversation("messages"),
    _conversation("conversations"),
    _conversation("conversation"),
    _flat("prompt", "completion"),
    _flat("prompt", "response"),
    _flat("query", "response"),
    _flat("question", "answer"),
    _flat("question", "response"),
    _flat("question", "answers"),  # SQuAD
    _flat("question", "answerKey"),  # ARC
    _flat("prompt", "answer"),  # TRACE's own files
    _flat("problem", "solution"),
    _flat("input", "output"),
    _flat("instruction", "output", name="instruction/input/output"),  # Alpaca
    _flat("instruction", "response"),  # Dolly
    _flat("text", "label"),
    _flat("sentence", "label"),
    _flat("sentence1", "sentence2", "label"),
    _flat("question1", "question2", "label"),
    _flat("question", "sentence", "label"),
    _flat("premise", "hypothesis", "label"),
)

_ASKED = frozenset(
    (*READ_BESIDE, *MEDIA, *(key for one in SCHEMAS if one.answer_key for key in one.keys[:-1]))
)
