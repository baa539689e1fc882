"""Classification tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from telltune.data.embedded.rows import source_rows
from telltune.data.embedded.task import EmbeddedTask, split_by_label
from telltune.data.examples import Example

SPECIALTY_FILES = {
    "Anatomy": "anatomy",
    "Biochemistry": "biochemistry",
    "Dental": "dentistry",
    "Gynaecology_Obstetrics": "gynaecology",
    "Microbiology": "microbiology",
    "Ophthalmology": "ophthalmology",
    "Pharmacology": "pharmacology",
    "Social_Preventive_Medicine": "public health",
}

_LONGEST_QUESTION = 30
_SHORTEST_QUESTION = 3


def medical_specialty() -> EmbeddedTask:
    """Return the task of routing exam questions to one of eight medical specialties."""
    splits = split_by_label(_specialty_examples(), per_label=250)
    labels = ", ".join(SPECIALTY_FILES.values())
    return EmbeddedTask(
        "medical_specialty",
        "A medical exam question is routed to one of eight specialties.",
        *splits,
        anchor_prompt=(
            "You route medical exam questions to the specialty they belong to. Do not answer the "
            f"question. Name one specialty and nothing else: {labels}."
        ),
        anchor_response="Understood. I reply with the name of one specialty.",
        metrics=("accuracy", "macro_f1"),
    )


def _specialty_examples() -> Iterator[Example]:
    for part in ("Test", "Validation"):
        for file, label in SPECIALTY_FILES.items():
            for row in source_rows(f"MedMCQA/MedMCQA-{part}/{file}.jsonl"):
                question = " ".join(row.text("question").split())
                if _SHORTEST_QUESTION <= len(question.split()) <= _LONGEST_QUESTION:
                    yield Example(question, label, "medmcqa", row.origin)


# The question word alone decides many questions. The known answer must also match, which excludes
# exceptions such as a "when" question about an episode.
_KINDS = (
    (
        "number",
        re.compile(r"^how (many|much|long|old|far|tall|high|big|large|deep|fast)\b"),
        re.compile(r"\d|\b(one|two|three|four|five|six|seven|eight|nine|ten|hundred|million)\b"),
    ),
    (
        "date",
        re.compile(r"^(when|(in )?(what|which) (year|day|date|month|century))\b"),
        re.compile(r"\d|january|february|march|april|may|june|july|august|september|october"),
    ),
    ("person", re.compile(r"^who\b"), re.compile(r"^\D+$")),
    ("place", re.compile(r"^(where|(in )?(what|which) (country|city|state))\b"), re.compile(".")),
    (
        "thing",
        re.compile(
            r"^(what|which) (?!.*\b(year|day|date|month|century|number|many|much|actor|actress"
            r"|player|president|king|country|city|state|town|person|time|part)\b)"
        ),
        re.compile(r"^\D+$"),
    ),
)


def answer_kind() -> EmbeddedTask:
    """Return the task of classifying search questions by the kind of answer."""
    splits = split_by_label(_kind_examples(), per_label=400)
    return EmbeddedTask(
        "answer_kind",
        "A search question is labeled with the kind of answer that it asks for.",
        *splits,
        anchor_prompt=(
            "You decide what kind of answer a question asks for. Do not answer the question. "
            "Reply with one word: person, place, date, number or thing."
        ),
        anchor_response="",
        metrics=("accuracy", "macro_f1"),
    )


def _kind_examples() -> Iterator[Example]:
    for row in source_rows("NQ-open/combined.jsonl"):
        question = row.text("question")
        answer = str(row.fields["answer"][0]).lower()
        for label, asked, answered in _KINDS:
            if asked.search(question) and answered.search(answer):
                yield Example(question, label, "nq_open", row.origin)
                break


_CLEARLY_NOT = 0.4
_CLEARLY = 0.6


def explicit_language() -> EmbeddedTask:
    """Return the task of detecting sexually explicit text. All of its texts are rude."""
    splits = split_by_label(_explicit_examples(), per_label=1000)
    return EmbeddedTask(
        "explicit_language",
        "A rude snippet of web text is labeled as sexually explicit or not.",
        *splits,
        anchor_prompt=(
            "You moderate comments. Decide whether the text is sexually explicit, however rude "
            "it is otherwise. Reply with explicit or not explicit, nothing else."
        ),
        anchor_response="",
        metrics=("balanced_accuracy", "macro_f1"),
    )


def _explicit_examples() -> Iterator[Example]:
    for row in source_rows("Toxicity/test.jsonl"):
        score = float(row.fields["sexually_explicit"])
        # Scores near the middle mean that the annotator, a model, was uncertain.
        if _CLEARLY_NOT < score < _CLEARLY:
            continue
        label = "explicit" if score >= _CLEARLY else "not explicit"
        yield Example(" ".join(row.text("text").split()), label, "toxicity", row.origin)
