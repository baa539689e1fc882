"""General data with prose answers: advice, explanations, summaries, articles and notes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from telltune.data.embedded.rows import source_rows
from telltune.data.embedded.stable import pick
from telltune.data.examples import Example


def prose_examples() -> Iterator[Example]:
    """Yield examples with answers from one sentence to one page."""
    yield from _fiqa()
    yield from _truthful_qa()
    yield from _xsum()
    yield from _multi_lex_sum()
    yield from _consultations()
    yield from _reviews()


_LONGEST_ADVICE = 350


def _fiqa() -> Iterator[Example]:
    for row in source_rows("Fiqa/test.jsonl"):
        question, answer = row.text("question"), row.text("answer").strip('"')
        if not 3 <= len(answer.split()) <= _LONGEST_ADVICE:
            continue
        prompt = pick(
            ("fiqa", question),
            question,
            f"I have a question about money: {question}",
            f"Give some financial advice.\n\n{question}",
            f"{question}\n\nPlease explain.",
        )
        yield Example(prompt, answer, "fiqa", row.origin)


def _truthful_qa() -> Iterator[Example]:
    for row in source_rows("TruthfulQA/combined.jsonl"):
        question = row.text("question")
        answers = [f"{answer.strip().rstrip('.')}." for answer in row.fields["answer"]]
        listed = "\n".join(f"- {answer}" for answer in answers)
        choices = [
            (question, answers[0]),
            (f"{question} Stick to what is known to be true.", max(answers, key=len)),
        ]
        if len(answers) > 1:
            choices.append((f"{question} Give {len(answers)} good answers as a list.", listed))
        prompt, completion = pick(("truthful", question), *choices)
        yield Example(prompt, completion, "truthful_qa", row.origin)


_SHORTEST_ARTICLE = 40
_LONGEST_ARTICLE = 380


def _xsum() -> Iterator[Example]:
    for row in source_rows("XSum/test.jsonl"):
        article, summary = row.text("document"), row.text("summary")
        if not _SHORTEST_ARTICLE <= len(article.split()) <= _LONGEST_ARTICLE:
            continue
        summarized = (
            f"{article}\n\nSummarise this article in one sentence.",
            f"What is the news here, in a sentence?\n\n{article}",
            f"Write the opening line that belongs above this report.\n\n{article}",
        )
        written = (
            f"Write a news report that opens after this line: {summary}",
            f"Here is the first sentence of a news article. Write the article.\n\n{summary}",
        )
        prompt = pick(("xsum", summary), *summarized, *written)
        completion = summary if prompt in summarized else article
        yield Example(prompt, completion, "xsum", row.origin)


_LONGEST_CASE = 450
_MARKUP = re.compile(r"</?a\b[^>]*>")


def _multi_lex_sum() -> Iterator[Example]:
    for row in source_rows("MultiLexSum/test.jsonl"):
        case, summary = (_MARKUP.sub("", row.text(field)) for field in ("document", "summary"))
        if len(case.split()) > _LONGEST_CASE:
            continue
        prompt = pick(
            ("lex", case),
            f"{case}\n\nSummarise this court case.",
            f"Write a short summary of the case below.\n\n{case}",
            f"What was this lawsuit about and how did it end?\n\n{case}",
        )
        yield Example(prompt, summary, "multi_lex_sum", row.origin)


def _consultations() -> Iterator[Example]:
    for row in source_rows("MTSDialog/validation.csv"):
        dialogue, note = row.text("dialogue"), row.text("section_text")
        prompt = pick(
            ("dialogue", dialogue),
            f"{dialogue}\n\nWrite the note for the patient's file.",
            f"Turn this conversation into a clinical note.\n\n{dialogue}",
        )
        yield Example(prompt, note, "mts_dialog", row.origin)


_LONGEST_REVIEW = 250


def _reviews() -> Iterator[Example]:
    for row in source_rows("imdb/sample.csv"):
        review = " ".join(row.text("text").replace("<br />", " ").split())
        if len(review.split()) > _LONGEST_REVIEW:
            continue
        liked = row.text("label") == "1"
        prompt, completion = pick(
            ("review", review),
            (
                f"Is this review positive or negative?\n\n{review}",
                "positive" if liked else "negative",
            ),
            (
                f"{review}\n\nDid the reviewer like the film?",
                "Yes, the reviewer liked it." if liked else "No, the reviewer did not like it.",
            ),
            (
                (
                    f"Write a {'positive' if liked else 'negative'} film review that begins: "
                    f"{' '.join(review.split()[:8])}"
                ),
                review,
            ),
        )
        yield Example(prompt, completion, "imdb", row.origin)
