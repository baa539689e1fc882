"""General data from sets of passages with questions about them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from telltune.data.embedded.rows import SourceRow, source_rows
from telltune.data.embedded.stable import pick, stable_number
from telltune.data.examples import Example


def reading_examples() -> Iterator[Example]:
    """Yield questions on passages of encyclopedias, research, contracts, policies and stories."""
    yield from _boolq()
    yield from _pubmed_qa()
    yield from _disfl_qa()
    yield from _contracts()
    yield from _privacy_qa()
    yield from _stories()


_LONGEST_PASSAGE = 130
# One labeled item in three is kept; all of them would be half of the general data.
_KEPT_PARTS = 3


def _boolq() -> Iterator[Example]:
    for row in source_rows("BoolQ/combined.jsonl"):
        if "label" not in row.fields or stable_number("boolq", row.text("question")) % _KEPT_PARTS:
            continue
        title, _, passage = row.text("passage").partition(" -- ")
        if 25 <= len(passage.split()) <= _LONGEST_PASSAGE:
            question = _as_sentence(row.text("question"))
            prompt, completion = _encyclopedic(
                title, passage, question, truth=bool(row.fields["label"])
            )
            yield Example(prompt, completion, "boolq", row.origin)


def _encyclopedic(title: str, passage: str, question: str, *, truth: bool) -> tuple[str, str]:
    word = "Yes" if truth else "No"
    first, rest = _halves(passage)
    choices = [
        (f"{passage}\n\n{question} Answer yes or no.", word.lower()),
        (f"Text about {title}:\n{passage}\n\nQuestion: {question}\nAnswer:", word),
        (
            f"{question}\n\nUse this passage:\n{passage}",
            f"{word}, going by the passage on {title}.",
        ),
        (
            (
                f"Read the passage and say whether the answer is true or false.\n\n{passage}\n\n"
                f"{question}"
            ),
            str(truth),
        ),
        (
            (
                f"{passage}\n\nWrite a yes-or-no question about this passage, one to which the "
                f"answer is {word.lower()}."
            ),
            question,
        ),
        (f"Give this text a title.\n\n{passage}", title),
        (f"Write a short encyclopedia paragraph about {title}.", passage),
        (f"Tell me something about {title}, please.", passage),
        (f"Tell me about {title}. Two sentences at most.", _first_sentences(passage, 2)),
    ]
    if rest:
        choices.append((f"Continue this text about {title}.\n\n{first}", rest))
    return pick(("boolq wording", question), *choices)


_CONTEXT_LABEL = re.compile(r"Context \(\d+\): ?")


def _pubmed_qa() -> Iterator[Example]:
    for file in ("PubMedQA/pqal/test.jsonl", "PubMedQA/pqaa/test.jsonl"):
        for row in source_rows(file):
            question = _as_sentence(row.text("question"))
            answer = row.text("answer")
            parts = [part.strip() for part in _CONTEXT_LABEL.split(row.text("passage"))]
            parts = [part for part in parts if part]
            abstract = "\n".join(parts)
            prompt, completion = pick(
                ("pubmed wording", question),
                (f"{abstract}\n\n{question} Answer yes, no or maybe.", answer),
                (
                    (
                        f"Study abstract:\n{abstract}\n\nQuestion: {question}\n"
                        "Answer and name the finding that decides it."
                    ),
                    f"{answer.capitalize()}. {parts[-1]}",
                ),
                (f"{abstract}\n\nWhich question did this study ask?", question),
                (
                    (
                        f"A study asked: {question}\n{parts[0]}\n\n"
                        "Sketch how one could go about it and what one might find."
                    ),
                    "\n".join(parts[1:]) or answer,
                ),
            )
            yield Example(prompt, completion, "pubmed_qa", row.origin)


def _disfl_qa() -> Iterator[Example]:
    for row in source_rows("Bigbench/DisflQA/test.jsonl"):
        passage, question = _detokenized(row.text("passage")), _detokenized(row.text("question"))
        known = row.text("answer") != "unknown"
        answer = _detokenized(row.text("answer")) if known else "The text does not say."
        prompt = pick(
            ("disfl wording", question),
            f"{passage}\n\n{question}",
            (
                "Answer from the text, or say that the text does not tell.\n\n"
                f"Text: {passage}\nQuestion: {question}"
            ),
            (
                f"Someone asks, a little confused: {question}\n\nWhat is the answer, going by "
                f"this text?\n{passage}"
            ),
        )
        yield Example(prompt, answer, "disfl_qa", row.origin)


_LONGEST_CONTRACT = 350


def _contracts() -> Iterator[Example]:
    for source, file in (
        ("contracts", "Contracts/test.jsonl"),
        ("consumer_contracts", "Consumer-Contracts/test.jsonl"),
    ):
        for row in source_rows(file):
            contract, question = row.text("contract"), row.text("question")
            if len(contract.split()) > _LONGEST_CONTRACT:
                continue
            word = "Yes" if row.text("answer") == "True" else "No"
            prompt, completion = pick(
                ("contract wording", question, contract),
                (f"{contract}\n\n{question}", f"{word}."),
                (
                    f"Contract:\n{contract}\n\nQuestion: {question}\nAnswer yes or no:",
                    word.lower(),
                ),
                (f"{question}\n\nDecide by this text:\n\n{contract}", word),
            )
            yield Example(prompt, completion, source, row.origin)


# Each clause has about ten questions in the file; one row in six is kept.
_KEPT_CLAUSES = 6


def _privacy_qa() -> Iterator[Example]:
    for row in source_rows("Privacy-Policy/test.jsonl"):
        if stable_number("privacy", row.origin) % _KEPT_CLAUSES:
            continue
        clause, question = row.text("context"), _as_sentence(row.text("question"))
        relevant = row.text("answer") == "True"
        prompt, completion = pick(
            ("privacy wording", clause, question),
            (
                (
                    f'From a privacy policy: "{clause}"\nA user asks: {question}\n'
                    "Does the clause help to answer?"
                ),
                "Yes, it does." if relevant else "No, it does not.",
            ),
            (
                f"Question: {question}\nClause: {clause}\nRelevant or irrelevant?",
                "relevant" if relevant else "irrelevant",
            ),
            (
                (
                    f"A user of an app asks: {question} Is this sentence of its privacy policy "
                    f"relevant to that?\n\n{clause}"
                ),
                "Yes" if relevant else "No",
            ),
        )
        yield Example(prompt, completion, "privacy_qa", row.origin)


_LONGEST_STORY = 420
_QUESTIONS_A_QUIZ = 5


def _stories() -> Iterator[Example]:
    by_story: dict[str, list[SourceRow]] = defaultdict(list)
    for row in source_rows("NarrativeQA/test.jsonl"):
        by_story[row.fields["passage"]].append(row)
    for rows in by_story.values():
        story = rows[0].text("passage")
        if len(story.split()) > _LONGEST_STORY:
            continue
        # Every question needs the whole story, so several questions share an example.
        for start in range(0, len(rows) - _QUESTIONS_A_QUIZ + 1, _QUESTIONS_A_QUIZ):
            group = rows[start : start + _QUESTIONS_A_QUIZ]
            yield from _story_examples(story, group, number=start // _QUESTIONS_A_QUIZ)


def _story_examples(story: str, group: list[SourceRow], *, number: int) -> Iterator[Example]:
    first, *others = group
    question, answer = _as_sentence(first.text("question")), _story_answer(first)
    prompt = pick(
        ("story", question), f"{story}\n\n{question}", f"{question}\n\nThe story:\n{story}"
    )
    yield Example(prompt, answer, "narrative_qa", first.origin)
    asked = [_as_sentence(row.text("question")) for row in others]
    answered = [_story_answer(row) for row in others]
    if number % 2:
        pairs = zip(asked, answered, strict=True)
        quiz = "\n".join(f"Q: {one}\nA: {other}" for one, other in pairs)
        start = asked[0].split()[0]
        prompt = (
            f"{story}\n\nWrite {len(others)} quiz questions on this story with their answers; "
            f'begin with a question that starts with "{start}".'
        )
        yield Example(prompt, quiz, "narrative_qa", others[0].origin)
    else:
        numbered = "\n".join(f"{i}. {one}" for i, one in enumerate(asked, start=1))
        solved = "\n".join(f"{i}. {one}" for i, one in enumerate(answered, start=1))
        prompt = f"Answer the questions on this story.\n\n{story}\n\n{numbered}"
        yield Example(prompt, solved, "narrative_qa", others[0].origin)


def _story_answer(row: SourceRow) -> str:
    answers: list[str] = row.fields["answer"]
    return _as_sentence(max((" ".join(answer.split()) for answer in answers), key=len), end=".")


def _as_sentence(text: str, end: str = "?") -> str:
    """Return the text with an initial capital and a final punctuation mark."""
    text = " ".join(text.split())
    text = text if text.endswith((".", "?", "!")) else text + end
    return text[:1].upper() + text[1:]


_SENTENCE_END = re.compile(r"(?<=[a-z0-9)][.!?]) (?=[A-Z])")


def _first_sentences(passage: str, count: int) -> str:
    return " ".join(_SENTENCE_END.split(passage)[:count])


def _halves(passage: str) -> tuple[str, str]:
    sentences = _SENTENCE_END.split(passage)
    middle = (len(sentences) + 1) // 2
    return " ".join(sentences[:middle]), " ".join(sentences[middle:])


_SPACED_MARK = re.compile(r" ([,.;:?!%)\]])")
_SPACED_JOIN = re.compile(r" (['’]) (s|t|re|ve|ll|d|m)\b|(?<=\w) (-|–) (?=\w)|([(\[]) ")


def _detokenized(text: str) -> str:
    """Remove the source's spaces around punctuation."""
    joined = _SPACED_JOIN.sub(lambda found: found.group(0).replace(" ", ""), text)
    return _SPACED_MARK.sub(r"\1", joined).strip()
