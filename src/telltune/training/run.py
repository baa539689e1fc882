"""A training run: add an adapter to a base model and train it, with checkpoints and a log."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from telltune.data.chat_template import ChatTemplate
from telltune.data.control_tokens import ControlTokens
from telltune.errors import RecipeError
from telltune.models import LoadedModel, compute_dtype, load_base_of, model_shape
from telltune.models.threads import shared_cores
from telltune.recipe import Recipe, as_number
from telltune.storage import writing
from telltune.training.adapter import rebase, set_trained_weights, take_off, trainable
from telltune.training.checkpoints import CHECKPOINTS, Checkpoints
from telltune.training.libraries import check_libraries, deepspeed_config
from telltune.training.log import LOG
from telltune.training.processes import processes
from telltune.training.progress import bar
from telltune.training.speed import learn, sampled_steps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import TrainerCallback, TrainingArguments

    from telltune.data.examples import Example
    from telltune.data.general import GeneralData
    from telltune.training.confidence import Confidence
    from telltune.training.early_stopping import EarlyStopping
    from telltune.training.trackers import TrackedRun
    from telltune.training.training_data import TrainingData

# Number of steps from which the speed of a run is measured, and minimum length of such a run.
_LOOKED_AT = 32
_LEAST_STEPS = 4


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training run besides its data.

    Attributes:
        out: Folder of checkpoints and log; None keeps neither.
        description: Title of the progress bar.
        progress: Whether to show the progress bar.
        callbacks: Additional callbacks of the Trainer.
        texts: Task and general data before encoding, which have the origins of examples.
        confidence: Confidence of task examples and what it scales; None for full confidence.
        start: Initial weights, from `trained_weights`; None for a new adapter, or for the base's
            own weights.
        stopping: Early stopping on dev data; the model gets the weights of the best look.
        tracked: The run as trackers show it, for `training.report_to`; None tracks nothing.
    """

    out: Path | None = None
    description: str = "training"
    progress: bool = False
    callbacks: Sequence[TrainerCallback] = ()
    texts: tuple[Sequence[Example], GeneralData | None] = ((), None)
    confidence: Confidence | None = None
    start: Mapping[str, Tensor] | None = None
    stopping: EarlyStopping | None = None
    tracked: TrackedRun | None = None


class Trained(NamedTuple):
    """Result of a training run."""

    model: Any
    """The trained model."""
    seconds: float
    """Training time in seconds in this process."""
    steps: int
    """Number of optimizer steps, below that of the plan if a callback ended the run."""


