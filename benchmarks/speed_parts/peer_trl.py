"""Train with TRL's SFTTrainer or transformers' Trainer on the same steps."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from speed_parts.result import StepClock, arguments, give
from speed_parts.workload import Workload


def main() -> None:
    """Measure one run."""
    asked = arguments()
    work = Workload.load(asked["workload"]).first(asked["steps"])
    packed, free = asked["form"] == "packed", asked["form"] == "free"
    order = [work.by_length(step) if asked["sorted"] else step for step in work.steps]
    rows = [work.example(i) for step in order for i in step]
    per_device = 1 if packed else asked["per_device"]
    longest = int(max(len(ids) for ids, _ in rows))
    common: dict[str, Any] = {
        "learning_rate": asked["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": asked["weight_decay"],
        "max_grad_norm": asked["max_grad_norm"],
        "max_steps": len(order),
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": work.steps.shape[1] // per_device,
        "gradient_checkpointing": False,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "bf16": asked["dtype"] != "fp32",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": False,
        "torch_compile": asked["compile"],
        "seed": asked["seed"],
    }
    model = AutoModelForCausalLM.from_pretrained(
        asked["model"],
        dtype=torch.bfloat16 if asked["dtype"] == "bf16_base" else torch.float32,
        attn_implementation=asked["attention"],
        **quantized(asked.get("quantization")),
    )
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    lora = LoraConfig(**asked["lora"], task_type="CAUSAL_LM")
    clock = StepClock()
    step_tokens = work.step_tokens
    with tempfile.TemporaryDirectory() as folder:
        if asked["trainer"] == "transformers":
            transformers.set_seed(asked["seed"])
            trainer: Any = transformers.Trainer(
                get_peft_model(model, lora),
                transformers.TrainingArguments(output_dir=folder, **common),
                data_collator=DataCollatorForLanguageModeling(int(tokenizer.pad_token_id)),
                train_dataset=Dataset.from_list(
                    [{"input_ids": ids.tolist(), "labels": _labels(ids, p)} for ids, p in rows]
                ),
            )
        else:
            config = SFTConfig(
                output_dir=folder,
                packing=packed,
                padding_free=free,
                # Packed rows are at least as long as the longest example, so that nothing is cut.
                max_length=max(longest, asked["max_length"]) if packed else None,
                completion_only_loss=True,
                pad_to_multiple_of=asked["multiple"],
                **common,
            )
            data = Dataset.from_list(
                [
                    {"input_ids": ids.tolist(), "completion_mask": [0] * p + [1] * (len(ids) - p)}
                    for ids, p in rows
                ]
            )
            trainer = SFTTrainer(
                model, config, train_dataset=data, processing_class=tokenizer, peft_config=lora
            )
            if packed:
                step_tokens = _packed_steps(trainer, len(order))
        trainer.train()
    give(**clock.result(step_tokens), attention=model.config._attn_implementation)


def quantized(kind: str | None) -> dict[str, Any]:
    """Return quantization settings as in TRL's examples for QLoRA."""
    if kind is None:
        return {}
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {
        "quantization_config": config,
        "device_map": {"": 0 if torch.cuda.is_available() else "cpu"},
    }


def _labels(ids: Any, prompt: int) -> list[int]:
    return [-100] * prompt + ids[prompt:].tolist()


def _packed_steps(trainer: Any, steps: int) -> list[int]:
    """Spread the packed rows over about as many steps as the others take.

    TRL packs over the whole data set, so the steps do not contain the same examples. Tokens per
    second can be compared, but losses of steps cannot.
    """
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    each = max(1, round(len(lengths) / steps))
    if len(lengths) < 2 * each:
        raise SystemExit("Error: packed, all examples are in one step; take more of them")
    trainer.args.gradient_accumulation_steps = each
    trainer.accelerator.gradient_accumulation_steps = each
    trainer.args.max_steps = len(lengths) // each
    return [sum(lengths[i : i + each]) for i in range(0, len(lengths), each)]


if __name__ == "__main__":
    main()
