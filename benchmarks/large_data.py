"""Measure the mixture's order over 10^8 general examples, and reading of Parquet shards.

    python benchmarks/large_data.py   # 40 seconds

The order: indices per second and added memory, in stretches of 4,096 places and in batches of 16 as
in training, with 10^6 and 10^8 general examples. Half of the places are general. Parquet: rows per
second of telltune's reader and of `datasets` (streaming), in turn. The rows are in four shards and
have a prompt and a completion of some 60 words.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import describe
from telltune.cli.console import print_table

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).with_suffix(".json")
AVAILABLE = (10**6, 10**8)
SECONDS = 8.0
ROWS, SHARDS = 200_000, 4
ROUNDS = 3


def main() -> None:
    """Measure the order in separate processes, to know their memory; then measure the reading."""
    if len(sys.argv) > 1:
        print(json.dumps(order(int(sys.argv[1]), sys.argv[2])))
        return
    found: dict[str, Any] = {"machine": describe(), "order": [], "parquet": []}
    for available in AVAILABLE:
        for way in ("stretches", "batches"):
            command = [sys.executable, __file__, str(available), way]
            alone = os.environ | {"OMP_NUM_THREADS": "1"}
            ran = subprocess.run(command, check=True, capture_output=True, text=True, env=alone)
            found["order"].append(json.loads(ran.stdout))
    found["parquet"] = parquet()
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    columns = ("available", "by", "indices a second", "MiB added")
    rows = [
        (f"{r['available']:,}", r["by"], f"{r['rate']:,.0f}", f"{r['added_mib']:.1f}")
        for r in found["order"]
    ]
    print_table("Order", columns, rows)
    print_table("Parquet", ("reader", "rows a second, each round"), found["parquet"])


def order(available: int, by: str) -> dict[str, Any]:
    """Iterate over an epoch for some seconds."""
    from telltune.data.mixture import Mixture

    mixture = Mixture(
        task_examples=1000,
        general_examples=available // 2,
        general_available=available,
        passes=available // 2000,
        order="shuffled",
        seed=0,
        batch_size=16,
    )
    if by == "stretches":
        mixture.slots(0, 0, 4096)  # what is loaded and allocated only once
    else:
        next(iter(mixture.batches(0)))
    before, seen, began = peak(), 0, time.perf_counter()
    if by == "stretches":
        while time.perf_counter() - began < SECONDS:
            start = seen % (len(mixture) - 4096)
            seen += len(mixture.slots(0, start, start + 4096).index)
    else:
        for batch in mixture.batches(0):
            seen += len(batch.index)
            if time.perf_counter() - began > SECONDS:
                break
    rate = seen / (time.perf_counter() - began)
    return {"available": available, "by": by, "rate": rate, "added_mib": peak() - before}


def peak() -> float:
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parquet() -> list[tuple[str, str]]:
    """Measure rows per second of both readers, in turn."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    from telltune.data.parquet import parquet_rows

    words = [
        "the",
        "order",
        "of",
        "a",
        "mixture",
        "does",
        "not",
        "depend",
        "on",
        "how",
        "much",
        "of",
        "it",
        "there",
        "is",
    ]
    with tempfile.TemporaryDirectory() as name:
        files = []
        for shard in range(SHARDS):
            rows = range(shard * ROWS // SHARDS, (shard + 1) * ROWS // SHARDS)
            said = [
                " ".join([str(n), *(words[(n + i) % len(words)] for i in range(60))]) for n in rows
            ]
            path = Path(name) / f"{shard}.parquet"
            pq.write_table(pa.table({"prompt": said, "completion": said[::-1]}), path)
            files.append(path)

        def ours() -> int:
            return sum(1 for path in files for _ in parquet_rows(path))

        def theirs() -> int:
            found = datasets.load_dataset(
                "parquet", data_files=[str(path) for path in files], split="train", streaming=True
            )
            return sum(1 for _ in found)

        readers: dict[str, Callable[[], int]] = {"telltune": ours, "datasets": theirs}
        rates: dict[str, list[int]] = {reader: [] for reader in readers}
        for _ in range(ROUNDS):
            for reader, read in readers.items():
                began = time.perf_counter()
                count = read()
                assert count == ROWS
                rates[reader].append(round(count / (time.perf_counter() - began)))
    return [(reader, ", ".join(f"{rate:,}" for rate in each)) for reader, each in rates.items()]


def sentence(number: int, words: list[str]) -> str:
    """Return a number followed by 60 words."""
    return " ".join([str(number), *(words[(number + i) % len(words)] for i in range(60))])


if __name__ == "__main__":
    main()