def train(
    base: LoadedModel, recipe: Recipe, data: TrainingData, options: TrainingOptions
) -> Trained:
    """Train an adapter (or every weight) on a mixture.

    With an output folder, the run writes checkpoints and training_log.jsonl there, and an
    interrupted run resumes from its last checkpoint. On SIGINT and SIGTERM the run stops with a
    checkpoint. An unhealthy step is skipped, and its examples are named in a warning.

    If torchrun or `accelerate launch` started several processes, all of them must call this. Each
    computes its share of every step, and only the first one writes.

    Raises:
        RecipeError: If the run does not fit in memory or stays unhealthy; or if there are several
            processes with different recipes or data, with early stopping, or more than a step has
            examples.
        StorageError: If the disk cannot be written, or the inputs of the run changed since its
            checkpoint.
        KeyboardInterrupt: On SIGINT, after the current step.
        SystemExit: On SIGTERM, after the current step.
    """
    from telltune.training.callbacks import (
        HealthCallback,
        LeftOut,
        LogCallback,
        StopCallback,
        Stopwatch,
        UnhealthyStepError,
    )
    from telltune.training.source_weights import LearnedWeights, source_groups
    from telltune.training.steps import StepSampler
    from telltune.training.trackers import Trackers
    from telltune.training.trainer import MixtureTrainer

    out, stopping = options.out, options.stopping
    settings = recipe.training
    check_libraries(settings)
    groups = None if settings.source_weights is None else source_groups(*options.texts)
    together = processes()
    if data.mixture.batch_size < together.count:
        raise RecipeError(
            f"{together.count} processes cannot share a step of training.batch_size = "
            f"{data.mixture.batch_size} examples; start fewer processes."
        )
    if stopping is not None and together.count > 1:
        raise RecipeError(
            "`training.early_stopping` supports one process only; set it to false, or use one."
        )
    if recipe.lora.changes_base and not settings.full_parameters:
        wrong = f"`lora.init: {recipe.lora.init}`"
        if options.start is not None:
            raise RecipeError(
                f"{wrong} sets the initial weights, but this run starts from those of an earlier "
                "one (meta-learning or another task); remove it."
            )
        if together.count > 1:
            raise RecipeError(f"{wrong} supports one process only; remove it, or use one.")
    sampler = StepSampler(data.mixture, data.epochs)
    measured: dict[str, Any] = {}
    watch, stop = Stopwatch(measured), StopCallback(together)
    health = HealthCallback(base.model.config.get_text_config().vocab_size, measured)
    with ExitStack() as stack:
        stack.enter_context(shared_cores())
        if out is None:
            out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            stack.enter_context(stop.listening())
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        inputs = run_inputs(base, data, options)
        together.check_same({"recipe": recipe.model_dump_json(), **inputs})
        checkpoints = stack.enter_context(Checkpoints(out / CHECKPOINTS, inputs))
        args = training_arguments(recipe, checkpoints.unfinished, len(sampler))
        shown = stack.enter_context(bar(shown=options.progress))
        log = LogCallback(out / LOG, shown, options.description, measured)
        # The health check comes first, so that unhealthy steps are not logged.
        callbacks = [health, *([log] if together.first else []), watch, stop]
        if stopping is not None:
            stopping.measured, stopping.watch = measured, watch
            callbacks.append(stopping)
        watching: list[Any] = [*options.callbacks]
        tracked = options.tracked
        if tracked is not None:
            args.run_name, args.project = tracked.name, tracked.group or args.project
        if tracked is not None and settings.report_to and together.first:
            watching.append(stack.enter_context(Trackers(settings.report_to, tracked)))
        left_out = LeftOut(out / LOG, data.mixture, options.texts)
        began = time.perf_counter()
        while True:
            model = trainable(base, recipe)
            if options.start is not None:
                set_trained_weights(model, options.start)
            learned = None
            if settings.source_weights is not None and groups is not None:
                learned = LearnedWeights(settings.source_weights, groups, args.device)
            trainer = MixtureTrainer(
                model,
                data=data,
                sampler=sampler,
                settings=settings,
                args=args,
                callbacks=[*callbacks, *watching],
                measured=measured,
                checkpoints=checkpoints,
                left_out=left_out.steps,
                confidence=options.confidence,
                learned=learned,
                saved_beside=None if stopping is None else partial(stopping.save, checkpoints),
            )
            with together.first_before_others():
                last = checkpoints.latest()
            if stopping is not None:
                stopping.load(last)
                if stopping.ended:  # The run was killed between its last look and its end.
                    break
            resumed = None if last is None else str(last)
            try:
                with _restored_on_error(base, model, recipe), writing(out):
                    try:
                        trainer.train(resume_from_checkpoint=resumed)
                    finally:
                        # In bf16 accelerate wraps the model in autocast; remove the wrapper.
                        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
                        checkpoints.wait()  # it may still read the model
                break
            except UnhealthyStepError as error:
                left_out.add(error)
        seconds = time.perf_counter() - began
    with _restored_on_error(base, model, recipe):
        steps = trainer.state.global_step
        if stopping is not None and stopping.ended:
            steps = stopping.looks[-1].step
        stop.leave(steps, len(sampler))
        if stopping is not None and stopping.looks:
            stopping.restore(model)
        rebase(model)
    if steps < len(sampler) and (stopping is None or not stopping.ended):
        logging.getLogger(__name__).warning(
            "A callback ended training after step %d of %d.", steps, len(sampler)
        )
    # The measured speed would be wrong with another row length than the recipe's, with several
    # processes, or with additional callbacks or trackers.
    as_asked = trainer.micro_batch_tokens == settings.micro_batch_tokens
    if as_asked and together.count == 1 and not watching and len(watch.steps) >= _LEAST_STEPS:
        learn(
            watch,
            "fit",
            sampled_steps(data.mixture, data.epochs, _LOOKED_AT),
            data=data,
            model=model_shape(base.model.config),
            recipe=recipe,
            packed=trainer.fast.packed,
            own_prompts=options.confidence is not None and options.confidence.scale != "output",
            setup_seconds=seconds - sum(step.whole for step in watch.steps.values()),
        )
    _forget_checkpointing(base, recipe)
    model.eval()
    return Trained(model, seconds, steps)


