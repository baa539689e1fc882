"""Measured rows, which are kept in a file and not measured again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from speed_parts.result import MARK

HERE = Path(__file__).parent
# Keys of the machine's description on which speed depends.
MACHINE_KEYS = ("processor", "cores", "vector", "torch")
LIMIT = 3 * 3600


@dataclass
class Rows:
    """File of raw rows, and the processes that fill it.

    Attributes:
        path: JSONL file with one row per measurement; the last of equal ones counts.
        machine: Result of `machine.describe`; rows from another machine do not count.
        overwrite: Rows to measure again, once: `none`, `ours`, `peers` or `all`.
        logs: Folder for the output of the processes.
    """

    path: Path
    machine: dict[str, Any]
    overwrite: str
    logs: Path
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    active: bool = True

    def __post_init__(self) -> None:
        """Read the existing rows."""
        self.logs.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.known[row["key"]] = row

    def measure(
        self, part: str, name: str, module: str, python: Path | None, asked: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Return a row from the file, or measure it in a separate process.

        Args:
            part: Name of the part, for readers.
            name: Name of the row, for readers; names of telltune's rows begin with `ours`.
            module: Module in `speed_parts`.
            python: Python that runs it; None for a peer that is not installed.
            asked: Arguments; files are compared by content, folders by name.

        Returns:
            Result of the process, or {"error": ...}; None if there is none and it is not to be
            measured now.
        """
        named = {k: _identity(v) for k, v in asked.items()}
        machine = {k: self.machine[k] for k in MACHINE_KEYS}
        key = _digest(json.dumps([module, named, machine], sort_keys=True).encode())
        ours = name.startswith("ours")
        again = self.overwrite in ("all", "ours" if ours else "peers") and key not in self.fresh
        row = self.known.get(key)
        if (
            not self.active
            or python is None
            or (row and not again and "error" not in row["result"])
        ):
            return row and row["result"]
        if row and key in self.fresh:
            return row["result"]
        if not python.exists():
            return {"error": f"{python} is missing; `make bench-speed` makes it"}
        print(f"  {part}: {name} ...", end="", flush=True)
        began = time.perf_counter()
        result = self._run(module, python, asked, f"{part}-{name}")
        took = time.perf_counter() - began
        print(f" {took:.0f} s{': ' + result['error'] if 'error' in result else ''}", flush=True)
        self.fresh.add(key)
        self.known[key] = {
            "key": key,
            "part": part,
            "name": name,
            "arguments": named,
            "result": result,
            "took": round(took, 1),
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "machine": self.machine,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.known[key]) + "\n")
        return result

    def _run(self, module: str, python: Path, asked: dict[str, Any], title: str) -> dict[str, Any]:
        log = self.logs / f"{title.replace(' ', '_').replace('/', '_').replace(',', '')}.log"
        environment = os.environ | {
            "PYTHONPATH": str(HERE.parent),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "true",
            # Without progress bars, which would be measured too.
            "TQDM_DISABLE": "1",
        }
        values = json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in asked.items()})
        with log.open("w", encoding="utf-8") as file:
            try:
                done = subprocess.run(
                    [str(python), "-m", f"speed_parts.{module}", values],
                    stdout=subprocess.PIPE,
                    stderr=file,
                    env=environment,
                    text=True,
                    timeout=LIMIT,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return {"error": f"not done after {LIMIT} s"}
            file.write(done.stdout)
        marked = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
        if done.returncode == 0 and marked:
            return json.loads(marked[-1].removeprefix(MARK))
        said = [
            line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        reason = next((s for s in reversed(said) if "Error" in s), said[-1] if said else "no word")
        return {"error": f"exit {done.returncode}: {reason[:300]}"}


def _identity(value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    if value.is_file():
        return f"{value.name}:{_digest(value.read_bytes())}"
    weights = value / "adapter_model.safetensors"
    return f"{value.name}:{_digest(weights.read_bytes())}" if weights.is_file() else value.name


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
