"""Measure the fast paths on a random model of medium size of one family.

    python benchmarks/families.py   # about 10 minutes on one core

LoRA training on examples that share an anchor, and greedy answers to few-shot prompts that share
their examples, take turns in one process: with telltune's fast paths, and without them
(transformers and PEFT alone: one example per row, and `generate`). The answers must be the same.
A family that is not packed is trained alike in both ways, so only its answers are measured. Times
are processor times of one thread, which other work on the machine hardly affects. `--rounds` sets
the number of turns, `--prompts` that of prompts, and `--families` which families are measured; the
others keep their results. `--ways fast` leaves out the slow side, to compare two versions of
telltune.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model

from machine import describe
from telltune.cli.console import print_table
from telltune.inference.engine import make_generator
from telltune.inference.transformers_engine import TransformersGenerator
from telltune.models.kernels.fast_path import FastPath
from telltune.models.kernels.packing import pack, token_nll

RESULTS = Path(__file__).with_suffix(".json")
SIZES = {
    "vocab_size": 32_000,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 64,
    # As in Gemma 3, shorter than what few-shot prompts share.
    "sliding_window": 512,
    "initializer_range": 0.1,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Gemma 3": ("Gemma3TextConfig", {"query_pre_attn_scalar": 64}),
    "Bloom": ("BloomConfig", {"n_layer": 8, "n_head": 4}),
    "LFM 2": ("Lfm2Config", {"layer_types": ["conv", "conv", "full_attention", "conv"] * 2}),
}
ANCHOR, SHARED, ANSWER = 50, 1000, 16
PROMPTS, EXAMPLES = 100, 64
SHOWN = (("tokens_per_s", 0), ("seconds", 1))


def adapted(family: str) -> Any:
    """Return a random model with an adapter that changes its answers."""
    torch.manual_seed(0)
    kind, more = FAMILIES[family]
    config = getattr(transformers, kind)(**SIZES, **more)
    model = transformers.AutoModelForCausalLM.from_config(config)
    settings = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
    model = get_peft_model(model, settings)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


def texts(count: int, shared: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Return token ids of texts with a common start, and of 20 to 60 tokens of their own."""
    start = generator.integers(3, SIZES["vocab_size"], shared)
    lengths = generator.integers(20, 61, count)
    own = (generator.integers(3, SIZES["vocab_size"], n) for n in lengths)
    return [np.concatenate([start, ids]).astype(np.int32) for ids in own]


def train(model: Any, fast: FastPath, rows: list[tuple[np.ndarray, int]]) -> float:
    """Compute the gradient of all examples and return the rate in tokens per second."""
    model.train()
    began = time.process_time()
    with fast.active():
        for batch in pack(rows, 2048, together=fast.packed):
            token_nll(model, batch, fast.cut_loss).sum().backward()
    return sum(len(ids) for ids, _ in rows) / (time.process_time() - began)


def measure(family: str, ways: list[str], rounds: int, count: int) -> dict[str, Any]:
    """Measure a family in turns, with `count` prompts."""
    generator = np.random.default_rng(0)
    # The last ten tokens are the response.
    rows = [(ids, len(ids) - 10) for ids in texts(EXAMPLES, ANCHOR, generator)]
    prompts = [ids.tolist() for ids in texts(count, SHARED, generator)]
    model = adapted(family)
    paths = {"fast": FastPath(model), "plain": FastPath(model, "off")}
    packed = paths["fast"].packed
    found: dict[str, Any] = {"packed": packed, "prompts": count}
    found |= {"tokens_per_s": {}, "seconds": {}}
    answers: dict[str, list[list[int]]] = {}
    for way in ways if packed else ():
        train(model, paths[way], rows[:8])  # The first pass is not timed.
    for _ in range(rounds):
        for way in ways:
            if packed:
                rate = round(train(model, paths[way], rows), 1)
                found["tokens_per_s"].setdefault(way, []).append(rate)
            model.eval()
            engine: Any = TransformersGenerator(model, 0, shares=False)
            if way == "fast":
                engine = make_generator(model, 0)
            began = time.process_time()
            answers[way] = engine.generate(prompts, max_new_tokens=ANSWER, stop_ids=set())
            seconds = round(time.process_time() - began, 2)
            found["seconds"].setdefault(way, []).append(seconds)
            print(family, way, seconds, "s", flush=True)
    if len(answers) == 2:
        same = [a == b for a, b in zip(*answers.values(), strict=True)]
        found["same_answers"] = sum(same)
    return found


def main() -> None:
    """Measure, print the table and write benchmarks/families.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--ways", default="fast,plain")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ways = given.ways.split(",")
    versions = {"machine": describe(), "transformers": transformers.__version__}
    known = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.families.split(","):
        known[name] = versions | measure(name, ways, given.rounds, given.prompts)
        given.out.write_text(json.dumps(known, indent=1) + "\n")
    table = [
        (
            name,
            way,
            str(one["prompts"]),
            *(
                f"{median(one[key][way]):.{digits}f}" if way in one[key] else "-"
                for key, digits in SHOWN
            ),
        )
        for name, one in known.items()
        for way in one["seconds"]
    ]
    print_table(
        "Random models",
        ("family", "way", "prompts", "training tokens/s", "seconds of answers"),
        table,
    )


if __name__ == "__main__":
    main()
