"""Compare hidden states for a linear probe: layer, pooling, scaling, anchor.

Prints the second table of docs/guides/baselines.md: the mean over draws of 60 labeled examples, on
the first 100 dev items of two embedded tasks. The states of a text are computed once.

    python benchmarks/probe.py
"""

from __future__ import annotations

import argparse
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.classifiers.heads import fit_head
from telltune.data.anchor import anchored_tokenizer
from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.data.task import load_task
from telltune.inference.packed_engine import shared_length
from telltune.models import load_base
from telltune.recipe import as_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from telltune.models import LoadedModel

TASKS = ("medical_specialty", "answer_kind")
POOLS = ("last token", "all tokens", "from the text on")
SCALES = ("length 1", "standardized")
# Two of SmolLM2-135M's 30 layers: the middle one, and the last one after its norm.
LAYERS = (15, 30)
LABELS, ITEMS = 60, 100

States = dict[tuple[str, int], dict[str, "NDArray[np.float64]"]]


def states_of(base: LoadedModel, tokenizer: Any, texts: Sequence[str]) -> States:
    """Return each text's vector by pooling and layer, from one pass of plain transformers each."""
    prompts = Encoder(tokenizer).prompts([Example(text, "") for text in texts])
    before = shared_length(prompts)
    found: States = {key: {} for key in product(POOLS, LAYERS)}
    for text, ids in zip(texts, prompts, strict=True):
        with torch.inference_mode():
            hidden = base.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for layer in LAYERS:
            states = hidden[layer][0].double().numpy()
            pooled = (states[-1], states.mean(0), states[before:].mean(0))
            for pool, vector in zip(POOLS, pooled, strict=True):
                found[pool, layer][text] = vector
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2)
    given = parser.parse_args()
    base = load_base(as_recipe({"task": TASKS[0]}).model)
    print("| task | anchor | vector | scale | " + " | ".join(f"layer {n}" for n in LAYERS) + " |")
    print("|---|---|---|---|" + "---:|" * len(LAYERS))
    for name, anchored in product(TASKS, (False, True)):
        keys = {"embedded": name, "max_examples": LABELS}
        draws = [load_task(as_recipe({"task": keys, "seed": n})) for n in range(given.draws)]
        dev = draws[0].dev[:ITEMS]
        texts = list(dict.fromkeys(e.prompt for e in (*dev, *(e for t in draws for e in t.train))))
        tokenizer = anchored_tokenizer(base.tokenizer, draws[0].anchor if anchored else None)
        states = states_of(base, tokenizer, texts)
        for pool, scale in product(POOLS, SCALES):
            told = []
            for layer in LAYERS:
                vectors, scores = states[pool, layer], []
                for task in draws:
                    seen, asked = (
                        np.stack([vectors[e.prompt] for e in examples])
                        for examples in (task.train, dev)
                    )
                    if scale == "length 1":
                        seen, asked = (
                            some / np.linalg.norm(some, axis=1, keepdims=True)
                            for some in (seen, asked)
                        )
                    kind = "encoder" if scale == "length 1" else "states"
                    answers = [e.completion for e in task.train]
                    said = fit_head("linear", kind, seen, answers).best(asked)
                    scores += [100.0 * (a == e.completion) for a, e in zip(said, dev, strict=True)]
                told.append(f"{fmean(scores):.1f}")
            row = (name, "yes" if anchored else "no", pool, scale, *told)
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
