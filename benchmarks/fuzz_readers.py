"""Fuzz the readers of user files: they must not crash, hang or use much memory.

    pip install atheris
    python -m tarfile -e benchmarks/fuzz_corpus.tar.xz runs
    python benchmarks/fuzz_readers.py --minutes 10
    python benchmarks/fuzz_readers.py --replay          # the corpus once; needs no atheris

The first byte of an input selects the reader of the rest: a data format, compressed or not, a
recipe, or a `--set`. A run starts with the corpus in runs/fuzz_corpus, and adds inputs that reach
new code to it. An input that breaks something is left in the working directory as `crash-*`,
`timeout-*` or `oom-*`; `--replay FILE` runs it again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["telltune"]) if atheris else nullcontext():
    from telltune.data.examples import Example
    from telltune.data.loaders import scan
    from telltune.errors import TellError
    from telltune.recipe import DataSpec, load_recipe, recipe_from_dict

CORPUS = Path(__file__).parents[1] / "runs" / "fuzz_corpus"
# Longer inputs find nothing new and take longer.
MAX_INPUT_BYTES = 4096
SECONDS_AN_INPUT = 10
MEBIBYTES = 2048

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")
PACKED = ("packed.jsonl.gz", "packed.json.gz", "packed.csv.gz")
OTHERS = ("recipe.yaml", "--set")
TARGETS = (*FORMATS, *PACKED, *OTHERS)


def read(data: bytes, folder: Path) -> None:
    """Give an input to the reader that its first byte selects.

    Args:
        data: The selecting byte, and the input.
        folder: Folder for the input's file.

    Raises:
        AssertionError: The reader returned a wrong result.
        Exception: The reader raised an error other than a TellError.
    """
    if not data:
        return
    target, rest = TARGETS[data[0] % len(TARGETS)], data[1:]
    with suppress(TellError):
        if target == "--set":
            overrides = rest.decode("utf-8", "replace").split("\0")
            recipe_from_dict({"task": "answer_kind"}, overrides=overrides)
        elif target == "recipe.yaml":
            path = folder / target
            path.write_bytes(rest)
            recipe = load_recipe(path)
            assert recipe_from_dict(json.loads(recipe.model_dump_json())) == recipe
        else:
            path = folder / (target if target in PACKED else f"a{target}")
            path.write_bytes(gzip.compress(rest, 1, mtime=0) if target in PACKED else rest)
            for item in scan(DataSpec(path=str(path))):
                assert "\n" not in str(item).replace(str(path), "") or isinstance(item, Example)
                str(item).encode()
                if isinstance(item, Example):
                    assert item.prompt.strip()
                    assert item.completion.strip()


def fuzz(minutes: float, corpus: Path) -> None:
    """Fuzz from a corpus, and add inputs that reach new code to it. Does not return."""
    assert atheris is not None
    folder = Path(tempfile.mkdtemp(prefix="telltune-fuzz-"))
    tries = 0

    def read_next(data: bytes) -> None:
        nonlocal tries
        tries += 1
        read(bytes(data), folder)
        # libFuzzer only takes wall time, and a busy machine gives little CPU time in it.
        if time.process_time() > minutes * 60:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{tries:,} inputs in {minutes:g} CPU minutes, {peak} MiB at the most")
            sys.stdout.flush()
            os._exit(0)

    options = [
        sys.argv[0],
        str(corpus),
        f"-max_len={MAX_INPUT_BYTES}",
        f"-timeout={SECONDS_AN_INPUT}",
        f"-rss_limit_mb={MEBIBYTES}",
    ]
    atheris.Setup(options, read_next)
    atheris.Fuzz()


def replay(paths: list[Path]) -> None:
    """Read each input once, and print how long that took."""
    files = [
        file
        for path in paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.is_file()
    ]
    slowest, slowest_file = 0.0, Path()
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            began = time.perf_counter()
            read(file.read_bytes(), Path(folder))
            seconds = time.perf_counter() - began
            if seconds > slowest:
                slowest, slowest_file = seconds, file
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{len(files)} inputs; the slowest, {slowest_file.name}, took {slowest:.2f} s; "
        f"{peak} MiB at the most"
    )


def main() -> None:
    """Parse the arguments, and fuzz or replay."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="Minutes of CPU time.")
    parser.add_argument("--replay", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    arguments = parser.parse_args()
    if arguments.replay is not None:
        replay(arguments.replay or [arguments.corpus])
    elif atheris is None:
        parser.error("atheris is not installed: pip install atheris")
    else:
        fuzz(arguments.minutes, arguments.corpus)


if __name__ == "__main__":
    main()
