"""Checks of readable examples. Each finding has a file, a line, a reason and a kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, NamedTuple, TypeVar

from telltune.data.examples import Example, Problem
from telltune.data.minhash import near_matches

TRAIN = "train"
"""Name of the training group, whose prompts must not occur in any other group."""

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
class Finding(Problem):
    """One error or warning about an example; `file` is the group's name for those made in Python.

    Attributes:
        kind: Name of the check.
        refused: True for an error, which stops training. False for a warning.
    """

    kind: Kind
    refused: bool


T = TypeVar("T", bound=Problem)

SHOWN_PLACES = 5
MAX_GROUPS = 1000
# Stand-alone numbers are ignored: reasons that differ only in a length or a line are the same.
_NUMBER = re.compile(r"(?<![\w`])\d+(?:[.,]\d+)*(?![\w`])")


@dataclass(slots=True)
class Group(Generic[T]):
    """Findings or problems whose reasons differ only in numbers.

    `str` returns one line: "a.jsonl:3: no response: ... (and 2 more, at lines 5, 9)".

    Attributes:
        places: Locations of the next members as (file, line), at most `SHOWN_PLACES`.
    """

    first: T
    count: int = 1
    places: list[tuple[str, int]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.first.file}:{self.first.line}: {self.reason}"

    @property
    def reason(self) -> str:
        """First member's reason, with the number and locations of the other members."""
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
    """Collection of findings or problems by reason, in memory independent of their number."""

    def __init__(self) -> None:
        self.total = 0
        self._by_reason: dict[str, Group[T]] = {}

    def add(self, item: T) -> None:
        """Add one item."""
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
        """Iterate over at most `MAX_GROUPS` groups, in the order of their first members."""
        return iter(self._by_reason.values())


def grouped(items: Iterable[T]) -> list[Group[T]]:
    """Group findings or problems by reason, in the order of their first members."""
    groups: Groups[T] = Groups()
    for item in items:
        groups.add(item)
    return list(groups)


class _Placed(NamedTuple):
    """An example and its location."""

    group: str
    file: str
    line: int
    example: Example

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def seen_from(self, item: _Placed) -> str:
        """Return the place, with the group if both are in files of one name.

        All lists that are given in Python have the name `list`.
        """
        return f"{self.place} ({self.group})" if self.file == item.file else self.place

    def finding(self, kind: Kind, reason: str) -> Finding:
        return Finding(self.file, self.line, reason, kind, kind in REFUSED)


def check_examples(
    groups: Mapping[str, Sequence[Example]],
    *,
    control_tokens: Collection[str] = (),
    count_tokens: Callable[[Example], int] | None = None,
    max_length: int | None = None,
    context: int | None = None,
    truncated: Callable[[Example], bool] = lambda _: False,
    refusal: Callable[[Example], str | None] = lambda _: None,
) -> list[Finding]:
    """Find examples that would make training wrong or a score invalid.

    Args:
        groups: Examples by split. Every other split is checked for leaks against `train`.
        control_tokens: The tokenizer's special tokens, such as `<|im_end|>`.
        count_tokens: Function that returns the length of an example in tokens. The check
            `over_long` needs it and a limit.
        max_length: Maximum length of an example in tokens.
        context: Longest sequence that the model can read, in tokens.
        truncated: Function that returns whether a run truncates an example that is too long, and
            does not refuse it.
        refusal: Function that returns why the chat template refuses an example, or None. The
            length of refused examples is not checked.

    Returns:
        Findings sorted by group, file and line. A leak is reported at the training example, which
        is the one to remove. Its reason contains the location of the test example.
    """
    placed = {group: _placed(group, examples) for group, examples in groups.items()}
    findings: list[Finding] = []
    for group, items in placed.items():
        found = [*_empty(items), *_repeated(items), *_with_control_tokens(items, control_tokens)]
        found += _refused_by_template(items, refusal)
        if count_tokens is not None:
            encoded = [item for item in items if refusal(item.example) is None]
            found += _over_long(encoded, count_tokens, max_length, context, truncated)
        if group == TRAIN:
            tested = [item for name, other in placed.items() if name != TRAIN for item in other]
            found += _leaked(items, tested)
        findings += sorted(found, key=lambda finding: (finding.file, finding.line))
    return findings


