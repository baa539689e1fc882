"""Compare speed and memory with alternatives on the same work, in one run.

    python benchmarks/speed.py                  # everything that is not in speed_rows.jsonl yet
    python benchmarks/speed.py train evaluate   # these parts
    python benchmarks/speed.py --overwrite ours # measure ours again, keep the peers' rows
    python benchmarks/speed.py --quick          # try every part on very little, in runs/

`make bench-speed` makes the peers' environments first. The contestants run one at a time in
separate processes, and measure themselves; the machine must be idle otherwise. Each row is added to
speed_rows.jsonl. The table and speed.json are made from all rows of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from machine import describe
from speed_parts import parts, table
from speed_parts.rows import Rows
from speed_parts.setting import Setting, Sizes

HERE = Path(__file__).parent
ROOT = HERE.parent


@dataclass
class Options:
    """Options of the command line."""

    chosen: list[str]
    overwrite: str
    quick: bool
    peers: Path
    llama_factory: Path
    llama_cpp: Path


def main() -> None:
    """Measure what is missing in the chosen parts, and print the table."""
    options = _options()
    work = ROOT / "runs" / ("speed-quick" if options.quick else "speed")
    work.mkdir(parents=True, exist_ok=True)
    kept = work if options.quick else HERE
    machine = describe()
    rows = Rows(kept / "speed_rows.jsonl", machine, options.overwrite, work / "logs")
    setting = Setting(
        Sizes.quick() if options.quick else Sizes(),
        work,
        Path(sys.executable),
        _python(options.peers),
        _python(options.llama_factory),
        _python(options.llama_cpp),
    )
    lines: list[table.Line] = []
    for name, part in parts.PARTS.items():
        rows.active = name in options.chosen
        if rows.active:
            print(f"{name}:", flush=True)
        # Memory is read from the rows of training.
        elif not any(row["part"] == parts.ROWS_OF.get(name, name) for row in rows.known.values()):
            continue
        lines += part(rows, setting)
        results = [line.to_dict() | {"machine": machine} for line in lines]
        (kept / "speed.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    table.show(lines)


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chosen", nargs="*", metavar="part", help=", ".join(parts.PARTS))
    parser.add_argument("--overwrite", choices=["none", "ours", "peers", "all"], default="none")
    parser.add_argument(
        "--quick", action="store_true", help="Run each part with the smallest sizes."
    )
    for peer in ("peers", "llama-factory", "llama-cpp"):
        parser.add_argument(f"--{peer}", type=Path, default=ROOT / f".venv-{peer}", metavar="VENV")
    options = Options(**vars(parser.parse_args()))
    for name in options.chosen:
        if name not in parts.PARTS:
            parser.error(f"no part `{name}`; there are {', '.join(parts.PARTS)}")
    options.chosen = options.chosen or list(parts.PARTS)
    return options


def _python(venv: Path) -> Path:
    # Not resolved: the link makes it the python of that environment.
    return Path(os.path.abspath(venv)) / "bin" / "python"  # noqa: PTH100


if __name__ == "__main__":
    main()
