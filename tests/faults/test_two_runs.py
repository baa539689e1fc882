"""A second run on an output folder is told who uses it; a dead run does not block it."""

from __future__ import annotations

import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from victim import Left, stand_still

import telltune
from forked import Forked
from telltune.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("verb", ["fit", "compare"])
def test_the_second_run_is_refused_and_goes_on_once_the_first_is_dead(
    verb: str, short: dict[str, Any], recipe: Path, undisturbed: Left, tmp_path: Path
) -> None:
    out, said = tmp_path / "out", tmp_path / "said.txt"
    again: dict[str, Callable[[], object]] = {
        "fit": lambda: telltune.fit(short, out, progress=False),
        "compare": lambda: telltune.compare(short, ["tell"], out=out, progress=False),
    }
    more = ("--method", "tell") if verb == "compare" else ()
    first = Forked(verb, recipe, "--out", out, *more, said=said, first=partial(stand_still, 4))
    folder = out if verb == "fit" else out / "tell"
    log = folder / "training_log.jsonl"
    first.until(lambda: log.exists() and log.read_bytes().count(b"\n") == 4)
    whose = f"in use by process {first.process.pid} on {socket.gethostname()}; wait for it, or stop"
    with pytest.raises(StorageError, match=whose):
        again[verb]()
    # Not even with `overwrite`.
    with pytest.raises(StorageError, match=whose):
        telltune.fit(short, out, overwrite=True, progress=False)
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert (out / ".process.json").exists()
    again[verb]()
    assert Left.of(folder) == undisturbed
    assert not (out / ".process.json").exists()
    assert not (out / ".lock").exists()
