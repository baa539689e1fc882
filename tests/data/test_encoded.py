"""A set that is written in parts equals the set that is written at once."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data import encoded
from telltune.data.encoded import EncodedSet, EncodedWriter

NAMES = ("ids", "offsets", "prompt_lengths")


def set_of(lengths, first=0):
    total = sum(lengths)
    return EncodedSet(
        np.arange(first, first + total, dtype=np.int32),
        np.cumsum([0, *lengths]).astype(np.int64),
        np.asarray([n // 2 for n in lengths], np.int32),
    )


def write(folder, parts):
    with EncodedWriter(folder) as writer:
        for part in parts:
            writer.append(part)


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=5))
def test_parts_come_back_as_one_set(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("set")
    firsts = np.cumsum([0, *(sum(lengths) for lengths in sizes)])
    parts = [set_of(lengths, first) for lengths, first in zip(sizes, firsts, strict=False)]
    write(folder, parts)
    whole = set_of([n for lengths in sizes for n in lengths])
    for found in (EncodedSet.load(folder), EncodedSet.joined(parts)):
        for name in NAMES:
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
            assert getattr(found, name).dtype == getattr(whole, name).dtype


def test_the_files_are_those_that_numpy_writes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = set_of(list(range(50)))
    write(tmp_path / "a", [set_of(list(range(50)))])
    for name in NAMES:
        np.save(tmp_path / "b" / f"{name}.npy", getattr(whole, name))
    for name in NAMES:
        files = [tmp_path / folder / f"{name}.npy" for folder in "ab"]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_the_longest_is_found_a_block_at_a_time(monkeypatch):
    lengths = np.random.default_rng(0).integers(1, 1000, 100).tolist()
    monkeypatch.setattr(encoded, "_BLOCK", 7)
    assert set_of(lengths).longest == max(lengths)
    assert set_of([5, *[1] * 13, 6]).longest == 6
    assert set_of([]).longest == 0


@pytest.mark.parametrize("parts", [100, 1000])
def test_writing_takes_the_memory_of_a_part(tmp_path, parts):
    part = set_of([10] * 500)
    tracemalloc.start()
    write(tmp_path, (part for _ in range(parts)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(EncodedSet.load(tmp_path)) == 500 * parts
    assert peak < 300_000
