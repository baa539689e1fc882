"""Tasks whose answer is a corrected version of the prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import attrgetter

from telltune.data.embedded.rows import SourceRow, source_rows
from telltune.data.embedded.stable import pick, stable_number
from telltune.data.embedded.task import EmbeddedTask, normal_words, split
from telltune.data.examples import Example

_PLAIN_SENTENCE = re.compile(r"[A-Z][A-Za-z0-9' ,?!.-]*[.?!]")
_REMOVED = re.compile(r"[,?!.]")
_SHORTEST_SENTENCE = 5


def restore_text() -> EmbeddedTask:
    """Return the task of restoring capital letters and punctuation in a sentence."""
    return EmbeddedTask(
        "restore_text",
        "Capitals and punctuation are restored in a lower-case sentence without punctuation.",
        *split(_bare_sentences()),
        anchor_prompt=(
            "You restore capital letters and punctuation. Repeat the text with both put right "
            "and change no words."
        ),
        anchor_response="Understood. I return the same words, written properly.",
        metrics=("exact_match", "chrf"),
    )


def _bare_sentences() -> Iterator[Example]:
    for row in source_rows("Translation/test.jsonl"):
        sentence = row.text("sourceString")
        if len(sentence.split()) < _SHORTEST_SENTENCE or not _PLAIN_SENTENCE.fullmatch(sentence):
            continue
        yield Example(_REMOVED.sub("", sentence).lower(), sentence, "tatoeba", row.origin)


def fluent_question() -> EmbeddedTask:
    """Return the task of rewriting disfluent questions as the intended questions."""
    return EmbeddedTask(
        "fluent_question",
        "A spoken question with a slip and its correction is rewritten as the intended question.",
        *split(_disfluent_questions(), item=attrgetter("completion")),
        anchor_prompt=(
            "You clean up transcripts of spoken questions. People hesitate and correct "
            "themselves. Write only the question that the speaker meant in the end."
        ),
        anchor_response="",
        metrics=("exact_match", "chrf"),
    )


_CORRECTIONS = (
    "no wait",
    "I mean",
    "or rather",
    "no sorry",
    "uh no",
    "make that",
    "hold on",
    "actually no",
)
_HESITATIONS = ("uh", "um", "er", "well", "you know")
_SHORTEST_QUESTION = 5


def _disfluent_questions() -> Iterator[Example]:
    rows = [
        row
        for row in source_rows("healthsearchqa/test.jsonl")
        if len(row.text("question").split()) >= _SHORTEST_QUESTION
        and row.text("question").endswith("?")
    ]
    for row in rows:
        question = row.text("question")
        yield Example(_with_slip(question, rows), question, "healthsearchqa", row.origin)


def _with_slip(question: str, rows: list[SourceRow]) -> str:
    """Insert a disfluency of a Disfl-QA kind: restart, replacement or repetition."""
    words = question.rstrip("?").split()
    # Spellings of one question get the same slip, so that they are detected as duplicates.
    key = " ".join(normal_words(question))
    other = pick(("slip", key), *rows).text("question").rstrip("?").split()
    correction = pick(("correction", key), *_CORRECTIONS)
    kind = pick(("kind", key), "restart", "replacement", "repetition")
    if kind == "restart":
        begun = other[: 2 + stable_number("begun", key) % 3]
        return " ".join([*begun, correction, words[0].lower(), *words[1:]])
    place = 2 + stable_number("place", key) % (len(words) - 2)
    if kind == "replacement":
        return " ".join([*words[:place], *other[-2:], correction, *words[place:]])
    hesitation = pick(("hesitation", key), *_HESITATIONS)
    return " ".join([*words[:place], hesitation, *words[place - 2 : place], *words[place:]])
