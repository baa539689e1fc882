"""Every run of the tests reads the inputs in which the fuzzer found new code paths."""

from __future__ import annotations

import importlib.util
import tarfile
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def fuzz_readers() -> Any:
    """Return the fuzzer, a script, as a module."""
    spec = importlib.util.spec_from_file_location("fuzz_readers", BENCHMARKS / "fuzz_readers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(60)
def test_no_input_of_the_corpus_breaks_a_reader(fuzz_readers: Any, tmp_path: Path) -> None:
    with tarfile.open(BENCHMARKS / "fuzz_corpus.tar.xz") as corpus:
        corpus.extractall(tmp_path, filter="data")
    inputs = sorted((tmp_path / "fuzz_corpus").iterdir())
    assert len(inputs) > 20
    for path in inputs:
        fuzz_readers.read(path.read_bytes(), tmp_path)


def test_an_error_of_another_kind_would_be_seen(
    fuzz_readers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_readers, "scan", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fuzz_readers.read(b"\0{}", tmp_path)
