"""Compare LoRA and QLoRA of a large model on one GPU with TRL on the same steps.

    python benchmarks/large_model.py draw --steps 12             # the work, on any machine
    pip install trl==1.16.0 bitsandbytes==0.50.2
    python benchmarks/large_model.py run --shape 7b     # not timed yet; over 5 minutes on an H200

The weights are random, in the shape of Llama 2 7B with the embedded model's vocabulary, because
time and memory do not depend on what a model has learned. Steps are those of TELL on the demo's
task.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from machine import describe
from speed_parts.result import MARK

HERE = Path(__file__).parent
WORKLOAD = HERE / "large_model.npz"
RESULTS = HERE / "large_model.json"
SHAPES: dict[str, dict[str, Any]] = {
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
}
LORA = {"r": 16, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": "all-linear"}
LEARNING_RATE = 1e-6
"""Learning rate at which random weights do not diverge, which would stop the fit."""
BATCH = 64
"""Number of examples per step: some 4,600 tokens, enough for large matrix products."""
CONTESTANTS: tuple[tuple[str, str | None, dict[str, Any]], ...] = (
    ("ours", None, {"micro_batch_tokens": 4096}),
    ("trl", None, {"per_device": 16}),
    ("trl", None, {"per_device": 4}),
    ("ours", "nf4", {"micro_batch_tokens": 4096}),
    ("trl", "nf4", {"per_device": 16}),
)


def main() -> None:
    """Draw the steps, or run all contestants on them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["draw", "run"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.what == "draw":
        from speed_parts.draw import workload

        workload(options.steps, [f"training.batch_size={BATCH}"], WORKLOAD)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_model(SHAPES[options.shape], folder)
        rows = [measure(*one, folder, options.steps) for one in CONTESTANTS]
    machine = describe() | {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    }
    found = {"shape": options.shape, "rows": rows, "machine": machine}
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        shown = {k: v for k, v in row.items() if k not in ("losses", "step_seconds")}
        print(json.dumps(shown))


def make_model(shape: dict[str, Any], folder: str) -> None:
    """Write a Llama with random weights in bf16, and the embedded model's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from telltune.models import load_tokenizer
    from telltune.recipe import ModelSpec

    tokenizer = load_tokenizer(ModelSpec())
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
        **shape,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e9:.2f} billion weights", flush=True)
    model.save_pretrained(folder)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(
    who: str, quantization: str | None, how: dict[str, int], model: str, steps: int
) -> dict[str, Any]:
    """Run one contestant in a separate process."""
    asked: dict[str, Any] = {"workload": str(WORKLOAD), "steps": steps, "model": model}
    if who == "ours":
        asked["recipe"] = str(HERE.parent / "recipes" / "demo.yaml")
        values = {
            "model.name": model,
            "training.loss_average": "token",
            "training.learning_rate": LEARNING_RATE,
            "training.warmup_steps": 0,
            "training.save_steps": 1000000,
            "training.batch_size": BATCH,
            "training.precision": "bf16",
            "lora.dropout": 0,
        }
        values |= {f"training.{key}": value for key, value in how.items()}
        if quantization is not None:
            values["model.quantization"] = quantization
        asked["overrides"] = [f"{key}={value}" for key, value in values.items()]
    else:
        asked |= {
            "form": "padded",
            "sorted": True,
            "trainer": "trl",
            "learning_rate": LEARNING_RATE,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "dtype": "bf16_base",
            "compile": False,
            "seed": 0,
            "attention": "sdpa",
            "lora": LORA,
            "multiple": 8,
            "max_length": 2048,
            "quantization": quantization,
            **how,
        }
    script = {"ours": "ours_train", "trl": "peer_trl"}[who]
    ran = subprocess.run(
        [sys.executable, "-m", f"speed_parts.{script}", json.dumps(asked)],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    row = {"who": who, "quantization": quantization, **how}
    for line in ran.stdout.splitlines():
        if line.startswith(MARK):
            found: dict[str, Any] = json.loads(line[len(MARK) :])
            return row | found
    return row | {"error": " ".join(ran.stderr.split())[-500:]}


if __name__ == "__main__":
    main()
