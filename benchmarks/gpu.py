"""Test and measure telltune on one GPU, in a few minutes and without a network.

    make bench-gpu                          # on a machine with telltune installed
    python benchmarks/gpu.py prepare        # anywhere: the work, and wheels for a bare machine
    python benchmarks/gpu.py run            # on the GPU, with what `prepare` wrote in runs/gpu
    python benchmarks/gpu.py run --toy      # everything at a toy size, on any machine
    python benchmarks/gpu.py table

A bare machine needs CUDA, PyTorch, transformers and PEFT. It installs the other packages from
runs/gpu/wheels, which are for Python 3.12 on x86-64:

    python3 -m pip install --no-index --no-deps --target /tmp/site runs/gpu/wheels/*.whl
    PYTHONPATH=/tmp/site:src python3 benchmarks/gpu.py run --out "$OUT"

The run has four parts: the tests in tests/gpu, training, answering, and a profile. Each measurement
runs in a process of its own and adds a row as soon as it ends. A repeated run skips the rows that
exist. Models have random weights, because time and memory do not depend on what a model has
learned. The steps are those of TELL on the demo's task: ragged, short examples.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from machine import describe
from speed_parts.result import MARK

HERE = Path(__file__).parent
ROOT = HERE.parent
READY = ROOT / "runs" / "gpu"
ROWS = "gpu_rows.jsonl"

# What a bare image with CUDA lacks; none of these needs a compiler.
WHEELS = (
    *("altair", "annotated-types", "bitsandbytes", "datasets", "defusedxml", "dill", "gguf"),
    *("httpcore2", "httpx2", "jiter", "jsonschema", "jsonschema-specifications", "multiprocess"),
    *("nltk", "openai", "pydantic", "pydantic-core", "referencing", "rouge-score", "rpds-py"),
    *("sniffio", "trl", "truststore", "typing-inspection"),
)
PLATFORMS = ("manylinux_2_28", "manylinux_2_24", "manylinux_2_17", "manylinux2014")

BATCH, TOY_BATCH = 64, 8
"""Number of examples per step: some 4,600 tokens, enough for large matrix products."""
TESTS_SECONDS = 240
"""Time of the tests, after which the measurements go on without them."""
LEARNING_RATE = 1e-6
"""Learning rate at which random weights do not diverge, which would stop the fit."""
LORA = {"r": 16, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}


def shape(hidden: int, inner: int, layers: int, heads: int, groups: int) -> dict[str, int]:
    """Return the sizes of a Llama as transformers names them."""
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
    }


SHAPES = {
    "135M": shape(576, 1536, 30, 9, 3),  # SmolLM2-135M
    "0.5B": shape(896, 4864, 24, 14, 2),  # Qwen2.5-0.5B
    "1.5B": shape(1536, 8960, 28, 12, 2),  # Qwen2.5-1.5B
    "7B": shape(4096, 11008, 32, 32, 32),  # Llama 2 7B
    "toy": shape(64, 128, 2, 2, 1),
}


class Cell(NamedTuple):
    """One measurement.

    Attributes:
        part: `train`, `answer` or `profile`.
        shape: Name of the model's shape.
        who: Contestant.
        how: Its settings.
    """

    part: str
    shape: str
    who: str
    how: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the row."""
        settings = [f"{key}={value}" for key, value in self.how.items() if value is not None]
        return " ".join([self.part, self.shape, self.who, *settings])


def cells(*, toy: bool) -> list[Cell]:
    """Return all measurements, what matters most first within each shape."""
    found = []
    each = (TOY_BATCH if toy else BATCH) // 4
    for name in ("toy",) if toy else ("135M", "0.5B", "1.5B", "7B"):
        kinds = (None, "nf4") if name in ("7B", "toy") else (None,)
        for kind in kinds:
            found += [
                Cell("train", name, "ours", {"quantization": kind}),
                Cell("train", name, "trl", {"form": "packed", "quantization": kind}),
                Cell("train", name, "trl", {"per_device": each, "quantization": kind}),
            ]
        found += [
            Cell("train", name, "trl", {"per_device": 4 * each}),
            Cell("train", name, "transformers", {"per_device": each}),
        ]
        if name in ("135M", "1.5B", "toy"):
            found += [
                Cell("answer", name, "ours", {}),
                Cell("answer", name, "transformers", {"batch": 64}),
            ]
        if name in ("135M", "7B", "toy"):
            found += [Cell("profile", name, "ours", {})]
    return found


