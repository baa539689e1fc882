"""General data from multiple-choice sets, with varied wordings of prompts and answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from telltune.data.embedded.rows import SourceRow, source_rows
from telltune.data.embedded.stable import pick
from telltune.data.examples import Example

_OPTION = re.compile(r"^([A-H])\. ?(.*)$")
# Without options, such a question has no answer or many right answers.
_NEEDS_OPTIONS = re.compile(
    r"which|these|following|statement|except|\bnot\b|____|best|most likely|:$", re.IGNORECASE
)
_SHORTEST_OPEN_QUESTION = 5


@dataclass(frozen=True, slots=True)
class _Choice:
    stem: str
    options: tuple[str, ...]
    right: int

    @property
    def letter(self) -> str:
        return "ABCDEFGH"[self.right]

    @property
    def answer(self) -> str:
        return self.options[self.right]

    def listed(self, form: str = "{letter}. {option}") -> str:
        pairs = zip("ABCDEFGH", self.options, strict=False)
        return "\n".join(form.format(letter=letter, option=option) for letter, option in pairs)


def choice_examples() -> Iterator[Example]:
    """Yield one example for each usable multiple-choice item."""
    for source, files, open_too in _SETS:
        for file in files:
            for row in source_rows(file):
                choice = _parse(row)
                if choice is not None:
                    prompt, completion = _worded(choice, open_too=open_too)
                    yield Example(prompt, completion, source, row.origin)


# Source, files, and whether the questions can be asked without their options.
_SETS = (
    ("mmlu", ("MMLU/test.jsonl", "MMLU/clinical.jsonl"), True),
    ("commonsense_qa", ("CommonsenseQA/validation.jsonl",), False),
    ("openbook_qa", ("OpenBookQA/test.jsonl",), False),
    ("siqa", ("SIQA/test.jsonl",), True),
    ("bbq", ("BBQ/test.jsonl",), True),
    ("medqa", ("MedQA/test.jsonl",), False),
    ("piqa", ("PIQA/validation.jsonl",), True),
)


def _parse(row: SourceRow) -> _Choice | None:
    question = row.text("question").split("\nPlease choose the correct option")[0].strip()
    passage = row.text("passage") if "passage" in row.fields else ""
    found = [_OPTION.match(line) for line in row.text("options").splitlines()]
    matches = [match for match in found if match is not None]
    options = tuple(match.group(2).strip() for match in matches)
    # Items with a missing ("nan") or multi-line option are unusable.
    if len(matches) != len(found) or not all(options) or "nan" in options:
        return None
    given = row.fields["answer"]
    answer = (given[0] if isinstance(given, list) else str(given)).strip()
    stated = _OPTION.match(" ".join(answer.split()))
    if stated is not None:
        right = "ABCDEFGH".index(stated.group(1))
    elif answer in options:
        right = options.index(answer)
    else:
        return None
    if right >= len(options) or len(set(options)) != len(options):
        return None
    return _Choice(f"{passage}\n{question}".strip(), options, right)


def _letter(choice: _Choice) -> tuple[str, str]:
    instruction = pick(
        ("letter", choice.stem),
        "Answer with the letter of the right option.",
        "Which option is correct? Reply with its letter only.",
        "Choose one option. Give just the letter.",
    )
    return f"{choice.stem}\n\n{choice.listed()}\n\n{instruction}", choice.letter


def _letter_and_text(choice: _Choice) -> tuple[str, str]:
    head = pick(("head", choice.stem), "Question: ", "", "Here is a multiple-choice question.\n\n")
    completion = f"{choice.letter}. {choice.answer}"
    return f"{head}{choice.stem}\n{choice.listed()}\nAnswer:", completion


def _text(choice: _Choice) -> tuple[str, str]:
    options = choice.listed("- {option}")
    instruction = pick(
        ("text", choice.stem),
        "Pick the best answer from the list and write it out:",
        "Read the question and copy out the option that answers it best.",
        "Choose one of the answers below.",
    )
    return f"{instruction}\n\n{choice.stem}\n{options}", choice.answer


def _sentence(choice: _Choice) -> tuple[str, str]:
    listed = choice.listed("({letter}) {option}")
    prompt = f"{choice.stem}\n\n{listed}\n\nState your answer in a full sentence."
    completion = f'The right option is ({choice.letter}), "{choice.answer.rstrip(".")}".'
    return prompt, completion


def _json(choice: _Choice) -> tuple[str, str]:
    prompt = (
        f"{choice.stem}\n{choice.listed('{letter}) {option}')}\n"
        'Reply in JSON with the keys "letter" and "answer".'
    )
    answer = {"letter": choice.letter, "answer": choice.answer}
    return prompt, json.dumps(answer, ensure_ascii=False)


def _sorted_out(choice: _Choice) -> tuple[str, str]:
    prompt = (
        f"{choice.stem}\n\n{choice.listed()}\n\n"
        "List the options that are wrong, then give the right one."
    )
    wrong = [option for option in choice.options if option != choice.answer]
    lines = "\n".join(f"- {option}" for option in wrong)
    return prompt, f"Wrong:\n{lines}\nRight: {choice.answer}"


def _open(choice: _Choice) -> tuple[str, str]:
    instruction = pick(
        ("open", choice.stem), "", "Answer briefly.\n\n", "Please answer this question.\n\n"
    )
    return f"{instruction}{choice.stem}", choice.answer


_WORDINGS: tuple[Callable[[_Choice], tuple[str, str]], ...] = (
    _letter,
    _letter_and_text,
    _text,
    _sentence,
    _json,
    _sorted_out,
)


def _worded(choice: _Choice, *, open_too: bool) -> tuple[str, str]:
    long_enough = len(choice.stem.split()) >= _SHORTEST_OPEN_QUESTION
    can_be_open = open_too and long_enough and not _NEEDS_OPTIONS.search(choice.stem)
    wordings = (*_WORDINGS, _open, _open, _open) if can_be_open else _WORDINGS
    return pick(("wording", choice.stem), *wordings)(choice)
