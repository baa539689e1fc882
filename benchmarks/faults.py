"""Inject every fault that a long run must survive; print a table and write faults.json.

    python benchmarks/faults.py              # 20 random kills and more; minutes on one core
    python benchmarks/faults.py --kills 100

Each row is a test (most are in tests/faults), which runs once per case. `survived` counts the tries
that ended as docs/guides/reliability.md promises. `lost` counts lost steps of the log and adapters
that differ from the undisturbed run's; if a test does not report them, it counts tries that did not
survive. The model is a tiny random one, on the CPU in fp32. The killed processes are real.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_suffix(".json")
TESTS = (
    "tests/faults",
    "tests/training/test_checkpoints.py",
    "tests/fitting/test_output_folder.py",
    "tests/fitting/test_adapter_folder.py::test_a_damaged_file_is_refused_by_name",
    "tests/study/test_runner.py::test_killed_at_a_random_moment_it_gives_the_same_rows",
    "tests/study/test_runner.py::test_two_at_once_are_refused",
)


class Outcomes:
    """Counts of the outcomes that pytest reports, by test."""

    def __init__(self) -> None:
        self.tries, self.survived, self.lost = Counter(), Counter(), Counter()
        self.skipped: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a phase of a test."""
        fault = fault_of(report.nodeid)
        if report.skipped:
            self.skipped[fault] = str(report.longrepr[-1])
        elif report.when == "call" or report.failed:
            self.tries[fault] += 1
            self.survived[fault] += report.passed
            known = [value for name, value in report.user_properties if name == "lost"]
            self.lost[fault] += sum(known) if known else report.failed

    def rows(self) -> list[dict[str, str | int]]:
        """Return one row per fault, in the order of the tests."""
        return [
            {
                "fault": fault,
                "tries": tries,
                "survived": self.survived[fault],
                "lost": self.lost[fault],
            }
            for fault, tries in self.tries.items()
        ]


def fault_of(test: str) -> str:
    """Return the name of a test in words, after the name of its file."""
    file, _, name = test.partition("::")
    words = name.partition("[")[0].removeprefix("test_").replace("_", " ")
    return f"{Path(file).stem.removeprefix('test_').replace('_', ' ')}: {words}"


def main() -> None:
    """Run the tests, print the table, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kills", type=int, default=20, help="Number of random moments (default 20)."
    )
    os.environ["TELLTUNE_KILLS"] = str(parser.parse_args().kills)
    outcomes = Outcomes()
    tests = [str(ROOT / test) for test in TESTS]
    # A try may have to wait if the machine is busy.
    code = pytest.main(["-q", f"--rootdir={ROOT}", "--timeout=1200", *tests], plugins=[outcomes])
    rows = outcomes.rows()
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"{'tries':>5} {'survived':>8} {'lost':>5}  fault")
    for row in rows:
        print(f"{row['tries']:>5} {row['survived']:>8} {row['lost']:>5}  {row['fault']}")
    totals = [sum(int(row[key]) for row in rows) for key in ("tries", "survived", "lost")]
    print("{:>5} {:>8} {:>5}  in all".format(*totals))
    for fault, reason in outcomes.skipped.items():
        print(f"not tried: {fault} ({reason})")
    sys.exit(int(code))


if __name__ == "__main__":
    main()