def main() -> None:
    """Prepare, run, or show the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["prepare", "run", "table"])
    parser.add_argument("--out", type=Path, default=READY, help="Folder of the rows.")
    parser.add_argument("--minutes", type=float, default=12.0, help="End after that.")
    parser.add_argument("--toy", action="store_true", help="Run everything at a toy size.")
    parser.add_argument("--no-wheels", action="store_true", help="Prepare the work alone.")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what == "prepare":
        prepare(wheels=not options.no_wheels)
    elif options.what == "run":
        run(options.out, toy=options.toy, until=time.monotonic() + 60 * options.minutes)
    if options.what != "prepare":
        table(read(options.out / ROWS))


def prepare(*, wheels: bool) -> None:
    """Write what the machine with the GPU lacks to runs/gpu."""
    from speed_parts.draw import workload
    from telltune.models import load_tokenizer
    from telltune.recipe import ModelSpec

    READY.mkdir(parents=True, exist_ok=True)
    workload(24, [f"training.batch_size={BATCH}"], READY / "steps.npz")
    workload(8, [f"training.batch_size={TOY_BATCH}"], READY / "toy.npz")
    load_tokenizer(ModelSpec()).save_pretrained(READY / "tokenizer")
    if not wheels:
        return
    platforms = [f"--platform={one}_x86_64" for one in PLATFORMS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version=3.12", *platforms]
    known = ROOT / "constraints.txt"
    command += ["-c", str(known), "-c", str(HERE / "peers.txt"), "-d", str(READY / "wheels")]
    subprocess.run([*command, *WHEELS], check=True)


def run(out: Path, *, toy: bool, until: float) -> None:
    """Run what has no row yet, as long as there is time."""
    # Without a network, asking the hub takes until the request times out.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    path = out / ROWS
    done = {row["name"] for row in read(path) if "error" not in row}
    if "tests" not in done:
        add(path, {"name": "tests"} | test(toy=toy, until=until))
    models = out / "models"
    for cell in cells(toy=toy):
        if cell.name in done:
            continue
        if time.monotonic() > until - 30:
            print(f"{cell.name}: no time left", flush=True)
            continue
        model = models / cell.shape
        if not model.exists():
            shutil.rmtree(models, ignore_errors=True)  # one model at a time on the disk
            make_model(SHAPES[cell.shape], model)
        found = measure(cell, model, out, toy=toy, until=until)
        add(path, {"name": cell.name, **cell._asdict()} | found)
    shutil.rmtree(models, ignore_errors=True)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, the latest of each name."""
    rows = map(json.loads, path.read_text().splitlines() if path.exists() else ())
    return list({row["name"]: row for row in rows}.values())


