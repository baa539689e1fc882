"""Tokens per second of `tell serve` and `transformers serve` on the same requests.

All serve one merged model, one after the other, in the same precision; `transformers serve` as it
is by default, and with its continuous batching. Each client sends one request after another through
OpenAI's client, with temperature 0.

    python benchmarks/serving.py [--core 1]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openai import APIConnectionError, APIStatusError, OpenAI

import telltune
from machine import describe
from telltune.exporting.merge import merge_adapter
from telltune.models import compute_dtype
from telltune.serving.server import open_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "tickets.yaml"
OUT = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=16, help="requests for each row, at least")
    parser.add_argument("--tokens", type=int, default=24, help="longest answer")
    parser.add_argument("--core", type=int, help="run everything on this core, with one thread")
    given = parser.parse_args()
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
        os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder))
        dtype = str(compute_dtype("auto")).removeprefix("torch.")
        peer = [transformers(), "serve", str(model), "--dtype", dtype]
        commands = {
            "tell": ["-m", "telltune", "serve", str(model)],
            "transformers": peer,
            "transformers batching": [*peer, "--continuous-batching"],
        }
        rows = []
        for name, command in commands.items():
            for row in measure(command, model, given):
                rows.append({"server": name, **row})
                print(json.dumps(rows[-1]), flush=True)
    ours = {row["clients"]: row for row in rows if row["server"] == "tell"}
    peers = [row for row in rows if row["server"] != "tell"]
    ratios: dict[str, dict[int, float]] = {name: {} for name in commands if name != "tell"}
    alike = dict.fromkeys(ratios, 0)
    for row in peers:
        own = ours[row["clients"]]
        ratio = own["tokens_per_second"] / row["tokens_per_second"]
        ratios[row["server"]][row["clients"]] = round(ratio, 1)
        alike[row["server"]] += sum(map(str.__eq__, own["answers"], row["answers"]))
    asked = sum(row["requests"] for row in ours.values())
    for row in rows:
        del row["answers"]
    found = {
        "machine": describe() | {"pinned_to": given.core, "dtype": dtype},
        "tokens": given.tokens,
        "requests": asked,
        "equal_answers": alike,
        "ratios": ratios,
        "rows": rows,
    }
    OUT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"tell against each: {ratios}; equal answers of {asked}: {alike}")


def make_model(folder: Path) -> Path:
    """Return a merged model of the tutorial's task, after one step of training.

    It still answers in whole sentences, so that there are tokens to count.
    """
    recipe = telltune.load_recipe(RECIPE, ["method=sft", "task.max_examples=4", "mixture.passes=1"])
    telltune.fit(recipe, folder / "adapter", progress=False)
    merge_adapter(folder / "adapter", folder / "merged")
    return folder / "merged"


def transformers() -> str:
    """Return the path of the command `transformers` beside this Python."""
    return str(Path(shutil.which("transformers", path=str(Path(sys.executable).parent)) or ""))


def measure(command: list[str], model: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Start a server, and yield a row for each number of clients."""
    with open_port("127.0.0.1", 0) as port:
        number = port.getsockname()[1]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    address = ["--host", "127.0.0.1", "--port", str(number)]
    process = subprocess.Popen([sys.executable, *command, *address], env=environment)
    client = OpenAI(base_url=f"http://127.0.0.1:{number}/v1", api_key="none", timeout=600)
    # transformers names a local model by its folder.
    name = model.name if "telltune" in command else str(model)

    def ask(prompt: str) -> tuple[int, str]:
        reply = client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=given.tokens,
            temperature=0,
        )
        assert reply.usage is not None
        return reply.usage.completion_tokens, str(reply.choices[0].message.content).strip()

    try:
        wait(process, ask)
        for clients in given.clients:
            prompts = texts(max(clients, given.requests) if clients > 1 else given.requests // 4)
            began = time.perf_counter()
            with ThreadPoolExecutor(clients) as threads:
                answers = list(threads.map(ask, prompts))
            seconds = time.perf_counter() - began
            tokens = sum(count for count, _ in answers)
            yield {
                "clients": clients,
                "requests": len(prompts),
                "completion_tokens": tokens,
                "seconds": round(seconds, 2),
                "tokens_per_second": round(tokens / seconds, 2),
                "answers": [text for _, text in answers],
            }
    finally:
        process.terminate()
        process.wait(60)


def wait(process: subprocess.Popen[bytes], ask: Any) -> None:
    """Wait for the first answer, which also warms the server up."""
    while True:
        assert process.poll() is None, "the server has ended"
        try:
            ask("Hello")
        except (APIConnectionError, APIStatusError):
            time.sleep(0.5)
        else:
            return


def texts(count: int) -> list[str]:
    """Return texts of the task, each once."""
    folder = RECIPE.parent / "tickets"
    found = []
    for name in ("test.csv", "train.csv", "unlabeled.csv"):
        with (folder / name).open(encoding="utf-8", newline="") as file:
            found += [row["text"] for row in csv.DictReader(file)]
    assert len(found) >= count
    return found[:count]


if __name__ == "__main__":
    main()
