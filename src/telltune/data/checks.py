"""What is wrong with examples that could be read: file, line, reason, and what it means."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, NamedTuple, Protocol, TypeVar

from telltune.data.minhash import near_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from telltune.data.examples import Example, Problem

__all__ = [
    "TRAIN",
    "Finding",
    "Group",
    "Groups",
    "Kind",
    "check_examples",
    "finding_of",
    "grouped",
    "question",
]

TRAIN = "train"
"""The group that no other may share prompts with."""

Kind = Literal[
    "malformed",
    "empty",
    "template",
    "over_long",
    "leak_exact",
    "leak_near",
    "duplicate",
    "conflict",
    "control_token",
    "unread",
    "left_out",
    "unnamed_label",
]
REFUSED: frozenset[Kind] = frozenset({"malformed", "empty", "template", "over_long", "leak_exact"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or that the user should know.

    Attributes:
        file: The file as the user named it; the group's name for examples made in Python.
        line: Counted from 1.
        reason: What is wrong, and the other place where there are two.
        kind: Which check found it.
        refused: Training on it would be wrong. Otherwise it is a warning.
    """

    file: str
    line: int
    reason: str
    kind: Kind
    refused: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class _Reported(Protocol):
    """A `Finding` or a `Problem`."""

    @property
    def file(self) -> str: ...
    @property
    def line(self) -> int: ...
    @property
    def reason(self) -> str: ...


T = TypeVar("T", bound=_Reported)

SHOWN_PLACES = 5
MAX_GROUPS = 1000
# Numbers that stand alone: two lengths or two line numbers make no other reason.
_NUMBER = re.compile(r"(?<![\w`])\d+(?:[.,]\d+)*(?![\w`])")


@dataclass(slots=True)
class Group(Generic[T]):
    """Findings or problems whose reason is the same but for its numbers.

    `str` gives one line: "a.jsonl:3: no response: ... (and 2 more, at lines 5, 9)".

    Attributes:
        first: The first of them.
        count: Number of them.
        places: Where the next ones stand, as (file, line); at most `SHOWN_PLACES`.
    """

    first: T
    count: int = 1
    places: list[tuple[str, int]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.first.file}:{self.first.line}: {self.reason}"

    @property
    def reason(self) -> str:
        """The first one's reason, the number of the others and where they stand."""
        if self.count == 1:
            return self.first.reason
        named = [
            str(line) if file == self.first.file else f"{file}:{line}" for file, line in self.places
        ]
        line = "lines " if len(named) > 1 else "line "
        places = (line if named[0].isdecimal() else "") + ", ".join(named)
        more = ", ..." if self.count - 1 > len(named) else ""
        return f"{self.first.reason} (and {self.count - 1:,} more, at {places}{more})"


class Groups(Generic[T]):
    """Collects findings or problems by reason, in memory that does not grow with their number.

    Attributes:
        total: Number of all that were added.
    """

    def __init__(self) -> None:
        self.total = 0
        self._by_reason: dict[str, Group[T]] = {}

    def add(self, item: T) -> None:
        """Count one more."""
        self.total += 1
        reason = _NUMBER.sub("#", item.reason)
        group = self._by_reason.get(reason)
        if group is None:
            if len(self._by_reason) < MAX_GROUPS:
                self._by_reason[reason] = Group(item)
            return
        group.count += 1
        if len(group.places) < SHOWN_PLACES:
            group.places.append((item.file, item.line))

    def __iter__(self) -> Iterator[Group[T]]:
        """Groups in the order of their first member; at most `MAX_GROUPS`."""
        return iter(self._by_reason.values())


def grouped(items: Iterable[T]) -> list[Group[T]]:
    """Put findings or problems of one reason together, in the order in which reasons first come."""
    groups: Groups[T] = Groups()
    for item in items:
        groups.add(item)
    return list(groups)


class _Placed(NamedTuple):
    """An example and where it stands."""

    file: str
    line: int
    example: Example

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def finding(self, kind: Kind, reason: str) -> Finding:
        return Finding(self.file, self.line, reason, kind, kind in REFUSED)


def check_examples(
    groups: Mapping[str, Sequence[Example]],
    *,
    control_tokens: Collection[str] = (),
    count_tokens: Callable[[Example], int] | None = None,
    max_length: int | None = None,
    refusal: Callable[[Example], str | None] = lambda _: None,
) -> list[Finding]:
    """Look for what makes training wrong or a score worthless.

    Args:
        groups: Examples by split: `train`, and any others, each of which is held against `train`.
        control_tokens: The tokenizer's special tokens, such as `<|im_end|>`.
        count_tokens: Length of an example in tokens. Needed, with `max_length`, for `over_long`.
        max_length: Longest example in tokens.
        refusal: Returns why the chat template does not take an example, or None. The length of
            such an example is not asked for.

    Returns:
        Findings by group, file and line. A leak stands at the training example, since that is the
        one to take out, and names where the same prompt is tested.
    """
    placed = {group: _placed(group, examples) for group, examples in groups.items()}
    findings: list[Finding] = []
    for group, items in placed.items():
        found = [*_empty(items), *_repeated(items), *_with_control_tokens(items, control_tokens)]
        found += _refused_by_template(items, refusal)
        if count_tokens is not None and max_length is not None:
            encoded = [item for item in items if refusal(item.example) is None]
            found += _over_long(encoded, count_tokens, max_length)
        if group == TRAIN:
            tested = [item for name, other in placed.items() if name != TRAIN for item in other]
            found += _leaked(items, tested)
        findings += sorted(found, key=lambda finding: (finding.file, finding.line))
    return findings


