"""After SIGKILL at any moment, the same command resumes and gives the undisturbed result.

`TELLTUNE_KILLS` sets the number of moments; `benchmarks/faults.py` tries more of them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
from victim import (
    STEPS,
    Left,
    die_at_write,
    die_when_finished,
    die_while_saving,
    die_while_tokenizing,
)

import telltune
from telltune.fitting.adapter_folder import read_tell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from forked import Forked

KILLS = int(os.environ.get("TELLTUNE_KILLS", "1"))


def lines(out: Path) -> int:
    log = out / "training_log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def goes_on(recipe: Path, out: Path, undisturbed: Left, lost: Callable[..., None]) -> None:
    """The same run ends with the same adapter, and each step is in the log once."""
    telltune.fit(recipe, out, progress=False)
    left = Left.of(out)
    missing = {row["step"] for row in undisturbed.rows} - {row["step"] for row in left.rows}
    lost("lost", len(missing) + (left.adapter != undisturbed.adapter))
    assert left == undisturbed
    assert not [path for path in out.iterdir() if path.name.startswith((".", "checkpoints"))]


@pytest.mark.parametrize("seed", range(KILLS))
def test_killed_at_a_random_moment(
    fit: Callable[..., Forked],
    recipe: Path,
    undisturbed: Left,
    tmp_path: Path,
    record_property: Callable[..., None],
    seed: int,
) -> None:
    draw = random.Random(seed)
    out = tmp_path / "out"
    step, later = draw.randrange(STEPS), draw.uniform(0, 0.1)
    while True:
        victim = fit()
        victim.until(lambda: lines(out) >= step)
        # A few steps later, or while a checkpoint is written.
        time.sleep(later)
        victim.signal(signal.SIGKILL)
        ended = victim.wait()
        if not (out / "tell.json").exists():
            break
        # On a fast machine the run had ended by then, so this does not count as a try.
        assert Left.of(out) == undisturbed
        shutil.rmtree(out)
        later /= 2
    assert ended == -signal.SIGKILL
    goes_on(recipe, out, undisturbed, record_property)


# A run has at least 110 such moments: the lock, the recipe, four checkpoints,
# the adapter, tell.json.
@pytest.mark.parametrize("moment", random.Random(0).sample(range(1, 111), KILLS))
def test_killed_between_one_write_and_the_next(
    fit: Callable[..., Forked],
    recipe: Path,
    undisturbed: Left,
    tmp_path: Path,
    record_property: Callable[..., None],
    moment: int,
) -> None:
    assert fit(first=partial(die_at_write, moment)).wait() == -signal.SIGKILL
    goes_on(recipe, tmp_path / "out", undisturbed, record_property)


# Four files per checkpoint: arguments, optimizer, schedule, random numbers.
@pytest.mark.parametrize("file", random.Random(0).sample(range(1, 17), min(KILLS, 8)))
def test_killed_with_a_file_of_a_checkpoint_half_written(
    fit: Callable[..., Forked],
    recipe: Path,
    undisturbed: Left,
    tmp_path: Path,
    record_property: Callable[..., None],
    file: int,
) -> None:
    assert fit(first=partial(die_while_saving, file)).wait() == -signal.SIGKILL
    goes_on(recipe, tmp_path / "out", undisturbed, record_property)


def test_killed_while_it_tokenizes(
    fit: Callable[..., Forked],
    recipe: Path,
    undisturbed: Left,
    tmp_path: Path,
    record_property: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))
    assert fit(first=die_while_tokenizing).wait() == -signal.SIGKILL
    goes_on(recipe, tmp_path / "out", undisturbed, record_property)


def test_killed_once_it_is_finished(
    fit: Callable[..., Forked], recipe: Path, undisturbed: Left, tmp_path: Path
) -> None:
    assert fit(first=die_when_finished).wait() == -signal.SIGKILL
    assert Left.of(tmp_path / "out") == undisturbed
    assert len(telltune.predict(tmp_path / "out", ["item 4 is square"])) == 1
    with pytest.raises(telltune.TellError, match="contains a finished run"):
        telltune.fit(recipe, tmp_path / "out", progress=False)


def test_killed_again_and_again(
    fit: Callable[..., Forked],
    undisturbed: Left,
    recipe: Path,
    tmp_path: Path,
    record_property: Callable[..., None],
) -> None:
    """Each kill comes a little later, as on a machine that is preempted every few minutes."""
    out = tmp_path / "out"
    for reached in range(4, STEPS, 7):
        victim = fit()
        victim.until(partial(_has, out, reached))
        victim.signal(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
    goes_on(recipe, out, undisturbed, record_property)
    # Answers depend on nothing else.
    assert read_tell(out)["files"] == read_tell(undisturbed.folder)["files"]


def _has(out: Path, reached: int) -> bool:
    return lines(out) >= reached
