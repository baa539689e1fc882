"""Processes that run `tell` without repeating its imports; tests start and disturb them."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from telltune.storage import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("telltune.cli", "telltune.api", "telltune.training.trainer"),
        *("telltune.training.callbacks", "peft", "transformers.models.llama.modeling_llama"),
        *("telltune.research.streams.stream", "telltune.serving.server", "openai", "altair"),
        "sklearn.feature_extraction.text",
    ]
)
# Limit of every wait; the machine may be busy.
_PATIENCE = 200.0


class Forked:
    """Process that runs `tell` with the given arguments.

    It is forked from a process that has done all imports. It therefore takes a second, most of
    which is training.

    Args:
        arguments: Arguments of the command line.
        said: File for its output.
        complaints: File for its standard error, which otherwise goes to `said` as well.
        first: Function that it calls first, for example to break something from inside.
        environment: Environment variables to set in it.
    """

    def __init__(
        self,
        *arguments: object,
        said: Path,
        complaints: Path | None = None,
        first: Callable[[], None] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.said = said
        # The process that is forked from may have started under another test's environment.
        environment = {"TELLTUNE_CACHE": str(cache_folder())} | (environment or {})
        words = [str(argument) for argument in arguments]
        outputs = (said, complaints or said)
        self.process = FORKS.Process(target=run, args=(words, outputs, first, environment))
        self.process.start()

    def wait(self) -> int:
        """Return the exit code, which is negative for a signal."""
        self.process.join(_PATIENCE)
        assert self.process.exitcode is not None, f"it hangs: {self.said.read_text()}"
        return self.process.exitcode

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def until(self, happened: Callable[[], bool], patience: float = _PATIENCE) -> None:
        """Wait until a condition holds."""
        end = time.monotonic() + patience
        while not happened():
            assert self.process.exitcode is None, self.said.read_text()
            assert time.monotonic() < end, f"it hangs: {self.said.read_text()}"
            time.sleep(0.004)


def run(
    words: list[str],
    outputs: tuple[Path, Path],
    first: Callable[[], None] | None,
    environment: dict[str, str],
) -> None:
    """Run `tell` in the process of a fork; the arguments are those of `Forked`."""
    import torch

    from telltune.cli import main

    # As in tests/conftest.py.
    gc.freeze()
    os.fsync = lambda descriptor: None
    for number, path in enumerate(outputs, start=1):
        path.write_bytes(b"")
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.environ.update(environment)
    torch.set_num_threads(1)
    if first is not None:
        first()
    sys.argv = ["tell", *words]
    main()


_PLAIN = """
import functools, json, os, sys, traceback

# Importing it takes seconds, and no model here is quantized.
sys.modules["bitsandbytes"] = None
import gguf, peft, transformers
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

# transformers reads a file again and again, and lists these names for each module.
gguf.GGUFReader = functools.cache(gguf.GGUFReader)
gguf.get_tensor_name_map = functools.cache(gguf.get_tensor_name_map)

for line in sys.stdin:
    code, arguments, folder, outputs = json.loads(line)
    if not (child := os.fork()):
        for number, path in enumerate(outputs, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.chdir(folder)
        sys.argv = ["-c", *arguments]
        status = 0
        try:
            exec(code, {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class PlainPython:
    """Python with transformers and PEFT, but without telltune; each run is a fork.

    Args:
        folder: Empty folder for outputs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PLAIN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )

    def run(self, code: str, *arguments: object, cwd: Path | None = None) -> str:
        """Run code with arguments in a folder, and return what it prints."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        outputs = [self.folder / "out", self.folder / "err"]
        job = [code, [*map(str, arguments)], str(cwd or self.folder), [*map(str, outputs)]]
        print(json.dumps(job), file=self.process.stdin, flush=True)
        status = self.process.stdout.readline().strip()
        assert status == "0", outputs[1].read_text()
        return outputs[0].read_text()

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
