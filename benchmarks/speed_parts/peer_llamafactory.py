"""Train with LLaMA-Factory on the same steps, with its settings and a tokenized data set."""

from __future__ import annotations

import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from datasets import Dataset, DatasetDict

from speed_parts.result import StepClock, arguments, give
from speed_parts.workload import Workload


def main() -> None:
    """Measure one run."""
    asked = arguments()
    work = Workload.load(asked["workload"]).first(asked["steps"])
    packed = asked["form"] == "packed"
    order = [work.by_length(step) if asked["sorted"] else step for step in work.steps]
    # `neat_packing` numbers the examples of a row in its attention mask. LLaMA-Factory packs over
    # the whole data set; here a row is one micro-batch, so that steps hold the same examples.
    size = asked["per_device"]
    batches = [step[i : i + size] for step in order for i in range(0, len(step), size)]
    rows = [_row(work, batch) for batch in batches] if packed else _apart(work, order)
    per_device = 1 if packed else size
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data", Path(folder) / "out"
        DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(str(data))
        settings: dict[str, Any] = {
            "model_name_or_path": asked["model"],
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "lora",
            "lora_rank": asked["lora"]["r"],
            "lora_alpha": int(asked["lora"]["lora_alpha"]),
            "lora_dropout": asked["lora"]["lora_dropout"],
            "lora_target": "all",
            "dataset": "workload",
            "template": "smollm2",
            "tokenized_path": str(data),
            "cutoff_len": 2048,
            "packing": packed,
            "neat_packing": packed,
            "flash_attn": asked["attention"],
            "disable_gradient_checkpointing": True,
            "disable_shuffling": True,
            "output_dir": str(out),
            "overwrite_output_dir": True,
            "per_device_train_batch_size": per_device,
            "gradient_accumulation_steps": work.steps.shape[1] // size,
            "learning_rate": asked["learning_rate"],
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "weight_decay": asked["weight_decay"],
            "max_grad_norm": asked["max_grad_norm"],
            "max_steps": len(order),
            "logging_steps": 1,
            "save_strategy": "no",
            "plot_loss": False,
            "report_to": "none",
            "bf16": asked["dtype"] != "fp32",
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "seed": asked["seed"],
        }
        recipe = Path(folder) / "workload.yaml"
        recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
        clock = StepClock()
        # It imports torchaudio, which it calls for sound only, and whose release on PyPI wants the
        # CUDA build of torch; an empty module in its place lets text be trained on.
        try:
            import torchaudio  # noqa: F401
        except (ImportError, OSError):
            sys.modules["torchaudio"] = ModuleType("torchaudio")
            sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)
        from llamafactory.train.tuner import run_exp

        run_exp(yaml.safe_load(recipe.read_text(encoding="utf-8")))
    give(**clock.result(work.step_tokens))


def _apart(work: Workload, order: list[Any]) -> list[dict[str, list[int]]]:
    return [_row(work, [i]) for step in order for i in step]


def _row(work: Workload, numbers: Any) -> dict[str, list[int]]:
    row: dict[str, list[int]] = {"input_ids": [], "attention_mask": [], "labels": []}
    if len(numbers) > 1:
        row["position_ids"] = []
    for place, number in enumerate(numbers, 1):
        ids, prompt = work.example(number)
        row["input_ids"] += ids.tolist()
        row["attention_mask"] += [place] * len(ids)
        row["labels"] += [-100] * prompt + ids[prompt:].tolist()
        if len(numbers) > 1:
            row["position_ids"] += list(range(len(ids)))
    if len(numbers) > 1:
        # As its own packing does; its collator pads all but the positions to a multiple of 8.
        missing = -len(row["input_ids"]) % 8
        for name, filler in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
            row[name] += [filler] * missing
        row["position_ids"] += [0] * missing
    return row


if __name__ == "__main__":
    main()
