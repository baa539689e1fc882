"""Measure tokenizing, `tell plan` and memory with up to millions of general examples.

    python benchmarks/scale.py                # 10^4, 10^5 and 10^6 general examples
    python benchmarks/scale.py 7 --words 12   # 10^7 examples, prompts cut to 12 words

Examples are the embedded general data with a running number, in one JSONL file. Each step runs in a
separate process. `encode` reads, checks, hashes and tokenizes into an empty cache. `plan` does what
`tell plan --json` does on a machine whose speed is known. Its time is the shortest of three runs,
and includes the start of Python and all imports. Wall and CPU seconds are recorded, since other
work may share the machine. Rows are written to scale.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

RESULTS = Path(__file__).with_suffix(".json")
RECIPE = """\
method: tell
model: embedded
task: {{embedded: medical_specialty, max_examples: 100}}
general: {path}
mixture: {{leverage_ratio: 20, passes: 3}}
"""
ENCODE = """
import json, sys, time
from telltune.data.encoding_cache import EncodingCache
from telltune.data.task import load_general
from telltune.fitting.model_info import load_model_info
from telltune.recipe import as_recipe
recipe = as_recipe(sys.argv[1])
tokenizer = load_model_info(recipe.model).tokenizer
tokenizer.load()
encodings = EncodingCache(tokenizer, max_length=recipe.training.max_length)
general = load_general(recipe)
def seconds():
    return time.perf_counter(), time.process_time()
began = seconds()
contents = general.contents
read = seconds()
tokens = int(encodings.encode(general, contents).offsets[-1])
done = seconds()
print(json.dumps({
    "tokens": tokens,
    "read": [b - a for a, b in zip(began, read)],
    "tokenize": [b - a for a, b in zip(read, done)],
}))
"""
PLAN = """
import json, sys
from telltune.api import plan
print(json.dumps(plan(sys.argv[1], measure=False)))
"""


def main() -> None:
    """Measure each size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "powers",
        nargs="*",
        type=int,
        default=[4, 5, 6],
        help="Powers of ten: numbers of general examples.",
    )
    parser.add_argument(
        "--words", type=int, help="Maximum number of words of prompts and completions."
    )
    options = parser.parse_args()
    for power in options.powers:
        with tempfile.TemporaryDirectory(prefix="telltune-scale-") as folder:
            row = measured(Path(folder), 10**power, options.words)
        rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
        same = ("examples", "words")
        rows = [r for r in rows if any(r[key] != row[key] for key in same)] + [row]
        RESULTS.write_text(json.dumps(sorted(rows, key=lambda r: r["examples"]), indent=2) + "\n")
    print(f"{'':31}  {'first time: us an example':37} plan after")
    print(
        f"{'examples':>10} {'tokens':>12} {'MiB':>7}  {'read (cpu)':>13} {'tokenize (cpu)':>14} "
        f"{'peak':>8} {'seconds (cpu)':>14} {'peak':>8}"
    )
    for row in json.loads(RESULTS.read_text()):
        read, tokenized, planned = (
            f"{row[key][0]:.{digits}f} ({row[key][1]:.{digits}f})"
            for key, digits in (("read_us", 0), ("tokenize_us", 0), ("plan_seconds", 1))
        )
        print(
            f"{row['examples']:>10,} {row['tokens']:>12,} {row['file_mib']:>7,.0f}  "
            f"{read:>13} {tokenized:>14} {row['encode_mib']:>4,} MiB "
            f"{planned:>14} {row['plan_mib']:>4,} MiB"
        )


def measured(folder: Path, examples: int, words: int | None) -> dict[str, object]:
    """Return one row of the table."""
    data, recipe = folder / "general.jsonl", folder / "recipe.yaml"
    write_rows(data, examples, words)
    recipe.write_text(RECIPE.format(path=data))
    # A file that was just written is hashed again, since it may still change.
    time.sleep(3)
    # A separate cache that contains the model, whose unpacking is not measured.
    cache = folder / "cache"
    real = Path(os.environ.get("TELLTUNE_CACHE", Path.home() / ".cache" / "telltune"))
    ignored = shutil.ignore_patterns("encoded", "contents", "files")
    shutil.copytree(real, cache, ignore=ignored, copy_function=os.symlink)
    environment = os.environ | {"TELLTUNE_CACHE": str(cache)}
    output, encode = run(ENCODE, recipe, environment)
    encoded = json.loads(output)
    plans = [run(PLAN, recipe, environment)[1] for _ in range(3)]
    return {
        "examples": examples,
        "words": words,
        "file_mib": round(data.stat().st_size / 2**20, 1),
        "tokens": encoded["tokens"],
        "read_us": [round(t / examples * 1e6, 1) for t in encoded["read"]],
        "tokenize_us": [round(t / examples * 1e6, 1) for t in encoded["tokenize"]],
        "encode_mib": encode["mib"],
        "plan_seconds": [min(p[key] for p in plans) for key in ("wall", "cpu")],
        "plan_mib": max(p["mib"] for p in plans),
        "threads": os.environ.get("RAYON_NUM_THREADS"),
        "machine": describe(),
    }


def write_rows(path: Path, count: int, words: int | None) -> None:
    """Write embedded general examples repeatedly, each with its number in the prompt."""
    from telltune.data.embedded import embedded_general

    pairs = [(cut(e.prompt, words), cut(e.completion, words)) for e in embedded_general()]
    with path.open("w", encoding="utf-8") as file:
        for number, (prompt, completion) in zip(range(count), itertools.cycle(pairs), strict=False):
            row = {"prompt": f"{prompt} ({number})", "completion": completion}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def cut(text: str, words: int | None) -> str:
    """Return the first words of a text, or all of it."""
    return text if words is None else " ".join(text.split()[:words])


def run(program: str, recipe: Path, environment: dict[str, str]) -> tuple[str, dict[str, float]]:
    """Run a program; return its output, wall and CPU seconds, and peak MiB."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(recipe)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    # Unlike RUSAGE_CHILDREN, this is the peak of this child only.
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"a measured program failed ({os.waitstatus_to_exitcode(status)}).")
    return output, {
        "wall": round(time.perf_counter() - began, 2),
        "cpu": round(usage.ru_utime + usage.ru_stime, 2),
        "mib": round(usage.ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
