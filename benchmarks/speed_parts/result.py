"""Arguments, clock and result of a measuring process."""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

MARK = "RESULT "


def arguments() -> dict[str, Any]:
    """Return the arguments that `speed.py` gives to this process."""
    return json.loads(sys.argv[1])


def peak_mib() -> float:
    """Return the peak memory of this process in MiB.

    `ru_maxrss` is not used, because a process inherits it from its parent.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def give(**values: Any) -> None:
    """Pass the result back, with the peak memory so far."""
    # Libraries also print on standard output; the mark identifies this line.
    values["peak_mib"] = peak_mib()
    # The environment of llama.cpp has no torch, and uses no GPU.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        values["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    print("\n" + MARK + json.dumps(values), flush=True)


class StepClock:
    """Callback that records end and loss of each optimizer step of a transformers Trainer.

    It is one of the default callbacks of every Trainer, so that the same code times telltune and
    the peers. The time covers the whole step: data, forward, backward, optimizer.
    """

    def __init__(self) -> None:
        from transformers import TrainerCallback, trainer

        self.ends: list[float] = []
        self.losses: list[float] = []
        clock = self

        class _Callback(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.ends.append(time.perf_counter())

            def on_log(self, *_: Any, logs: Any = None, **__: Any) -> None:
                if logs and "loss" in logs:
                    clock.losses.append(float(logs["loss"]))

        trainer.DEFAULT_CALLBACKS.append(_Callback)

    def result(self, step_tokens: list[int]) -> dict[str, Any]:
        """Return tokens and seconds of all steps except the first, and the loss of each step.

        Args:
            step_tokens: Prompt and response tokens of each step, without padding.
        """
        seconds = self.ends[-1] - self.ends[0]
        tokens = sum(step_tokens[1 : len(self.ends)])
        return {
            "steps": len(self.ends),
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 2),
            "step_seconds": [round(b - a, 3) for a, b in pairwise(self.ends)],
            "losses": [round(loss, 5) for loss in self.losses],
        }
