"""Answer the items with transformers' `generate`, as in its documentation."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, logging

from speed_parts.result import arguments, give

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Measure one run."""
    asked = arguments()
    logging.set_verbosity_error()
    model: Any = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=DTYPES[asked["dtype"]])
    if asked["kind"] == "evaluate":
        model = PeftModel.from_pretrained(model, asked["adapter"])
        if asked["merged"]:
            model = model.merge_and_unload()
    model.eval()
    if asked["kind"] == "evaluate":
        _evaluate(asked, model)
    else:
        _one(asked, model)


def _evaluate(asked: dict[str, Any], model: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(asked["adapter"], padding_side="left")
    given = json.loads(Path(asked["prompts"]).read_text(encoding="utf-8"))
    rows = given["rows"][: asked["items"]]
    options = {
        "max_new_tokens": asked["new_tokens"],
        "do_sample": False,
        "eos_token_id": given["stop_ids"],
        "pad_token_id": tokenizer.pad_token_id,
    }

    def answer(batch: list[dict[str, Any]], **changed: Any) -> tuple[list[str], int]:
        inputs = tokenizer.apply_chat_template(
            [row["messages"] for row in batch],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        for row, ids, mask in zip(
            batch, inputs["input_ids"], inputs["attention_mask"], strict=True
        ):
            assert ids[mask.bool()].tolist() == row["ids"], "the prompts are not the same"
        with torch.inference_mode():
            grown = model.generate(**inputs, **options | changed)
        new = grown[:, inputs["input_ids"].shape[1] :]
        stops = torch.isin(new, torch.tensor(given["stop_ids"])).int().cumsum(1) > 0
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts], int((~stops).sum())

    answer(rows[:2], max_new_tokens=2)
    texts: list[str] = []
    tokens = 0
    began = time.perf_counter()
    for start in range(0, len(rows), asked["batch"]):
        some, count = answer(rows[start : start + asked["batch"]])
        texts += some
        tokens += count
    seconds = time.perf_counter() - began
    give(
        items_per_second=round(len(texts) / seconds, 4),
        seconds=round(seconds, 3),
        answer_tokens=tokens,
        texts=texts,
    )


def _one(asked: dict[str, Any], model: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    given = json.loads(Path(asked["prompt"]).read_text(encoding="utf-8"))
    ids = torch.tensor([given["ids"]])
    times, new = [], ids[0]
    for _ in range(asked["repeats"] + 1):
        began = time.perf_counter()
        with torch.inference_mode():
            grown = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=asked["new_tokens"],
                do_sample=False,
                eos_token_id=given["stop_ids"],
                pad_token_id=tokenizer.pad_token_id,
            )
        times.append(time.perf_counter() - began)
        new = grown[0, ids.shape[1] :]
    seconds = median(times[1:])
    give(
        tokens_per_second=round(len(new) / seconds, 3),
        seconds=round(seconds, 3),
        tokens=len(new),
        texts=[tokenizer.decode(new, skip_special_tokens=True).strip()],
    )


if __name__ == "__main__":
    main()
