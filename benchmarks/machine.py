"""Description of the machine on which a benchmark ran, for its JSON file."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from telltune.models import native_bf16


def describe() -> dict[str, object]:
    """Return processor, cores, memory and versions."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    flags = torch.cpu.get_capabilities()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": names[0] if names else platform.processor(),
        "vector": next((f for f in ("avx512_bf16", "avx512_f", "avx2") if flags.get(f)), "-"),
        "native_bf16": native_bf16(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
