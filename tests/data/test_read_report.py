from telltune.data.report import ReadReport


def report_of(*rows, left_out=()):
    report = ReadReport()
    for line, keys in enumerate(rows, start=1):
        report.count("a.jsonl", line, keys, left_out)
    return report


def test_each_key_is_a_finding_with_its_count_and_first_place():
    report = report_of([], ["mood"], ["mood", "topic"])
    mood, topic = report.findings()
    assert str(mood).startswith("a.jsonl:2: `mood` (2 of 3 rows) is not read: ")
    assert str(topic).startswith("a.jsonl:3: `topic` (1 of 3 rows) is not read: ")
    assert {finding.kind for finding in (mood, topic)} == {"unread"}
    assert not mood.refused


def test_bookkeeping_is_named_and_counted_in_one_line():
    keys = ["id", "_id", "idx", "Index", "uuid", "message_id", "messages[].id", "source", "split"]
    (finding,) = report_of(keys, ["id"]).findings()
    assert finding.reason.startswith("not read (bookkeeping): ")
    assert all(f"`{key}` (" in finding.reason for key in keys)
    assert "`id` (2 of 2 rows)" in finding.reason


def test_keys_that_only_look_like_bookkeeping_are_not():
    keys = ["identity", "valid", "paid", "sources", "resource", "bid", "kid", "metal", "splitter"]
    report = report_of(keys)
    assert len(report.findings()) == len(keys)


def test_each_kind_is_one_sentence():
    report = report_of(["mood", "id", "topic"], ["mood"], left_out=["`weight: 0`"])
    report.count_number("a.jsonl", 1, "3")
    unread, bookkeeping, numbers, left_out = report.warnings("task.train")
    assert unread.startswith("task.train: not read: `mood` (2 of 2 rows), `topic` (1 of 2 rows); ")
    assert bookkeeping == "task.train: not read (bookkeeping): `id` (1 of 2 rows)."
    assert "labels are numbers without names, such as `3` (1 of 2 rows)" in numbers
    assert left_out == "task.train: 2 left out: a.jsonl:1: `weight: 0` (and 1 more, at line 2)."


def test_nothing_left_aside_is_nothing_to_say():
    report = report_of([], [])
    assert (report.findings(), report.warnings("general")) == ([], ())


def test_many_keys_stay_short_and_printable():
    keys = [f"\x1b[31m{'k' * 1000}{n}" for n in range(3000)]
    (warning,) = report_of(keys).warnings("general")
    assert warning.isprintable()
    assert len(warning) < 2000
    assert "and at least 988 more keys" in warning
