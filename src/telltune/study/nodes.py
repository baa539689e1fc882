"""Probe of a cluster's nodes, which finds those that would fail or delay the cells of a study.

A node fails the probe if its versions differ, a file of the recipes is missing, its disk does not
keep what is written, or it computes a wrong product. A node that passes is left out if it is much
slower than the others. Acme (arXiv 2403.07648) tests the nodes of a run that failed, to restart it
without the bad ones.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

from telltune.fitting.adapter_folder import versions
from telltune.study.worker import CODE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from telltune.study.spec import Cell

_SLOW = 3.0
"""A node is left out if a measurement takes more than this many times the median."""
_PRODUCT, _DISK = "a matrix product", "writing and reading a file"
_NOTICED = {_PRODUCT: 0.0, _DISK: 1.0}
"""Seconds up to which a measurement is never too slow, since short times on a disk vary."""
_ROUNDS = 20
_WRITTEN = 16 * 2**20
"""Bytes of the file that the probe writes."""


@dataclass(frozen=True)
class Probe:
    """Result of the probe of a node.

    Attributes:
        problem: Reason why cells would fail there, or "".
        seconds: Seconds of each measurement, by its name.
    """

    problem: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


def versions_here() -> dict[str, str]:
    """Return the versions that all nodes must have, without the build of torch."""
    found = versions()
    torch = found["torch"].partition("+")[0]
    return {"telltune": f"{found['telltune']} ({CODE})", "torch": torch}


def files_of(cells: Iterable[Cell]) -> list[str]:
    """Return the local files and folders that the recipes of cells name."""
    waiting: list[Any] = [cell.recipe.model_dump(include={"task", "general"}) for cell in cells]
    found = set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
            if isinstance(path := value.get("path"), str) and Path(path).exists():
                found.add(path)
        elif isinstance(value, list | tuple):
            waiting += value
    return sorted(found)


def probe(wanted: Mapping[str, str], files: Sequence[str], folder: Path, *, gpu: bool) -> Probe:
    """Probe the machine of this process.

    Args:
        wanted: Result of `versions_here` on the machine that started the study.
        files: Result of `files_of` there.
        folder: Working folder there, where relative paths start.
        gpu: Whether to measure the GPU instead of a CPU core.
    """
    if folder.is_dir():
        os.chdir(folder)
    for name, found in versions_here().items():
        if found != wanted[name]:
            return Probe(f"it has {name} {found} instead of {wanted[name]}")
    for path in files:
        if not Path(path).exists():
            return Probe(f"{path} is missing there")
    try:
        return Probe("", {_PRODUCT: _time_product(gpu=gpu), _DISK: _time_disk()})
    except Exception as error:
        return Probe(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")


def _time_product(*, gpu: bool) -> float:
    """Return the seconds of a product of two matrices in one thread, the best of several.

    The entries are small integers, so every machine that computes correctly has the same result.
    """
    import torch

    size, device = (4096, "cuda") if gpu else (384, "cpu")
    draws = torch.Generator().manual_seed(0)
    left, right = (
        torch.randint(-4, 5, (size, size), generator=draws).float().to(device) for _ in range(2)
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = float("inf")
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            product = left @ right
            if gpu:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - began)
            sums = left.double() @ right.double().sum(1)
            if not torch.equal(product.double().sum(1), sums):
                raise RuntimeError("it computes a wrong product of matrices")
    finally:
        torch.set_num_threads(threads)
    return best


def _time_disk() -> float:
    """Return the seconds to write a temporary file to the disk and read it."""
    written = os.urandom(_WRITTEN)
    began = time.perf_counter()
    with tempfile.TemporaryFile() as file:
        file.write(written)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        if file.read() != written:
            raise OSError("a temporary file does not hold what was written")
    return time.perf_counter() - began


def left_out(probes: Mapping[str, Probe]) -> dict[str, str]:
    """Return the nodes that a study should do without, each with the reason.

    A node is too slow if a measurement takes more than three times the median of the nodes without
    a problem. Of an even number of nodes, the faster one in the middle counts, so that of two nodes
    the faster one sets the measure.
    """
    found = {name: one.problem for name, one in probes.items() if one.problem}
    well = {name: one.seconds for name, one in probes.items() if not one.problem}
    for what, noticed in _NOTICED.items():
        usual = median_low(spent[what] for spent in well.values()) if well else 0.0
        for name, spent in well.items():
            if spent[what] > max(_SLOW * usual, noticed):
                times = spent[what] / usual
                found.setdefault(name, f"{what} takes {times:.1f} times as long as the median")
    return found
