"""How a measuring process gets its arguments, keeps time, and hands back what it measured."""

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
    """What `speed.py` asks of this process."""
    return json.loads(sys.argv[1])


def peak_mib() -> float:
    """The most memory that this process has held.

    Not `ru_maxrss`: that one is handed on by the process that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def give(**values: Any) -> None:
    """Hand the result back, with the peak memory so far."""
    # Some libraries print on standard output as well; the mark tells this line from theirs.
    values["peak_mib"] = peak_mib()
    # Whoever measures a generator of llama.cpp has no torch, and no GPU is used then.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        values["gpu_peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    print("\n" + MARK + json.dumps(values), flush=True)


class StepClock:
    """When each optimizer step ended, and its loss, for any trainer built on transformers'.

    It stands among the callbacks that every Trainer starts with, so that ours and the peers are
    timed by the same code, around the whole of a step: data, forward, backward, optimizer.
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
        """Tokens and seconds of all steps but the first, and every step's loss.

        Args:
            step_tokens: Prompt and response tokens of each step, padding not counted.
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
