"""The last of several matches counts, except consequences, warnings and source code."""

from __future__ import annotations

import timeit
from time import process_time
from typing import TYPE_CHECKING

import pytest

from telltune.errors import DataError, RecipeError
from telltune.research.diagnosis.compression import Filters, compress, template
from telltune.research.diagnosis.diagnose import UNKNOWN, diagnose
from telltune.research.diagnosis.past import Past
from telltune.research.diagnosis.rules import load_rules

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FULL = "OSError: [Errno 28] No space left on device"
LOST = "RuntimeError: Connection closed by peer [10.0.0.2]:1234"
MISTAKE = "KeyError: 'completion'"


def cause(*lines: str) -> str:
    return diagnose(lines).cause


def test_what_ends_a_run_counts() -> None:
    assert cause(FULL, MISTAKE) == "programming_error"
    assert cause(MISTAKE, FULL) == "disk_full"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (
            "error: 1 problem in the data: /d/preemption.jsonl:2: no response: key `text` is gone.",
            "bad_data",
        ),
        ("error: walltime.jsonl: no such file", "missing_file"),
        ("error: /nccl/timeout.csv: no such file", "missing_file"),
        (
            (
                "error: step 3 does not fit in memory, not even one example at a time; set "
                "training.gradient_checkpointing: true."
            ),
            "out_of_memory",
        ),
        (
            "error: runs/a holds an interrupted run whose inputs have changed since: dev data",
            "configuration",
        ),
        (
            "error: runs/a contains an unfinished run of another recipe; choose another --out",
            "configuration",
        ),
        ("error: runs/a is in use by process 12 on host node failure", "configuration"),
    ],
)
def test_names_in_an_error_of_telltune_are_no_cause(line: str, named: str) -> None:
    found = diagnose(["Warning: 16 of 16 answers are none, most often `node failure` (4)", line])
    assert (found.cause, found.restart) == (named, False)


def test_a_run_is_not_restarted_for_the_name_of_a_label() -> None:
    assert not diagnose(["error: label `preempted` (1 example) occurs in only one fold"]).restart


def test_what_follows_from_another_cause_yields_to_it_wherever_it_stands() -> None:
    assert cause(MISTAKE, LOST) == "programming_error"
    assert cause(LOST, MISTAKE, LOST) == "programming_error"
    assert cause(LOST) == "communication"


def test_what_was_only_warned_of_yields() -> None:
    assert cause(MISTAKE, "WARNING: read timed out, retrying") == "programming_error"
    assert cause("WARNING: read timed out, retrying") == "network"


def test_source_that_a_traceback_quotes_is_no_evidence() -> None:
    frame = '  File "train.py", line 3, in save'
    quoted = '    raise OSError("No space left on device")'
    assert cause(frame, quoted, MISTAKE, frame, quoted) == "programming_error"


def test_lines_that_a_report_indents_are_evidence() -> None:
    assert cause("Containers:", "      Reason:       OOMKilled") == "out_of_memory"


def test_nccl_prints_its_errors_as_warnings() -> None:
    failed = "node:1:2 [0] net_ib.cc:9 NCCL WARN NET/IB : Got completion from peer with status=12"
    assert cause(failed, "node:1:2 [0] proxy.cc:694 NCCL INFO -> 6") == "infiniband_failure"
    ended = "torch.distributed.DistBackendError: NCCL error: ncclRemoteError"
    assert cause(failed, ended) == "infiniband_failure"


def test_the_evidence_is_the_lines_with_their_numbers() -> None:
    told = diagnose(["step 1", FULL, "step 2"])
    assert [(line.number, line.text) for line in told.evidence] == [(2, FULL)]
    assert told.by == "rule"
    assert told.side == "infrastructure"


def test_what_nothing_knows_is_said_to_be_unknown() -> None:
    told = diagnose(["the moon is full"])
    assert told.cause == UNKNOWN
    assert not told.restart
    assert "--remember" in told.mend