def add(path: Path, row: dict[str, Any]) -> None:
    """Add a row to the file and show it."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    row |= {"machine": describe() | {"gpu": gpu}}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    shown = {k: v for k, v in row.items() if isinstance(v, int | float | str)}
    print(json.dumps(shown), flush=True)


def test(*, toy: bool, until: float) -> dict[str, Any]:
    """Run the tests that need a GPU."""
    values = os.environ | ({"TELLTUNE_TRY_GPU_TESTS": "1"} if toy else {})
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/gpu"]
    began = time.monotonic()
    try:
        ran = subprocess.run(
            command, cwd=ROOT, env=values, capture_output=True, text=True, check=False,
            timeout=min(TESTS_SECONDS, max(30, until - began)),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return {"error": str(error)}
    said = ran.stdout.strip().splitlines()
    found = {"seconds": round(time.monotonic() - began, 1), "said": said[-1] if said else ""}
    return found if ran.returncode == 0 else found | {"error": ran.stdout[-4000:] + ran.stderr}


def make_model(sizes: dict[str, int], folder: Path) -> None:
    """Write a Llama with random weights in bf16, and the embedded model's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(READY / "tokenizer")
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        tie_word_embeddings=sizes["hidden_size"] < 1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
        **sizes,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.3f} billion weights", flush=True)
    model.save_pretrained(folder)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(cell: Cell, model: Path, out: Path, *, toy: bool, until: float) -> dict[str, Any]:
    """Run one contestant in a separate process."""
    asked: dict[str, Any] = {
        "workload": str(READY / ("toy.npz" if toy else "steps.npz")),
        "steps": 3 if toy else 20,
        "model": str(model),
    }
    if cell.part == "answer":
        script = "gpu_answer"
        asked |= {"who": cell.who, "items": 16 if toy else 320, **cell.how}
        asked["new_tokens"] = 8 if toy else 64
    elif cell.who == "ours":
        script = "ours_train"
        asked |= ours(model, cell.how.get("quantization"), TOY_BATCH if toy else BATCH)
        if cell.part == "profile":
            asked |= {"profile": str(out / f"profile_{cell.shape}.txt"), "steps": 7}
    else:
        script = "peer_trl"
        asked |= peer(cell) | ({"max_length": 256} if toy else {})
    try:
        ran = subprocess.run(
            [sys.executable, "-m", f"speed_parts.{script}", json.dumps(asked)],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=False,
            timeout=min(150, max(30, until - time.monotonic())),
        )
    except subprocess.TimeoutExpired as error:
        return {"error": str(error)}
    for line in ran.stdout.splitlines():
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line[len(MARK) :])
            return found
    return {"error": " ".join(ran.stderr.split())[-1500:]}


def ours(model: Path, quantization: str | None, batch: int) -> dict[str, Any]:
    """Return the recipe of telltune."""
    values = {
        "model.name": model,
        "training.loss_average": "token",
        "training.learning_rate": LEARNING_RATE,
        "training.warmup_steps": 0,
        "training.save_steps": 1000000,
        "training.batch_size": batch,
        "training.micro_batch_tokens": 8192,
        "training.precision": "bf16" if torch.cuda.is_available() else "fp32",
        "lora.dropout": 0,
    }
    if quantization is not None:
        values["model.quantization"] = quantization
    return {
        "recipe": str(ROOT / "recipes" / "demo.yaml"),
        "overrides": [f"{key}={value}" for key, value in values.items()],
    }


def peer(cell: Cell) -> dict[str, Any]:
    """Return the settings of TRL's SFTTrainer or transformers' Trainer."""
    return {
        "form": "padded",
        "per_device": 16,
        "sorted": True,
        "trainer": cell.who,
        "learning_rate": LEARNING_RATE,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "dtype": "bf16_base" if torch.cuda.is_available() else "fp32",
        "compile": False,
        "seed": 0,
        "attention": "sdpa",
        "lora": LORA,
        "multiple": 8,
        "max_length": 4096,
        **cell.how,
    }


def table(rows: list[dict[str, Any]]) -> None:
    """Print telltune's rate beside the best of the others, by part, shape and quantization."""
    rates: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row.get("part") in ("train", "answer") and "tokens_per_second" in row:
            place = (row["part"], row["shape"], row["how"].get("quantization") or "bf16")
            side = rates.setdefault(place, {})
            who = "ours" if row["who"] == "ours" else "peer"
            if who not in side or row["tokens_per_second"] > side[who]["tokens_per_second"]:
                side[who] = row
    print("| part | model | ours, tokens/s | best other | its settings | ratio |")
    print("|---|---|---:|---:|---|---:|")
    for (part, name, kind), side in rates.items():
        if len(side) == 2:
            own, other = (side[who]["tokens_per_second"] for who in ("ours", "peer"))
            print(
                f"| {part} | {name}, {kind} | {own:,.0f} | {other:,.0f} "
                f"| {side['peer']['name'].split(' ', 2)[2]} | {own / other:.2f} |"
            )
    for row in rows:
        if "error" in row:
            print(f"{row['name']} failed: {row['error'][-300:]}")


if __name__ == "__main__":
    main()
