"""Numbered inputs in one prompt, and parsing of the numbered answers in one reply.

Replies are parsed as lists, tables or JSON in all usual shapes. Answers are never guessed: unless
each number appears exactly once with an answer, nothing is returned.

In a list, an answer is the text after its number up to the next number. Numbers that are indented
further than the first one belong to the answer above them. Text before the first number is ignored,
and so is text after a blank line that follows the last answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

Format = Literal["lines", "json"]
Pair = tuple[int, str]
"""A number and its answer; "" if the answer cannot be parsed."""

_ASKS = {
    "lines": "Answer each of the {n} inputs below. Reply with a line for each, the number, a colon "
    "and the answer, and nothing else.",
    "json": "Answer each of the {n} inputs below. Reply with one JSON object that maps each number "
    "to its answer, and nothing else.",
}
_SEVERAL_LINES = " An input of several lines is written as a JSON string on one line."

_NAMES = r"(?:answers?|inputs?|items?|questions?|outputs?|responses?|results?|labels?|number|no\.)"
_KEY = re.compile(
    rf"""(?P<indent>\s*)
    (?:[-*+•>]\s+)? (?P<head>\#{{1,6}}\s*)?              # a list's bullet, a heading's sign
    (?P<mark>\*\*|__|[*_`])?                             # bold or the like
    (?P<name>(?:the\s+)?{_NAMES}\s*(?:(?:to|for|of)\s+)?)*  # "Answer", "the answer to input"
    \#?(?:\((?P<round>\d{{1,6}})\)|\[(?P<square>\d{{1,6}})\]|(?P<bare>\d{{1,6}}))
    (?P<early>(?(mark)(?:(?P=mark))?))                   # the bold ends before the colon
    (?(bare)
        (?:\s*(?:[:：](?!\d\d(?!\d))|\.(?!\d)|[)．、])      # neither a time nor a decimal
        |\s+(?:[-–—=]|->|=>|→)(?=\s)
        # The number of a heading may stand alone, with the answer below.
        |(?(head)|(?(mark)|(?(name)|(?!))))(?=\s*$))
        |(?:\s*[:：.]|\s+[-–—](?=\s)|(?=\s|$)))
    (?P<late>(?(mark)(?:(?P=mark))?))                    # or behind it
    \s*(?P<answer>.*)""",
    re.VERBOSE | re.IGNORECASE,
)
_ROW = re.compile(r"\s*(?:\||[*_`#]*\d{1,6}[*_`]*\s*\|)")
# Without ambiguous runs of white space, which would take quadratic time.
_RULE = re.compile(r"\s*(?:\|\s*)?:?-+:?\s*(?:\|\s*:?-+:?\s*)+(?:\|\s*)?")
_FENCED = re.compile(r"^[^\S\n]*```[^\n`]*\n(.*?)^[^\S\n]*```[^\S\n]*$", re.DOTALL | re.MULTILINE)
_JSON = re.compile(r'\{\s*["}]|\[\s*[\[{"]')
_NUMBER = re.compile(rf"[\s#(\[*_]*(?:{_NAMES}[\s_#-]*)?(\d{{1,6}})[\s).:\]*_]*", re.IGNORECASE)
_NUMBER_KEYS = frozenset(
    {"id", "number", "no", "nr", "n", "#", "key", "index", "input", "item", "question"}
)
_ANSWER_KEYS = frozenset({"answer", "label", "output", "response", "result", "prediction", "value"})
_DEEPEST = 8
"""Maximum nesting of JSON that is searched."""


def ask_group(prompts: Sequence[str], form: Format) -> str:
    """Return one prompt for several inputs, numbered from 1, each on one line.

    An input of several lines is written as a JSON string. Its lines that begin with a number then
    cannot be mistaken for other inputs.
    """
    lines = [
        prompt if prompt.splitlines() in ([prompt], []) else _on_one_line(prompt)
        for prompt in prompts
    ]
    told = _SEVERAL_LINES if lines != list(prompts) else ""
    inputs = "\n".join(f"{i}. {line}" for i, line in enumerate(lines, start=1))
    return f"{_ASKS[form].format(n=len(prompts))}{told}\n\n{inputs}"


def _on_one_line(text: str) -> str:
    """Return a text as a JSON string, with all line-break characters escaped."""
    said = json.dumps(text, ensure_ascii=False)
    return re.sub("[\x85\u2028\u2029]", lambda end: f"\\u{ord(end[0]):04x}", said)


def say_answers(answers: Sequence[str], form: Format) -> str:
    """Return a reply in the requested format. In lines, line breaks of answers become spaces."""
    if form == "json":
        keyed = {str(i): answer for i, answer in enumerate(answers, start=1)}
        return json.dumps(keyed, ensure_ascii=False)
    return "\n".join(f"{i}: {' '.join(a.split())}" for i, a in enumerate(answers, start=1))


def read_answers(reply: str, count: int) -> list[str] | None:
    """Return the numbered answers of a reply in the order of the `count` inputs.

    None unless the reply has each number from 1 to `count` exactly once, no other number, and no
    empty answer. Any format that this module parses is accepted, whichever was requested.
    """
    fenced = _FENCED.search(reply)
    if fenced and not any(map(_KEY.fullmatch, reply[: fenced.start()].splitlines())):
        # The fence encloses the whole reply, not a part of an answer.
        reply = fenced[1]
    lines = reply.splitlines()
    first = next((line for line in lines if _KEY.fullmatch(line) or _JSON.search(line)), "")
    found = [] if _KEY.fullmatch(first) else _json_pairs(reply)
    found = found or _line_pairs(lines)
    answers = {number: answer.strip() for number, answer in found}
    if len(found) != count or set(answers) != set(range(1, count + 1)):
        return None
    return [answers[i] for i in range(1, count + 1)] if all(answers.values()) else None


def _line_pairs(lines: Sequence[str]) -> list[Pair]:
    """Return the numbers and answers of a list or a table."""
    found: list[Pair] = []
    indent, header, before = 0, [""], [""]
    behind: list[str] = []
    """Lines after a blank one: part of the answer if a number follows, else a closing remark."""
    listed = False
    for line in lines:
        key = _KEY.fullmatch(line)
        if _RULE.fullmatch(line):
            header = before
        elif _ROW.match(line):
            before = _cells(line)
            number = _NUMBER.fullmatch(before[0])
            if number:
                found.append((int(number[1]), _cell(before, header)))
                listed = False
        elif key and (not listed or len(key["indent"]) <= indent + 1):
            if listed:
                found[-1] = _longer(found[-1], behind)
            else:
                indent = len(key["indent"])
            listed, behind = True, []
            found.append(_listed(key))
        elif listed:
            own = line.strip() and not behind
            if own or not found[-1][1]:
                found[-1] = _longer(found[-1], [line])
            else:
                behind.append(line)
    return found


def _longer(pair: Pair, lines: Sequence[str]) -> Pair:
    return pair[0], "\n".join([pair[1], *lines]).strip()


def _listed(key: re.Match[str]) -> Pair:
    answer, mark = key["answer"].strip(), key["mark"]
    if mark and not (key["early"] or key["late"]):
        answer = answer.removesuffix(mark)
    return int(key["round"] or key["square"] or key["bare"]), answer


def _cells(row: str) -> list[str]:
    """Return the cells of a table row."""
    inner = row.strip().removeprefix("|")
    inner = inner if inner.endswith("\\|") else inner.removesuffix("|")
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", inner)]


def _cell(row: Sequence[str], header: Sequence[str]) -> str:
    """Return the answer of a table row: its only other cell, or that in the only answer column."""
    if len(row) == 2:
        return row[1]
    named = [i for i, name in enumerate(header) if name.strip("*_` ").casefold() in _ANSWER_KEYS]
    return row[named[0]] if len(named) == 1 and len(row) == len(header) else ""


class _Object(list[tuple[str, Any]]):
    """JSON object as pairs, because a dict would keep only the last of repeated keys."""


# Numbers are kept as they are written.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_Object, parse_int=str, parse_float=str, parse_constant=str
)


def _json_pairs(text: str) -> list[Pair]:
    """Return the numbers and answers of all JSON in a text; none if some of it is invalid."""
    found: list[Pair] = []
    end = 0
    while start := _JSON.search(text, end):
        try:
            value, end = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            return []
        found += _numbered(value, _DEEPEST)
    return found


def _numbered(value: object, deepest: int) -> Iterator[Pair]:
    """Yield numbers and answers of objects keyed by number or with an id, nested ones included."""
    if deepest == 0 or not isinstance(value, list):
        return
    parts = value
    if isinstance(value, _Object):
        numbers = [(_NUMBER.fullmatch(key), part) for key, part in value]
        keyed = [(int(number[1]), _text(part)) for number, part in numbers if number]
        ids = [
            _NUMBER.fullmatch(part)
            for key, part in value
            if key.casefold() in _NUMBER_KEYS and isinstance(part, str)
        ]
        named = [number for number in ids if number]
        if keyed or len(named) == 1:
            yield from keyed or [(int(named[0][1]), _text(value))]
            return
        parts = [part for _, part in value]
    for part in parts:
        yield from _numbered(part, deepest - 1)


def _text(value: object) -> str:
    """Return a JSON value, or an object's only answer value, as text; "" if there is none."""
    if isinstance(value, _Object):
        named = [part for key, part in value if key.casefold() in _ANSWER_KEYS]
        return _text(named[0]) if len(named) == 1 and not isinstance(named[0], list) else ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else ""
