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


class StepProfile:
    """Callback that profiles three steps of a transformers Trainer, after three to warm up.

    Args:
        path: File for the table of the operations that take the most time.
    """

    FIRST, STEPS = 3, 3

    def __init__(self, path: str) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile
        from transformers import TrainerCallback, trainer

        on_gpu = torch.cuda.is_available()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        self.path, self.on_gpu = Path(path), on_gpu
        self.profiler = profile(activities=kinds)
        self.seconds = 0.0
        recorded = self

        class _Callback(TrainerCallback):
            def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
                if state.global_step not in (recorded.FIRST, recorded.FIRST + recorded.STEPS):
                    return
                if on_gpu:
                    torch.cuda.synchronize()
                recorded.seconds = time.perf_counter() - recorded.seconds
                if state.global_step == recorded.FIRST:
                    recorded.profiler.start()
                else:
                    recorded.profiler.stop()

        trainer.DEFAULT_CALLBACKS.append(_Callback)

    def result(self) -> dict[str, Any]:
        """Write the table, and return what a step launches and waits for.

        `kernels` and `syncs` are numbers per step, `gpu_busy` is the share of the profiled time in
        which kernels ran. On a CPU, `kernels` are operations, and `syncs` are values read from
        tensors.
        """
        found = self.profiler.key_averages()
        by = "self_cuda_time_total" if self.on_gpu else "self_cpu_time_total"
        self.path.write_text(found.table(sort_by=by, row_limit=30), encoding="utf-8")
        calls = {event.key: event.count for event in found}
        launches: tuple[str, ...]
        launches = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")
        waits: tuple[str, ...] = (
            "cudaStreamSynchronize",
            "cudaDeviceSynchronize",
            "cudaEventSynchronize",
        )
        if not self.on_gpu:
            launches, waits = tuple(calls), ("aten::_local_scalar_dense",)
        busy = sum(event.self_device_time_total for event in found) / 1e6
        return {
            "kernels": round(sum(calls.get(name, 0) for name in launches) / self.STEPS),
            "syncs": round(sum(calls.get(name, 0) for name in waits) / self.STEPS, 1),
            "gpu_busy": round(busy / self.seconds, 3),
        }


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
