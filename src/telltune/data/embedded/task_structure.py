"""Tasks whose answer is short and exact: an expression, a JSON object or a fact."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import prod

from telltune.data.embedded.rows import source_rows
from telltune.data.embedded.task import EmbeddedTask, split
from telltune.data.examples import Example


def equation() -> EmbeddedTask:
    """Return the task of converting word problems to arithmetic expressions."""
    return EmbeddedTask(
        "equation",
        "A short word problem is converted to the arithmetic expression that solves it.",
        *split(_equations()),
        anchor_prompt=(
            "You turn word problems into arithmetic. Write the one expression that solves the "
            "problem, such as 12 - 5, with one kind of + - * / and no result. Put larger numbers "
            "first when you subtract or divide."
        ),
        anchor_response="",
        metrics=("exact_match", "chrf"),
    )


_NUMBER_WORDS = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
}
_NUMBER = re.compile(rf"\d[\d,]*(?:\.\d+)?|\b(?:{'|'.join(_NUMBER_WORDS)})\b", re.IGNORECASE)
# These words and marks imply a number that the expression would have to contain.
_HIDDEN_NUMBER = re.compile(
    r"%|\d:\d|\d/\d|-year-old|\b(twice|thrice|half|halves|double|triple|dozens?|pairs?|quarters?"
    r"|thirds?|fourths?|fraction|percent|ratio)\b",
    re.IGNORECASE,
)


def _equations() -> Iterator[Example]:
    for row in source_rows("ASDiv/test.jsonl"):
        problem = f"{row.text('passage')} {row.text('question')}"
        expression = _expression(problem, row.text("answer"))
        if expression and not _HIDDEN_NUMBER.search(problem):
            yield Example(problem, expression, "asdiv", row.origin)


def _expression(problem: str, answer: str) -> str | None:
    """Return the only expression in the problem's 2 or 3 numbers with the given result, or None."""
    numbers = [_digits(found) for found in _NUMBER.findall(problem)]
    results = [_digits(found) for found in _NUMBER.findall(answer)]
    if len(numbers) not in (2, 3) or len(results) != 1:
        return None
    ordered = sorted(numbers, key=float, reverse=True)
    values = [float(number) for number in ordered]
    candidates = {
        " + ".join(numbers): sum(values),
        " - ".join(ordered): values[0] - sum(values[1:]),
        " * ".join(numbers): prod(values),
    }
    if len(numbers) == 2 and values[1]:
        candidates[" / ".join(ordered)] = values[0] / values[1]
    found = [text for text, value in candidates.items() if value == float(results[0])]
    return found[0] if len(found) == 1 else None


def _digits(number: str) -> str:
    return _NUMBER_WORDS.get(number.lower(), number).replace(",", "")


_MENTION_KINDS = {
    "gender": "gender",
    "profession": "profession",
    # The source's category "race" contains countries and peoples.
    "race": "origin",
    "religion": "religion",
}


def mention_json() -> EmbeddedTask:
    """Return the task of extracting a mention of people from a sentence, as JSON."""
    return EmbeddedTask(
        "mention_json",
        "A sentence becomes a JSON object with the words that name people and the kind of mention.",
        *split(_mentions()),
        anchor_prompt=(
            "You extract mentions of people. Reply with one JSON object with two fields: "
            '"mention", the words of the text that name a group or role, and "kind", one of '
            "gender, profession, origin, religion."
        ),
        anchor_response="",
        metrics=("json_field_accuracy", "json_valid", "exact_match"),
    )


def _mentions() -> Iterator[Example]:
    for row in source_rows("StereoSet/test.jsonl"):
        # The other half of the file has a gap in place of a stereotype.
        if row.fields["type"] != "intersentence":
            continue
        sentence = row.text("context")
        found = re.findall(rf"\b{re.escape(row.text('target'))}s?\b", sentence, re.IGNORECASE)
        if len(found) == 1:
            answer = {"mention": found[0], "kind": _MENTION_KINDS[row.text("bias_type")]}
            completion = json.dumps(answer, ensure_ascii=False)
            yield Example(sentence, completion, "stereoset", row.origin)


_LONGEST_ANSWER = 5


def open_question() -> EmbeddedTask:
    """Return the task of answering search questions from memory, in a few words."""
    return EmbeddedTask(
        "open_question",
        "A search question is answered from memory, in a few words.",
        *split(_questions()),
        anchor_prompt="You answer quiz questions from memory. Give the answer alone, no sentence.",
        anchor_response="",
        metrics=("token_f1", "exact_match"),
    )


def _questions() -> Iterator[Example]:
    for row in source_rows("NQ-open/combined.jsonl"):
        # Only the first right answer is used; the others are mostly spelling variants.
        answer = " ".join(str(row.fields["answer"][0]).split())
        question = row.text("question").rstrip("?")
        if answer not in ("", "N/A") and len(answer.split()) <= _LONGEST_ANSWER:
            yield Example(f"{question}?", answer, "nq_open", row.origin)