def finding_of(problem: Problem) -> Finding:
    """What `scan` could not read, as a finding among the others."""
    return Finding(problem.file, problem.line, problem.reason, "malformed", "malformed" in REFUSED)


def _placed(group: str, examples: Sequence[Example]) -> list[_Placed]:
    items = []
    for number, example in enumerate(examples, start=1):
        file, _, line = example.origin.rpartition(":")
        known = bool(file) and line.isdecimal()
        items.append(_Placed(file if known else group, int(line) if known else number, example))
    return items


def _empty(items: Sequence[_Placed]) -> Iterator[Finding]:
    for item in items:
        for part, text in (("prompt", item.example.prompt), ("response", item.example.completion)):
            if not text.strip():
                yield item.finding("empty", f"the {part} is empty: fill it or take the row out")


def _refused_by_template(
    items: Sequence[_Placed], refusal: Callable[[Example], str | None]
) -> Iterator[Finding]:
    for item in items:
        reason = refusal(item.example)
        if reason is not None:
            yield item.finding("template", reason)


def _over_long(
    items: Sequence[_Placed], count_tokens: Callable[[Example], int], max_length: int
) -> Iterator[Finding]:
    for item in items:
        length = count_tokens(item.example)
        if length > max_length:
            yield item.finding(
                "over_long",
                f"{length} tokens, and the longest allowed is {max_length}: shorten it or raise "
                "`training.max_length`",
            )


def _repeated(items: Sequence[_Placed]) -> Iterator[Finding]:
    """Duplicates, and conflicts: prompts that come again with another response.

    Examples of one conversation repeat nothing: each has another history.
    """
    firsts: dict[str, _Placed] = {}
    answers: dict[tuple[str, str], _Placed] = {}
    for item in items:
        prompt, completion = _whole_prompt(item.example), _folded(item.example.completion)
        same = answers.setdefault((prompt, completion), item)
        first = firsts.setdefault(prompt, item)
        if same is not item:
            yield item.finding("duplicate", f"same prompt and response as {same.place}")
        elif first is not item:
            yield item.finding("conflict", f"same prompt as {first.place}, with another response")


def _with_control_tokens(
    items: Sequence[_Placed], control_tokens: Collection[str]
) -> Iterator[Finding]:
    # Longest first, so that of two tokens that begin alike the whole one is named.
    tokens = sorted(filter(None, control_tokens), key=len, reverse=True)
    if not tokens:
        return
    pattern = re.compile("|".join(map(re.escape, tokens)))
    for item in items:
        earlier = [message.content for message in item.example.history]
        texts = {
            "prompt": [item.example.prompt],
            "response": [item.example.completion],
            "history": earlier,
        }
        for part, contents in texts.items():
            token = next(filter(None, map(pattern.search, contents)), None)
            if token:
                yield item.finding(
                    "control_token",
                    f"the {part} holds the control token `{token[0]}`: telltune trains it as "
                    "plain text",
                )


def _leaked(items: Sequence[_Placed], tested: Sequence[_Placed]) -> Iterator[Finding]:
    """Training examples whose prompt another group asks too, word for word or nearly."""
    others: dict[str, _Placed] = {}
    for other in tested:
        others.setdefault(question(other.example), other)
    # Empty prompts are refused as such, and would all leak into each other.
    others.pop("", None)
    unleaked: dict[str, list[_Placed]] = {}
    for item in items:
        asked = question(item.example)
        if asked in others:
            yield item.finding("leak_exact", f"same prompt as {others[asked].place}")
        elif asked:
            unleaked.setdefault(asked, []).append(item)
    questions, tested_questions = list(unleaked), list(others)
    for match in near_matches(questions, tested_questions):
        place = others[tested_questions[match.other]].place
        for item in unleaked[questions[match.query]]:
            yield item.finding(
                "leak_near", f"nearly the same prompt as {place} (similarity {match.jaccard:.2f})"
            )


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _whole_prompt(example: Example) -> str:
    """All that the model is given: two examples that differ in a system text are no duplicates."""
    earlier = [f"{message.role} {_folded(message.content)}" for message in example.history]
    return "\n".join([*earlier, _folded(example.prompt)])


def question(example: Example) -> str:
    """Return what is asked, in lower case, without the system text that a data set may share."""
    turns = [message.content for message in example.history if message.role != "system"]
    return _folded(" ".join([*turns, example.prompt]))
