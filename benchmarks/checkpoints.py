"""Measure what checkpoints cost a run, written by training itself or by a thread.

    python benchmarks/checkpoints.py   # 2 minutes on two cores

The same SFT of the embedded model runs three times in each way, in turn: without checkpoints, with
one after every step that training waits for, and with one after every step that a thread writes. A
rank-16 adapter and its moments are some 60 MB. The table has the seconds of a step and the seconds
that training waited. On these two cores the thread takes computing time from training; beside an
accelerator it would not.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar

from machine import describe
from telltune.api import fit
from telltune.cli.console import print_table
from telltune.training import adapter, trainer
from telltune.training.checkpoints import Checkpoints
from telltune.training.trainer import MixtureTrainer

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(__file__).with_suffix(".json")
ROUNDS = 3
RECIPE = {
    "method": "sft_anchor",
    "task": {"embedded": "answer_kind", "max_tokens": 6000},
    "mixture": {"passes": 2},
    "lora": {"dropout": 0},
    "training": {"learning_rate": 1e-3, "micro_batch_tokens": 4096},
}


class Waited(Checkpoints):
    """Checkpoints for which training waits."""

    @contextmanager
    def saving(self, step: int, needed: int) -> Iterator[None]:
        """Save a checkpoint, and wait until it is written."""
        with super().saving(step, needed):
            yield
        self.wait()


WAYS: dict[str, tuple[int, type[Checkpoints]]] = {
    "none": (10_000, Checkpoints),
    "waited for": (1, Waited),
    "by a thread": (1, Checkpoints),
}


class Timed(MixtureTrainer):
    """Trainer that records how long training waits for checkpoints."""

    still: ClassVar[list[float]] = []

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        began = time.perf_counter()
        super()._save_checkpoint(model, trial)
        self.still.append(time.perf_counter() - began)


def main() -> None:
    """Run all, and print the table."""
    trainer.MixtureTrainer = Timed  # type: ignore[misc]
    found: dict[str, Any] = {
        "machine": describe(),
        "seconds_a_step": {way: [] for way in WAYS},
        "seconds_still_a_checkpoint": {way: [] for way in WAYS},
    }
    seconds: dict[str, list[float]] = found["seconds_a_step"]
    still: dict[str, list[float]] = found["seconds_still_a_checkpoint"]
    for number in range(ROUNDS + 1):
        for way, (every, kind) in WAYS.items():
            adapter.Checkpoints = kind
            Timed.still.clear()
            training = RECIPE["training"] | {"save_steps": every}  # type: ignore[operator]
            with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
                done = fit(RECIPE | {"training": training}, Path(folder) / "out", progress=False)
            if number:  # the first round warms up
                steps = done.record["counts"]["optimizer_steps"]
                seconds[way].append(round(done.record["seconds"] / steps, 4))
                still[way].append(round(median(Timed.still), 4) if every == 1 else 0.0)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    plain = median(seconds["none"])
    rows = [
        (
            way,
            f"{median(times):.3f}",
            f"{median(times) - plain:+.3f}",
            f"{median(still[way]):.3f}",
            str(times),
        )
        for way, times in seconds.items()
    ]
    columns = ("after every step", "s a step", "more than none", "s still", "all")
    print_table("Checkpoints", columns, rows)


if __name__ == "__main__":
    main()
