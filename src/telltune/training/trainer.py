"""The one training loop: `transformers.Trainer`, fed whole optimizer steps.

The mixture decides which examples an optimizer step sees. Within the step they are packed into
rows of a token budget, so that the Trainer's own notions of batch and accumulation (which would
pad, or split a step by count) do not come into it; everything else (optimizer, schedule, clipping,
checkpoints, callbacks, accelerate) is the Trainer's.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from telltune.models.attention import packed_attention
from telltune.models.cut_loss import cut_loss
from telltune.models.lora import FusedLora
from telltune.models.packing import can_pack, pack, token_nll

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from telltune.data.encoding import EncodedSet
    from telltune.data.mixture import Mixture
    from telltune.recipe import TrainingSpec
    from telltune.training.loss import LossWeights

__all__ = ["MixtureTrainer", "Sources", "Step", "StepSampler", "training_arguments"]


@dataclass(frozen=True)
class Step:
    """What one optimizer step computes.

    Attributes:
        rows: The ids of each example and the length of its prompt.
        is_task: (examples,).
        weights: The weight of each token of each example, (examples,).
    """

    rows: list[tuple[Any, int]]
    is_task: torch.Tensor
    weights: torch.Tensor


class StepSampler:
    """The mixture's batches, epoch after epoch, as a batch sampler.

    One item is one optimizer step: an array (examples, 2) of source (1 for task) and index.
    """

    def __init__(self, mixture: Mixture, epochs: int, *, shard: int = 0, shards: int = 1) -> None:
        self.mixture, self.epochs = mixture, epochs
        self.shard, self.shards = shard, shards

    def __len__(self) -> int:
        return self.mixture.batches_per_epoch * self.epochs

    def __iter__(self) -> Iterator[list[tuple[bool, int]]]:
        for epoch in range(self.epochs):
            for slots in self.mixture.batches(epoch, shard=self.shard, shards=self.shards):
                yield slots.pairs


class Sources(Dataset[tuple[bool, Any, int]]):
    """Looks an example up by (is it task data, index): its ids, and the length of its prompt."""

    def __init__(self, task: EncodedSet, general: EncodedSet | None) -> None:
        self.task, self.general = task, general

    def __getitem__(self, key: tuple[bool, int]) -> tuple[bool, Any, int]:
        is_task, index = key
        source = self.task if is_task else self.general
        assert source is not None  # the mixture has no general slots without general data
        return (is_task, *source[index])


def training_arguments(
    spec: TrainingSpec, *, out: Path, steps: int, seed: int, bf16: bool
) -> TrainingArguments:
    """The Trainer's settings for a recipe's `training` part.

    The warm-up is at most a tenth of the run: 25 steps, the method's own value, would be all of a
    run on a few hundred examples.
    """
    save_steps = spec.save_steps or max(10, steps // 10)
    schedule = {"constant": "constant_with_warmup"}.get(spec.schedule, spec.schedule)
    # Named only when wanted: transformers warns of the name's coming change whenever it is.
    less_memory: dict[str, Any] = (
        {"gradient_checkpointing": True} if spec.gradient_checkpointing else {}
    )
    return TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=min(spec.warmup_steps, steps // 10),
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        bf16=bf16,
        save_strategy="steps",
        save_steps=save_steps,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=1,
        # A loss that is not a number must be seen, not smoothed over.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        seed=seed,
        data_seed=seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
        **less_memory,
    )


class MixtureTrainer(Trainer):
    """Trains on the steps of a mixture.

    Args:
        model: A (PEFT) causal language model.
        task: Encoded task data.
        general: Encoded general data, or None.
        sampler: Which examples each step sees.
        weights: How they count.
        micro_batch_tokens: Tokens computed at once.
        args: From `training_arguments`.
        callbacks: The Trainer's.
    """

    def __init__(
        self,
        model: Any,
        *,
        task: EncodedSet,
        general: EncodedSet | None,
        sampler: StepSampler,
        weights: LossWeights,
        micro_batch_tokens: int,
        args: TrainingArguments,
        callbacks: list[Any],
    ) -> None:
        super().__init__(model=model, args=args, callbacks=callbacks)
        self._sources = Sources(task, general)
        self._sampler = sampler
        self._weights = weights
        self._budget = micro_batch_tokens
        self.packed = can_pack(model)
        self._fused = FusedLora(model)
        self._cut = cut_loss(model)
        self.step_record: dict[str, float] = {}
        """Of the latest step: loss by source, tokens, seconds."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One batch is one optimizer step; the mixture has split it over processes already."""
        return DataLoader(
            self._sources,
            batch_sampler=self._sampler,
            collate_fn=self._collate,
        )

    def _collate(self, examples: list[tuple[bool, Any, int]]) -> dict[str, Step]:
        is_task = np.array([task for task, _, _ in examples], bool)
        rows = [(ids, prompt_length) for _, ids, prompt_length in examples]
        lengths = np.array([len(ids) - max(prompt, 1) for ids, prompt in rows], np.int64)
        weights = self._weights.of(is_task, lengths)
        return {"step": Step(rows, torch.from_numpy(is_task), torch.from_numpy(weights).float())}

    def training_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,  # noqa: ARG002 - Trainer's interface
    ) -> torch.Tensor:
        """Forward and backward over all rows of one optimizer step.

        Returns:
            The step's loss, a scalar.
        """
        began = time.perf_counter()
        model.train()
        step: Step = inputs["step"]
        device = self.args.device
        total = torch.zeros((), device=device)
        sums = torch.zeros(2, 2, dtype=torch.float64)  # by source: nll, response tokens
        batches = pack(step.rows, self._budget, sources=step.is_task.tolist(), together=self.packed)
        context = packed_attention(self.model) if self.packed else nullcontext()
        with context, self._fused:
            for batch in batches:
                with self.compute_loss_context_manager():
                    nll = token_nll(model, batch, self._cut)
                    loss = (nll * step.weights[batch.rows].to(device)).sum()
                self.accelerator.backward(loss)
                total += loss.detach()
                source = step.is_task[batch.rows].long()
                sums[:, 0].index_add_(0, source, nll.detach().double().cpu())
                sums[:, 1].index_add_(0, source, torch.ones(len(source), dtype=torch.float64))
        self.step_record = {
            "tokens": float(sum(len(ids) for ids, _ in step.rows)),
            "computed_tokens": float(sum(batch.input_ids.numel() for batch in batches)),
            "seconds": time.perf_counter() - began,
        }
        for name, (nll_sum, count) in zip(("general", "task"), sums.tolist(), strict=True):
            if count:
                self.step_record[f"loss_{name}"] = nll_sum / count
        return total

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:  # noqa: ARG002
        """Not counted: the Trainer's formula does not know packed rows."""
        return 0
