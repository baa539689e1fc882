"""The process of `tell serve`: its port, its signals and its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import openai
import pytest
import torch
from openai import OpenAI

from asking import SHAPES, asked, http, said
from forked import Forked
from telltune.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def started(rambling: Path, tmp_path: Path) -> Iterator[tuple[Forked, OpenAI]]:
    """Yield a process that serves an adapter, and a client."""
    said, complaints = tmp_path / "said", tmp_path / "complaints"
    arguments = ("serve", rambling, "--port", 0, "--json")
    process = Forked(*arguments, said=said, complaints=complaints)
    process.until(lambda: said.exists() and said.read_text().endswith("\n"))
    url = json.loads(said.read_text())["url"]
    process.until(lambda: _answers(url))
    yield process, OpenAI(base_url=url, api_key="none", max_retries=0)
    if process.process.exitcode is None:
        process.process.kill()


def _answers(url: str) -> bool:
    return http(OpenAI(base_url=url, api_key="none"), "/health")[0] == 200


def long_answer(client: OpenAI) -> Any:
    """Return the stream of an answer that takes a while, after its first piece."""
    stream = client.chat.completions.create(
        **asked(SHAPES[0], "rambling", stream=True, max_tokens=450, temperature=2.0, seed=1)
    )
    next(stream)
    return stream


def test_a_signal_lets_the_server_finish_what_it_began(started: tuple[Forked, OpenAI]) -> None:
    process, client = started
    stream = long_answer(client)
    process.signal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(list, stream)
        # Until the answer is complete, new requests are refused.
        process.until(lambda: http(client, "/health")[0] == 503)
        with pytest.raises(openai.InternalServerError, match="shutting down"):
            said(client, SHAPES[1], "rambling")
        assert read.result()[-1].choices[0].finish_reason in ("length", "stop")
    assert process.wait() == 0


def test_a_second_signal_ends_the_server_at_once(
    started: tuple[Forked, OpenAI], tmp_path: Path
) -> None:
    process, client = started
    stream = long_answer(client)
    process.signal(signal.SIGINT)
    process.until(lambda: http(client, "/health")[0] == 503)
    process.signal(signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT
    assert "Traceback" not in (tmp_path / "complaints").read_text()
    with pytest.raises(openai.APIError):
        list(stream)


def test_an_idle_server_ends_at_the_first_signal(started: tuple[Forked, OpenAI]) -> None:
    process, client = started
    assert said(client, SHAPES[0], "rambling")
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    with pytest.raises(openai.APIConnectionError):
        said(client, SHAPES[0], "rambling")


STAND_IN = """#!/bin/sh
trap 'kill $!; exit 7' TERM
sleep 60 &
printf '%s\\n' "$VLLM_API_KEY" "$@" > "$SAID.part" && mv "$SAID.part" "$SAID"
wait
"""
"""A program named vllm that tells how it was called, and ends with its own status."""


def pretend_gpu() -> None:
    torch.cuda.is_available = lambda: True
    torch.cuda.is_bf16_supported = lambda **_: True


def test_vllm_takes_the_place_of_the_process_on_a_gpu(rambling: Path, tmp_path: Path) -> None:
    (program := tmp_path / "bin" / "vllm").parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    output, told = tmp_path / "output", tmp_path / "told"
    process = Forked(
        *("serve", rambling, "--port", 0, "--max-batch", 7, "--json"),
        said=output,
        complaints=tmp_path / "complaints",
        first=pretend_gpu,
        environment={
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "TELLTUNE_API_KEY": "secret",
            "SAID": str(told),
        },
    )
    process.until(told.exists)
    announced = json.loads(output.read_text())
    assert announced["models"] == {"rambling": "vLLM"}
    key, *words = told.read_text().splitlines()
    assert key == "secret"
    assert words[0] == "serve"
    assert f"rambling={rambling}" in words
    assert words[words.index("--dtype") + 1] == "float32"
    port = announced["url"].removesuffix("/v1").rpartition(":")[2]
    assert words[-8:-6] == ["--max-num-seqs", "7"]
    assert words[-4:] == ["--host", "127.0.0.1", "--port", port]
    process.signal(signal.SIGTERM)
    assert process.wait() == 7


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--engine", "vllm"), r"--engine vllm needs vLLM: pip install 'telltune\[vllm\]'"),
        (
            ("--port", "{busy}"),
            r"port \d+ of 127.0.0.1 cannot be opened: Address already in use;",
        ),
        (("--host", "192.0.2.1"), "port 8000 of 192.0.2.1 cannot be opened: Cannot assign"),
        (("missing/folder", "--port", "0"), "missing/folder/tell.json is missing"),
        (("{folder}", "--port", "0"), "two folders are named rambling"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    rambling: Path,
    words: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        names = {"busy": busy.getsockname()[1], "folder": rambling}
        given = [word.format(**names) for word in words]
        monkeypatch.setattr(sys, "argv", ["tell", "serve", str(rambling), "--json", *given])
        with pytest.raises(SystemExit) as ended:
            main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert re.search(told, printed.err)
    assert printed.err.count("\n") == 1
