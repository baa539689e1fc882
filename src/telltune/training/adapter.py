"""Put an adapter on a base model, train it, take it off again."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telltune.models import compute_dtype, model_shape
from telltune.storage import writing
from telltune.training.progress import bar
from telltune.training.speed import learn
from telltune.training.work import sampled_steps

if TYPE_CHECKING:
    from telltune.data.encoded import EncodedSet
    from telltune.data.mixture import Mixture
    from telltune.models import BaseModel
    from telltune.recipe import LoraSpec, Recipe
    from telltune.training.loss import LossWeights

__all__ = ["CHECKPOINTS", "LOG", "add_lora", "train", "trainable"]

CHECKPOINTS = "checkpoints"
LOG = "training_log.jsonl"
# How fast a run was is learnt from so many of its steps, where it had enough of them to tell.
_LOOKED_AT = 32
_LEAST_STEPS = 4


def add_lora(base: BaseModel, spec: LoraSpec, seed: int) -> Any:
    """Wrap the base in a fresh LoRA adapter (arXiv 2106.09685), its start drawn by `seed`."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    set_seed(seed)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,  # type: ignore[arg-type]
        lora_dropout=spec.dropout,
        target_modules=spec.target_modules,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base.model, config)


def trainable(base: BaseModel, recipe: Recipe) -> Any:
    """Make a base ready to be trained as the recipe says; its weights' start is drawn by `seed`."""
    from transformers import set_seed

    if recipe.training.full_parameters:
        set_seed(recipe.seed)
        model: Any = base.model.requires_grad_(True)
    else:
        model = add_lora(base, recipe.lora, recipe.seed)
    if recipe.training.gradient_checkpointing:
        # Checkpointed layers have no input that needs a gradient when the base is frozen.
        base.model.enable_input_require_grads()  # type: ignore[no-untyped-call]
    return model


def train(
    base: BaseModel,
    recipe: Recipe,
    *,
    task: EncodedSet,
    general: EncodedSet | None,
    mixture: Mixture,
    epochs: int,
    weights: LossWeights,
    out: Path | None,
    description: str,
    progress: bool,
) -> tuple[Any, float]:
    """Train an adapter (or every weight) on a mixture.

    With an output folder the run writes checkpoints and training_log.jsonl there, and a run that
    was cut short goes on from its last checkpoint.

    Returns:
        The trained model, and the seconds that training took in this process.
    """
    import torch
    from transformers import PrinterCallback

    from telltune.training.callbacks import LogCallback, Stopwatch
    from telltune.training.trainer import MixtureTrainer, StepSampler, training_arguments

    settings = recipe.training
    model = trainable(base, recipe)
    sampler = StepSampler(mixture, epochs)
    with ExitStack() as stack:
        if out is None:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        args = training_arguments(
            settings,
            out=out / CHECKPOINTS,
            steps=len(sampler),
            seed=recipe.seed,
            bf16=compute_dtype(settings.precision) is torch.bfloat16,
        )
        shown = stack.enter_context(bar(shown=progress))
        log, watch = LogCallback(out / LOG, shown, description), Stopwatch()
        trainer = MixtureTrainer(
            model,
            task=task,
            general=general,
            sampler=sampler,
            weights=weights,
            micro_batch_tokens=settings.micro_batch_tokens,
            args=args,
            callbacks=[log, watch],
        )
        # The bar and the log say what it would print.
        trainer.remove_callback(PrinterCallback)
        log.trainer = watch.trainer = trainer
        last = _last_whole_checkpoint(out / CHECKPOINTS)
        began = time.perf_counter()
        with writing(out):
            trainer.train(resume_from_checkpoint=last)
        seconds = time.perf_counter() - began
    if len(watch.steps) >= _LEAST_STEPS:
        learn(
            watch,
            "fit",
            sampled_steps(mixture, epochs, _LOOKED_AT),
            task=task,
            general=general,
            model=model_shape(base.model.config),
            recipe=recipe,
            packed=trainer.packed,
            setup_seconds=seconds - sum(step.whole for step in watch.steps.values()),
        )
    if settings.gradient_checkpointing:
        # The base is shared: the next method decides for itself.
        base.model.gradient_checkpointing_disable()  # type: ignore[no-untyped-call]
        base.model.disable_input_require_grads()  # type: ignore[no-untyped-call]
    model.eval()
    return model, seconds


def _last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; those cut short by a kill are removed."""
    from transformers.trainer_utils import get_last_checkpoint

    for checkpoint in folder.glob("checkpoint-*"):
        try:
            # The Trainer writes this file last.
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(checkpoint, ignore_errors=True)
    last: str | None = get_last_checkpoint(str(folder)) if folder.is_dir() else None  # type: ignore[no-untyped-call]
    return last