def test_rules_are_read_once_and_a_caller_cannot_spoil_them_for_the_next() -> None:
    before = load_rules()
    assert load_rules()[0] is before[0]
    before.clear()
    assert load_rules()


def test_of_rules_of_ones_own_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(
        "- {cause: cooling, side: infrastructure, restart: true, says: It is hot., mend: Wait.,\n"
        "   patterns: ['full$']}\n"
    )
    told = diagnose(["the moon is full"], rules=load_rules([path]))
    assert (told.cause, told.restart, told.mend) == ("cooling", True, "Wait.")
    path.write_text("- {cause: cooling, side: nobody, says: x, mend: y, patterns: ['(']}\n")
    with pytest.raises(RecipeError, match=r"rule 0\.side"):
        load_rules([path])
    with pytest.raises(RecipeError, match="cannot be read"):
        load_rules([tmp_path / "none.yaml"])


def test_a_past_failure_tells_where_no_rule_does_and_a_model_last(tmp_path: Path) -> None:
    past = Past(tmp_path / "past.jsonl")
    flood = ["pump 3 stopped", "water in rack 17 at 12:03:04", "the node goes down"]
    past.add(compress(flood), "flood")
    again = Past(tmp_path / "past.jsonl")
    near = diagnose(["water in rack 4 at 09:00:01", "the node goes down"], past=again)
    assert (near.cause, near.by) == ("flood", "past failure")
    asked: list[Sequence[str]] = []

    def model(text: str, causes: Sequence[str]) -> str:
        asked.append(causes)
        return "storage"

    far = diagnose(["the moon is full"], past=again, ask=model)
    assert (far.cause, far.by, far.side) == ("storage", "model", "infrastructure")
    assert diagnose([MISTAKE], past=again, ask=model).by == "rule"
    assert len(asked) == 1
    (tmp_path / "past.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"past.jsonl:1"):
        Past(tmp_path / "past.jsonl")


def test_progress_and_repetition_are_left_out_and_lines_keep_their_numbers() -> None:
    log = [
        "start",
        " 37%|###   | 37/100 [00:01<00:02]\r 38%|###   | 38/100 [00:01<00:02]",
        "",
        "{'loss': 2.1, 'step': 3}",
        *(f"rank {i} waits at 0x7f{i:04x}" for i in range(20)),
        "\x1b[31mred\x1b[0m end",
    ]
    kept = compress(log)
    assert [line.number for line in kept] == [1, 5, 6, 7, 24, 25]
    assert kept[-1].text == "red end"


@pytest.mark.parametrize(
    "part", ["1", " ", "a", "f0", ".", "1.", "/a", "1%|", "\x1b[", "://", "hf_"]
)
def test_a_long_line_takes_time_in_proportion_to_its_length(part: str) -> None:
    def seconds(length: int) -> float:
        line = f"x{part * (length // len(part))}x"
        return min(timeit.repeat(lambda: diagnose([line]), number=1, repeat=3, timer=process_time))

    diagnose(["x"])  # reads the rules
    # Four times the length; quadratic time would be sixteen times as long.
    assert seconds(2**16) < 8 * seconds(2**14) + 0.02


def test_what_healthy_runs_say_is_filtered_ever_after() -> None:
    filters = Filters()
    assert filters.learn(["loaded shard 1 of 4 from /data/a/b.bin", "done"]) == 2
    log = ["loaded shard 3 of 9 from /mnt/c/d.bin", MISTAKE]
    assert [line.text for line in compress(log, Filters())] == [MISTAKE]
    assert filters.learn(["done"]) == 0


def test_a_template_has_no_numbers_times_or_places() -> None:
    one = template("2026-11-27 10:00:01 rank 3: lost /a/b/c.py at 0xdeadbeef after 1.5e-3 s")
    other = template("2025-01-02 23:59:59 rank 12: lost /x/y.py at 0x12 after 7 s")
    assert one == other
