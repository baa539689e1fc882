"""Find the cause of a failure: by rules, then past failures, then a model if one is given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from telltune.research.diagnosis.compression import Filters, Line, compress
from telltune.research.diagnosis.rules import Rule, Side, load_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from telltune.research.diagnosis.past import Past

UNKNOWN = "unknown"
_SHOWN = 4
# Warnings and retries did not end the run; they count only if nothing else matches. NCCL prints
# errors as `WARN`, PyTorch prints `[W1129 ` before warnings. A process that aborts has named
# another cause before, unless it is native code.
_PASSING = re.compile(
    r"^(?!.*(?:NCCL|\.c[cu]?:\d+) WARN).*(?:\bWARN(?:ING)?\b|[Rr]etry(?:ing)?\b|\bINFO\b|\bDEBUG\b)"
    r"|^(?:\[rank\d+\]:)?\[?[IW]\d{3,4} |exitcode *: *-6\b|\(SIGABRT\)|^Warning: "
)
# Labels and files that telltune's own messages name, such as "preempted.jsonl", fail nothing.
_OWN = re.compile(r"^(?:error|Warning): ")
_NAMED = re.compile(r"`[^`]*`|\S*/\S*|\S+\.\w\S*")
# Source lines quoted by a traceback name exceptions that the program may never have raised.
_FRAME = re.compile(r"^(\[rank\d+\]:)?\s+File \"")
_INDENTED = re.compile(r"^(\[rank\d+\]:)?\s{4,}\S")


@dataclass(frozen=True)
class Diagnosis:
    """Cause of a failure and its remedy.

    Attributes:
        cause: Name of the cause, or `unknown`.
        side: Who can fix it: the user or the infrastructure.
        says: One-sentence description of the cause.
        mend: Remedy.
        restart: Whether the same run may succeed when it is restarted.
        by: Source of the diagnosis.
        evidence: Lines of the log that support it, with their numbers.
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
    """Diagnose why a run failed.

    Each rule is placed at the last line that matches it. Among several matching rules the last one
    wins, because the error that ends a run is at the end of its log. There are two exceptions.
    A rule whose lines are only warnings yields to any rule with other lines. A rule for a common
    consequence of other causes (a connection closed by a peer) yields to any rule that is not.

    Args:
        log: Lines of the log.
        rules: Rules in order of rank; defaults to telltune's own. The first that matches a line
            counts for it.
        filters: Filters of lines that healthy runs also print.
        past: Past failures with known causes.
        ask: Function that asks a model: it maps a compressed log and the names of the causes to
            one of the causes, or to None.
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
        if _FRAME.search(line.text) or (frames and _INDENTED.search(line.text)):
            frames.append(line.text)
            continue
        above, frames = "\n".join(frames), []
        unnamed = _NAMED.sub("", line.text) if _OWN.match(line.text) else line.text
        rank = next(
            (
                i
                for i, rule in enumerate(rules)
                if rule.matches(unnamed if rule.restart else line.text, above)
            ),
            None,
        )
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
            "The log contains no known cause of failure."
            if by == "nothing"
            else f"The log resembles an earlier failure: {cause}.",
            "If the run failed, read the last lines; record the cause that you find with "
            "`tell diagnose LOG --remember CAUSE`.",
            restart=False,
            by=by,
            evidence=evidence,
        )
    return Diagnosis(cause, rule.side, rule.says, rule.mend, rule.restart, by, evidence)
