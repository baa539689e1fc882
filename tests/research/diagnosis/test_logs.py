"""Logs of injected faults, from benchmarks/diagnosis.py, get the diagnosis in their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from telltune.research.diagnosis.diagnose import diagnose
from telltune.research.diagnosis.rules import load_rules

LOGS = Path(__file__).parent / "logs"
SIDES = {rule.cause: rule.side for rule in load_rules()}


def cause_of(path: Path) -> str:
    return path.name.partition(".")[0]


def test_there_are_logs_of_many_causes_held_apart() -> None:
    apart = list((LOGS / "apart").glob("*.log"))
    assert len(apart) >= 25
    assert len({cause_of(path) for path in apart}) >= 15
    assert {cause_of(path) for path in LOGS.rglob("*.log")} <= set(SIDES)


@pytest.mark.parametrize("path", sorted((LOGS / "seen").glob("*.log")), ids=lambda p: p.stem)
def test_rules_know_what_they_were_written_on(path: Path) -> None:
    told = diagnose(path.read_text().splitlines())
    assert told.cause == cause_of(path)
    assert told.side == SIDES[told.cause]
    assert told.evidence
    assert told.mend


def test_nine_in_ten_of_those_held_apart_are_named_and_no_mistake_is_called_infrastructure() -> (
    None
):
    named, apart = 0, sorted((LOGS / "apart").glob("*.log"))
    for path in apart:
        told = diagnose(path.read_text().splitlines())
        named += told.cause == cause_of(path)
        if SIDES[cause_of(path)] == "user":
            assert told.side != "infrastructure", path.name
    assert named / len(apart) >= 0.9
