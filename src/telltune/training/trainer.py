"""Training loop: `transformers.Trainer` with complete optimizer steps as batches.

The mixture defines the examples of an optimizer step. Within the step they are packed into rows of
a token budget. The batches and gradient accumulation of the Trainer, which would pad or split a
step by count, are not used. Everything else (optimizer, schedule, clipping, checkpoints, callbacks,
accelerate) is left to the Trainer.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch.utils.data import DataLoader

from telltune.errors import RecipeError
from telltune.models.kernels.fast_path import FastPath
from telltune.models.kernels.packing import PackedBatch, pack, token_nll
from telltune.models.threads import adapt_threads
from telltune.training.adapter import trained_bytes, trained_parameters
from telltune.training.callbacks import SOURCES
from telltune.training.checkpoints import copied
from telltune.training.confidence import scaled_prompts
from telltune.training.hf_trainer import OPTIMIZER_NAME, SCHEDULER_NAME, PrinterCallback, Trainer
from telltune.training.processes import processes
from telltune.training.steps import Collator, Sources

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import TrainingArguments

    from telltune.recipe import TrainingSpec
    from telltune.training.checkpoints import Checkpoints
    from telltune.training.confidence import Confidence
    from telltune.training.source_weights import LearnedWeights
    from telltune.training.steps import Step, StepSampler
    from telltune.training.training_data import TrainingData

# Names of measurements in logs that differ from those in training_log.jsonl: transformers and
# trackers show `eval_` as a group of its own.
_NAMES = {"dev_loss": "eval_loss", "dev_score": "eval_score"}
_NOT_LOGGED = {"tokens", "computed_tokens", "seconds"}


class MixtureTrainer(Trainer):
    """Trainer on the optimizer steps of a mixture.

    Args:
        model: Causal language model, with or without a PEFT adapter.
        data: Training data.
        sampler: Sampler of the examples of each step.
        settings: Settings of the recipe.
        args: Settings from `training_arguments`.
        callbacks: Callbacks of the Trainer.
        measured: Dictionary to fill with the measurements of the latest step: loss by source,
            tokens, seconds; or the reason why it was skipped.
        checkpoints: Checkpoints of the run; None to write none.
        left_out: Steps to skip, by number from 1, with the reason that is logged.
        confidence: Confidence of task examples and what it scales, or None.
        learned: Learned source weights, or None.
        saved_beside: Function that writes further files into the folder of a checkpoint.
    """

    def __init__(
        self,
        model: Any,
        *,
        data: TrainingData,
        sampler: StepSampler,
        settings: TrainingSpec,
        args: TrainingArguments,
        callbacks: list[Any],
        measured: dict[str, Any],
        checkpoints: Checkpoints | None = None,
        left_out: Mapping[int, Any] | None = None,
        confidence: Confidence | None = None,
        learned: LearnedWeights | None = None,
        saved_beside: Callable[[Path], object] | None = None,
    ) -> None:
        super().__init__(model=model, args=args, callbacks=callbacks)
        # The bar and the log already show what it would print.
        self.remove_callback(PrinterCallback)
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None and plugin.fsdp_version != 2:
            raise RecipeError(
                "training an adapter needs FSDP 2; set `fsdp_version: 2` in accelerate's "
                "configuration (see configurations/fsdp.yaml)."
            )
        self._sources = Sources(data.task, data.general)
        self._sampler = sampler
        groups = None if learned is None else learned.groups
        self._processes = processes()
        self._collator = Collator(data.weights, confidence, groups, self._processes)
        self._checkpoints = checkpoints
        self._left_out = left_out or {}
        self._learned = learned
        self._saved_beside = saved_beside
        self.micro_batch_tokens = settings.micro_batch_tokens
        """Number of tokens computed at once: as given, or lower if memory was too small."""
        # FSDP gathers the full weights of a layer only while it computes. Fused layers read weights
        # before that or keep copies, so they are not used. DeepSpeed may move weights, too.
        whole = plugin is None and not self.is_deepspeed_enabled
        self.fast = FastPath(model, settings.kernels, fused=whole)
        self._measured = measured

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader with one optimizer step, or this process's share of it, per batch."""
        return DataLoader(self._sources, batch_sampler=self._sampler, collate_fn=self._collator)

    def create_optimizer(self, *arguments: Any, **named: Any) -> torch.optim.Optimizer:
        """Create the optimizer, with learned source weights at their own learning rate."""
        made = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(*arguments, **named)
        if made and self._learned is not None:
            optimizer.add_param_group(
                {
                    "params": [self._learned.log_variance],
                    "lr": self._learned.learning_rate,
                    "weight_decay": 0.0,
                }
            )
        return optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._learned is not None:
            self._learned.load(Path(resume_from_checkpoint))

    def training_step(
        self,
        model: Any,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,  # noqa: ARG002 - Trainer's interface
    ) -> torch.Tensor:
        """Run forward and backward over all rows of one optimizer step.

        If the rows do not fit in memory, this step is repeated with shorter rows, which are also
        used for the following steps.

        Returns:
            Loss of the step, a scalar.

        Raises:
            RecipeError: If a single example does not fit in memory.
        """
        step: Step = inputs["step"]
        reason = self._left_out.get(self.state.global_step + 1)
        if reason is not None:
            # Without gradients the optimizer does not change weights and moments. The Trainer
            # resets only the gradients of the model's parameters.
            if self._learned is not None:
                self._learned.log_variance.grad = None
            self._measured.clear()
            self._measured |= {"tokens": 0.0, "seconds": 0.0, "skipped": reason}
            return torch.zeros((), device=self.args.device)
        while True:
            batches = self._packed(step.rows, step.sources)
            try:
                return self._compute(model, step, batches)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if self._processes.count > 1:
                    # Retrying is not possible, because the other processes wait within the step.
                    raise RecipeError(
                        f"step {self.state.global_step + 1} does not fit in memory in process "
                        f"{self._processes.rank} of {self._processes.count}; lower "
                        "training.micro_batch_tokens, or set training.gradient_checkpointing: true."
                    ) from error
            # Outside of `except`, where the exception no longer references the failed pass.
            self._use_less_memory(model, step, batches)

    def _compute(self, model: Any, step: Step, batches: list[PackedBatch]) -> torch.Tensor:
        began = time.perf_counter()
        if not model.training:
            model.train()
        total = torch.zeros((), device=self.args.device)
        if self._learned is not None and step.shares is not None:
            # The Trainer resets only the gradients of the model's parameters.
            self._learned.log_variance.grad = None
            group, share = (values.to(self.args.device) for values in step.shares)
            regularization = self._learned.regularizer(group, share)
            self.accelerator.backward(regularization)
            total += regularization.detach()
        losses: list[tuple[torch.Tensor, torch.Tensor]] = []  # nll, and whether of task data
        count = self._processes.most(len(batches))
        # A row whose loss is not counted.
        idle = batches[0] if batches else self._packed(step.spare, None)[0]
        with self.fast.active():
            for place in range(count):
                adapt_threads()
                # Gradients are averaged over processes after the last row. All processes compute
                # the same number of rows: one with fewer rows computes an idle row.
                behind = place + 1 < count and self._processes.count > 1
                # DeepSpeed steps in the backward pass that is said to be the last.
                self.accelerator.gradient_state._set_sync_gradients(not behind)
                with self.accelerator.no_sync(model) if behind else nullcontext():
                    counts = place < len(batches)
                    batch = batches[place] if counts else idle
                    nll, loss = self._row_loss(model, step, batch, counts=counts)
                    self.accelerator.backward(loss)
                total += loss.detach()
                if counts:
                    losses.append((nll.detach().double().cpu(), step.is_task[batch.rows]))
        if self._learned is not None:
            grad: Any = self._learned.log_variance.grad
            grad.copy_(self._processes.total(grad) / self._processes.count)
        self._record(step, batches, losses, time.perf_counter() - began)
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step with its measurements.

        The Trainer's summary of a run is not logged, because it counts steps as examples.
        """
        if "loss" not in logs:
            return
        record = self._measured
        if "skipped" in record:
            logs = {"learning_rate": logs["learning_rate"]}
        else:
            logs["tokens_per_second"] = record["tokens"] / record["seconds"]
            logs |= {_NAMES.get(k, k): v for k, v in record.items() if k not in _NOT_LOGGED}
        super().log(logs, start_time)

    def _row_loss(
        self, model: Any, step: Step, batch: PackedBatch, *, counts: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the negative log-likelihood of each target of a row, and the row's loss."""
        scaled = (
            nullcontext()
            if step.input_scale is None or not counts
            else scaled_prompts(self.model, batch, step.input_scale)
        )
        with scaled, self.compute_loss_context_manager():
            nll = token_nll(model, batch, self.fast.cut_loss)
            if not counts:
                return nll, 0.0 * nll.sum()
            weights = step.weights[batch.rows].to(self.args.device)
            if self._learned is not None and step.group is not None:
                group = step.group[batch.rows].to(self.args.device)
                weights = weights * self._learned.factors(group)
            # Gradients are averaged over processes, but the loss of a step is a sum.
            return nll, (nll * weights).sum() * self._processes.count

    def _packed(
        self, rows: list[tuple[Any, int]], sources: list[tuple[bool, float]] | None
    ) -> list[PackedBatch]:
        return pack(rows, self.micro_batch_tokens, sources=sources, together=self.fast.packed)

    def _record(
        self,
        step: Step,
        batches: list[PackedBatch],
        losses: list[tuple[torch.Tensor, torch.Tensor]],
        seconds: float,
    ) -> None:
        """Record the measurements of all processes, and the time of this one."""
        tokens = [sum(len(ids) for ids, _ in step.rows), sum(batch.tokens for batch in batches)]
        own = [
            torch.cat([nll[is_task == wanted] for nll, is_task in losses])
            if losses
            else torch.zeros(0)
            for wanted in (False, True)
        ]
        measured = [
            float(value)
            for nll in own
            for value in (nll.sum(), len(nll), len(nll) * nll.median() if len(nll) else 0)
        ]
        *found, seen, computed = self._processes.total(
            torch.tensor([*measured, *tokens], dtype=torch.float64)
        ).tolist()
        self._measured.clear()
        self._measured |= {"tokens": seen, "computed_tokens": computed, "seconds": seconds}
        for name, (nll, count, middle) in zip(SOURCES, (found[:3], found[3:]), strict=True):
            if count:
                # Over several processes, the mean of their medians.
                self._measured |= {f"loss_{name}": nll / count, f"median_{name}": middle / count}
        if self._learned is not None:
            self._measured |= self._learned.record()

    def _use_less_memory(self, model: Any, step: Step, batches: list[PackedBatch]) -> None:
        """Halve the number of tokens computed at once, and discard the gradients of the step."""
        model.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        number = self.state.global_step + 1
        if len(batches) == len(step.rows):
            longest = max(len(ids) for ids, _ in step.rows)
            raise RecipeError(
                f"step {number} does not fit in memory, not even one example at a time (the "
                f"longest has {longest:,} tokens); set training.gradient_checkpointing: true, or "
                "lower training.max_length."
            )
        largest = max(batch.input_ids.numel() for batch in batches)
        self.micro_batch_tokens = min(self.micro_batch_tokens, largest) // 2
        logging.getLogger(__name__).warning(
            "Step %d does not fit in memory; from now on %d tokens are computed at once instead of "
            "training.micro_batch_tokens. The result stays the same.",
            number,
            self.micro_batch_tokens,
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._checkpoints is None:
            super()._save_checkpoint(model, trial)
            return
        step = self.state.global_step
        first = self._processes.first
        filling = (
            self._checkpoints.saving(step, self._checkpoint_bytes()) if first else nullcontext()
        )
        with filling:
            super()._save_checkpoint(model, trial)
            folder = self._checkpoints.unfinished / f"checkpoint-{step}"
            if self._learned is not None and first:
                self._learned.save(folder)
            if self._saved_beside is not None and first:
                self._saved_beside(folder)
            # Wait until each process has written its part.
            self._processes.wait()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        beside = self._beside()
        if beside is None or not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        trained = copied(trained_parameters(self.model))
        beside.later(partial(super()._save, output_dir, trained))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        beside = self._beside()
        if beside is None or not self.args.should_save:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        folder = Path(output_dir)
        state = copied(self.optimizer.state_dict())
        beside.later(partial(torch.save, state, folder / OPTIMIZER_NAME))
        torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)

    def _beside(self) -> Checkpoints | None:
        """Return the checkpoints that write large state during training.

        Returns:
            None if all processes write together, or if memory is too small for a copy.
        """
        together = self.is_fsdp_enabled or self.is_deepspeed_enabled
        room = self._checkpoint_bytes() < psutil.virtual_memory().available / 4
        return self._checkpoints if room and not together else None

    def _checkpoint_bytes(self) -> int:
        """Return the size of the trained weights and the optimizer's moments in bytes."""
        optimizer: Any = self.optimizer
        moments = [value for state in optimizer.state.values() for value in state.values()]
        tensors = filter(torch.is_tensor, moments)
        return trained_bytes(self.model) + sum(int(tensor.nbytes) for tensor in tensors)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:  # noqa: ARG002
        """Return 0, because the Trainer's formula does not support packed rows."""
        return 0


def _out_of_memory(error: BaseException) -> bool:
    # On a CPU torch raises a plain RuntimeError, whose message differs between platforms.
    said = str(error).lower()
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in said for words in ("out of memory", "not enough memory", "can't allocate memory")
    )
