"""Answer prompts of the workload in batches, with telltune's engine or transformers' `generate`."""

from __future__ import annotations

import time
from typing import Any

import torch

from speed_parts.result import arguments, give
from speed_parts.workload import Workload


def main() -> None:
    """Measure one run; every answer has the same length."""
    asked = arguments()
    work = Workload.load(asked["workload"])
    prompts = [
        work.example(i)[0][: work.prompt_lengths[i]].tolist()
        for i in work.steps.ravel()[: asked["items"]]
    ]
    answer = _ours(asked) if asked["who"] == "ours" else _generate(asked)
    answer(prompts[:8], 4)
    _wait()
    began = time.perf_counter()
    answers = answer(prompts, asked["new_tokens"])
    _wait()
    seconds = time.perf_counter() - began
    tokens = sum(map(len, answers))
    give(tokens=tokens, seconds=round(seconds, 3), tokens_per_second=round(tokens / seconds, 1))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _ours(asked: dict[str, Any]) -> Any:
    from telltune.inference.engine import make_generator
    from telltune.models import load_base
    from telltune.recipe import ModelSpec

    base = load_base(ModelSpec(name=asked["model"]), "bf16")
    engine = make_generator(base.model, int(base.tokenizer.pad_token_id))

    def answer(prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        return engine.generate(prompts, max_new_tokens=new_tokens, stop_ids=set())

    return answer


def _generate(asked: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(asked["model"], padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.bfloat16)
    model.eval()
    if torch.cuda.is_available():
        model.cuda()

    def answer(prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        answers: list[list[int]] = []
        for start in range(0, len(prompts), asked["batch"]):
            batch = {"input_ids": prompts[start : start + asked["batch"]]}
            inputs = tokenizer.pad(batch, return_tensors="pt").to(model.device)
            with torch.inference_mode():
                grown = model.generate(
                    **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
                )
            answers += grown[:, inputs["input_ids"].shape[1] :].tolist()
        return answers

    return answer


if __name__ == "__main__":
    main()
