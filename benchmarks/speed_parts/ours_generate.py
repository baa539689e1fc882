"""Answer test items, or one prompt, as `tell predict` and `tell evaluate` do."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

from speed_parts.result import arguments, give


def main() -> None:
    """Measure one run."""
    asked = arguments()
    if asked["kind"] == "evaluate":
        _evaluate(asked)
    else:
        _one(asked)


def _evaluate(asked: dict[str, Any]) -> None:
    from telltune.data.embedded import embedded_task
    from telltune.fitting.adapter_folder import load_predictor

    examples = list(embedded_task(asked["task"]).test[: asked["items"]])
    predictor = load_predictor(Path(asked["adapter"]), precision="fp32")
    predictor.max_new_tokens = asked["new_tokens"]
    predictor.predict(examples[:2])
    began = time.perf_counter()
    texts = predictor.predict(examples)
    seconds = time.perf_counter() - began
    give(items_per_second=round(len(texts) / seconds, 4), seconds=round(seconds, 3), texts=texts)


def _one(asked: dict[str, Any]) -> None:
    from telltune.data.examples import Example
    from telltune.data.task import load_task
    from telltune.fitting.protocol import Settings
    from telltune.methods.registry import get_method
    from telltune.models import load_base
    from telltune.recipe import recipe_from_dict

    recipe = recipe_from_dict(
        {"task": {"embedded": "medical_specialty"}, "training": {"precision": asked["dtype"]}}
    )
    base = load_base(recipe.model, asked["dtype"])
    predictor = get_method("base").run(load_task(recipe), None, base, Settings(recipe))
    predictor.max_new_tokens = asked["new_tokens"]
    prompt = json.loads(Path(asked["prompt"]).read_text(encoding="utf-8"))
    times, text = [], ""
    for _ in range(asked["repeats"] + 1):
        began = time.perf_counter()
        (text,) = predictor.predict([Example(prompt["prompt"], "")])
        times.append(time.perf_counter() - began)
    seconds = median(times[1:])
    tokens = len(base.tokenizer(text, add_special_tokens=False)["input_ids"])
    give(
        # An answer of full length did not stop; tokenizing its text again may merge a token.
        tokens_per_second=round(asked["new_tokens"] / seconds, 3),
        seconds=round(seconds, 3),
        tokens_in_text=tokens,
        texts=[text],
    )


if __name__ == "__main__":
    main()