def finding_of(problem: Problem) -> Finding:
    """Convert a problem found by `scan` to a finding."""
    return Finding(problem.file, problem.line, problem.reason, "malformed", refused=True)


def _placed(group: str, examples: Sequence[Example]) -> list[_Placed]:
    items = []
    for number, example in enumerate(examples, start=1):
        file, _, line = example.origin.rpartition(":")
        known = bool(file) and line.isdecimal()
        items.append(
            _Placed(group, file if known else group, int(line) if known else number, example)
        )
    return items


def _empty(items: Sequence[_Placed]) -> Iterator[Finding]:
    for item in items:
        for part, text in (("prompt", item.example.prompt), ("response", item.example.completion)):
            if not text.strip():
                yield item.finding("empty", f"the {part} is empty: fill it or remove the row")


def _refused_by_template(
    items: Sequence[_Placed], refusal: Callable[[Example], str | None]
) -> Iterator[Finding]:
    for item in items:
        reason = refusal(item.example)
        if reason is not None:
            yield item.finding("template", reason)


def _over_long(
    items: Sequence[_Placed],
    count_tokens: Callable[[Example], int],
    max_length: int | None,
    context: int | None,
    truncated: Callable[[Example], bool],
) -> Iterator[Finding]:
    for item in items:
        length = count_tokens(item.example)
        if context is not None and length > context:
            limit, remedy = f"the model's context of {context}", "shorten the example"
        elif max_length is not None and length > max_length:
            limit = f"the maximum of {max_length}"
            remedy = "shorten the example or raise `training.max_length`"
        else:
            continue
        found = item.finding("over_long", f"{length} tokens exceed {limit}: {remedy}")
        if truncated(item.example):
            reason = f"{length} tokens exceed {limit}: the response will be truncated"
            found = replace(found, reason=reason, refused=False)
        yield found


def _repeated(items: Sequence[_Placed]) -> Iterator[Finding]:
    """Yield duplicates, and conflicts: repeated prompts with a different response.

    Examples of one conversation are not duplicates, because their histories differ.
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
            yield item.finding("conflict", f"same prompt as {first.place}, different response")


def _with_control_tokens(
    items: Sequence[_Placed], control_tokens: Collection[str]
) -> Iterator[Finding]:
    # Longest first, so that a prefix of a token is not reported instead of the token.
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
                    f"the {part} contains the control token `{token[0]}`, which is trained as "
                    "plain text",
                )


def _leaked(items: Sequence[_Placed], tested: Sequence[_Placed]) -> Iterator[Finding]:
    """Yield training examples whose prompt occurs exactly or nearly in another group."""
    others: dict[str, _Placed] = {}
    for other in tested:
        others.setdefault(question(other.example), other)
    # Empty prompts have their own check. Here they would all match each other.
    others.pop("", None)
    unleaked: dict[str, list[_Placed]] = {}
    for item in items:
        asked = question(item.example)
        if asked in others:
            yield item.finding("leak_exact", f"same prompt as {others[asked].seen_from(item)}")
        elif asked:
            unleaked.setdefault(asked, []).append(item)
    questions, tested_questions = list(unleaked), list(others)
    for match in near_matches(questions, tested_questions):
        other = others[tested_questions[match.other]]
        for item in unleaked[questions[match.query]]:
            place = other.seen_from(item)
            yield item.finding(
                "leak_near", f"nearly the same prompt as {place} (similarity {match.jaccard:.2f})"
            )


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _whole_prompt(example: Example) -> str:
    """Return the whole input, so that examples with different system texts do not match."""
    earlier = [f"{message.role} {_folded(message.content)}" for message in example.history]
    return "\n".join([*earlier, _folded(example.prompt)])


def question(example: Example) -> str:
    """Return the lower-case prompt with its history, without the (often shared) system text."""
    turns = [message.content for message in example.history if message.role != "system"]
    return _folded(" ".join([*turns, example.prompt]))