def training_arguments(recipe: Recipe, out: Path, steps: int) -> TrainingArguments:
    """Return the Trainer's settings for a recipe.

    The warm-up is at most one tenth of the run. The method's own value, 25 steps, would be all of a
    run on a few hundred examples.
    """
    import torch
    from transformers import TrainingArguments

    spec, seed = recipe.training, recipe.seed
    schedule = {"constant": "constant_with_warmup"}.get(spec.schedule, spec.schedule)
    # Set only if needed, because transformers warns that this name will change.
    less_memory: dict[str, Any] = (
        {"gradient_checkpointing": True} if spec.gradient_checkpointing else {}
    )
    return TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=as_number(spec.learning_rate),
        lr_scheduler_type=schedule,
        warmup_steps=min(spec.warmup_steps, steps // 10),
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        bf16=compute_dtype(spec.precision) is torch.bfloat16,
        save_strategy="steps",
        save_steps=spec.save_steps or max(10, steps // 10),
        logging_strategy="steps",
        logging_steps=1,
        # A non-finite loss must be visible to `HealthCallback`.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],  # see `Trackers`
        seed=seed,
        data_seed=seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=not torch.cuda.is_available(),
        ddp_backend=None if torch.cuda.is_available() or processes().count == 1 else "gloo",
        # An adapter has no unused parameters, and the search takes a pass over the graph.
        ddp_find_unused_parameters=False,
        use_liger_kernel=spec.use_liger_kernel,
        torch_compile=spec.torch_compile,
        deepspeed=None if spec.deepspeed is None else deepspeed_config(spec.deepspeed),
        **less_memory,
    )


def run_inputs(
    base: LoadedModel, data: TrainingData, options: TrainingOptions
) -> dict[str, str | None]:
    """Return a hash of each input of a run; a resumed run must have the same inputs."""
    encoded = hashlib.sha256()
    for array in (data.task.ids, data.task.offsets, data.task.prompt_lengths):
        encoded.update(np.ascontiguousarray(array).data)
    task, general = options.texts
    mixed = general if data.mixture.general_examples else None
    trusted = None
    if options.confidence is not None:
        # Scores of a model are not hashed: they may differ in the last digits on other machines.
        given = " ".join(f"{example.confidence:.6f}" for example in task)
        trusted = hashlib.sha256(given.encode()).hexdigest()
    stopping, start = options.stopping, options.start
    template = ChatTemplate(base.tokenizer, ControlTokens(base.tokenizer)).sample()
    found = {
        "model": base.revision,
        # Hash rendered text, because templates that write the date change from day to day.
        "what the chat template writes": hashlib.sha256(template.encode()).hexdigest(),
        "task data": encoded.hexdigest(),
        "general data": None if mixed is None else mixed.contents.sha256,
        "confidence": trusted,
        "dev data": None if stopping is None else stopping.data.digest,
        "mixture": f"{data.mixture} {data.epochs}",
    }
    if start is not None:
        begun = hashlib.sha256()
        for name in sorted(start):
            begun.update(start[name].float().numpy().data)
        found["start"] = begun.hexdigest()
    return found


@contextmanager
def _restored_on_error(base: LoadedModel, model: Any, recipe: Recipe) -> Iterator[None]:
    """Restore a base to its state before `trainable` after an error."""
    try:
        yield
    except BaseException:
        if processes().count == 1:  # several processes end with the error
            _forget_checkpointing(base, recipe)
            if recipe.training.full_parameters:
                base.model.load_state_dict(load_base_of(recipe).model.state_dict())
            else:
                take_off(model)
        raise


def _forget_checkpointing(base: LoadedModel, recipe: Recipe) -> None:
    """Turn off gradient checkpointing, because the base is shared with other methods."""
    if recipe.training.gradient_checkpointing:
        base.model.gradient_checkpointing_disable()  # type: ignore[no-untyped-call]
        base.model.disable_input_require_grads()  # type: ignore[no-untyped-call]
