"""What made a run fail: rules first, then past failures, then a model if one is given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from telltune.diagnosis.compression import compress
from telltune.diagnosis.rules import load_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from telltune.diagnosis.compression import Filters, Line
    from telltune.diagnosis.past import Past
    from telltune.diagnosis.rules import Rule, Side

__all__ = ["UNKNOWN", "Diagnosis", "diagnose"]

UNKNOWN = "unknown"
_SHOWN = 4
# Somebody met trouble and went on; it counts only where nothing else does.
_PASSING = re.compile(r"\bWARN(ING)?\b|[Rr]etry(ing)?\b|\bINFO\b|\bDEBUG\b")
# Source lines that a traceback quotes: they name what the program meant to catch or to raise.
_QUOTED = re.compile(r"^(\[rank\d+\]:)?\s{4,}\S|^(\[rank\d+\]:)?\s+File \"")


@dataclass(frozen=True)
class Diagnosis:
    """Why a run failed.

    Attributes:
        cause: Its name; `unknown` where nothing tells.
        side: Who can mend it.
        says: What it is, in a sentence.
        mend: What to do.
        restart: Whether the same run, started again, may well go through.
        by: What told.
        evidence: Lines of the log that say so, with their numbers.
    """

    cause: str
    side: Side
    says: str
    mend: str
    restart: bool
    by: Literal["rule", "past failure", "model", "nothing"]
    evidence: tuple[Line, ...]


def diagnose(
    log: Iterable[str],
    *,
    rules: Sequence[Rule] | None = None,
    filters: Filters | None = None,
    past: Past | None = None,
    ask: Callable[[str, Sequence[str]], str | None] | None = None,
) -> Diagnosis:
    """Say why a run failed.

    A rule counts for the last line that matches it. Of several the one whose line comes last wins,
    as what ends a run stands at the end; but what often follows from something else (a connection
    closed by a peer) yields to any that does not, wherever that stands, and what was only warned
    of yields to what was not.

    Args:
        log: Its lines.
        rules: By rank; telltune's own if not given. Of two that match one line the first counts.
        filters: Of what healthy runs say too.
        past: Failures that were diagnosed before.
        ask: A model: from a compressed log and the causes to one of them, or None.
    """
    rules = load_rules() if rules is None else rules
    lines = compress(log, filters)
    by_cause = {rule.cause: rule for rule in reversed(rules)}
    found = _by_rules(lines, rules)
    if found is not None:
        return found
    if past is not None and (near := past.nearest(lines)) is not None:
        rule = by_cause.get(near.cause)
        return _told(near.cause, rule, "past failure", tuple(lines[-_SHOWN:]))
    if ask is not None:
        text = "\n".join(line.text for line in lines[-_SHOWN * 5 :])
        said = ask(text, list(by_cause))
        if said in by_cause:
            return _told(said, by_cause[said], "model", tuple(lines[-_SHOWN:]))
    return _told(UNKNOWN, None, "nothing", tuple(lines[-_SHOWN:]))


def _by_rules(lines: Sequence[Line], rules: Sequence[Rule]) -> Diagnosis | None:
    matched: dict[int, list[tuple[int, Line]]] = {}
    frames: list[str] = []
    for place, line in enumerate(lines):
        if _QUOTED.search(line.text):
            frames.append(line.text)
            continue
        above, frames = "\n".join(frames), []
        rank = next((i for i, rule in enumerate(rules) if rule.matches(line.text, above)), None)
        if rank is not None:
            matched.setdefault(rank, []).append((place, line))
    if not matched:
        return None

    def weight(rank: int) -> tuple[bool, bool, int]:
        hits = matched[rank]
        firm = [place for place, line in hits if not _PASSING.search(line.text)]
        return bool(firm), not rules[rank].consequence, max(firm, default=hits[-1][0])

    rank = max(matched, key=weight)
    evidence = tuple(line for _, line in matched[rank])[-_SHOWN:]
    return _told(rules[rank].cause, rules[rank], "rule", evidence)


def _told(
    cause: str,
    rule: Rule | None,
    by: Literal["rule", "past failure", "model", "nothing"],
    evidence: tuple[Line, ...],
) -> Diagnosis:
    if rule is None:
        return Diagnosis(
            cause,
            "unknown",
            "Nothing in the log is known to end a run."
            if by == "nothing"
            else f"It was {cause} before.",
            "If it did not end well, read the last lines; once you know the cause, `tell diagnose "
            "LOG --remember CAUSE`.",
            restart=False,
            by=by,
            evidence=evidence,
        )
    return Diagnosis(cause, rule.side, rule.says, rule.mend, rule.restart, by, evidence)
