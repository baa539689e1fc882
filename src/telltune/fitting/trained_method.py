"""Training procedure that SFT, TELL and their controls share: prepare, train, answer."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from telltune.data.anchor import anchored_tokenizer
from telltune.data.contents import contents_of
from telltune.data.encoding import Encoder
from telltune.fitting.adapter_folder import save_adapter
from telltune.fitting.build_plan import answer_budget
from telltune.fitting.group_predictor import GroupPredictor
from telltune.fitting.pre_training import PreTraining
from telltune.fitting.predictor import Cost, Predictor, check_labels, choosing
from telltune.fitting.protocol import AdapterMethod, Settings
from telltune.inference.labels import labels_of
from telltune.inference.scoring import response_nll
from telltune.recipe import OverPromptSpec
from telltune.training.processes import processes

if TYPE_CHECKING:
    from collections.abc import Callable

    from telltune.data.general import GeneralData
    from telltune.data.task import TaskData
    from telltune.models import LoadedModel


@dataclass(frozen=True)
class TrainedMethod(AdapterMethod):
    """Method that trains an adapter as its flags specify; see `AdapterMethod`."""

    def run(
        self, task: TaskData, general: GeneralData | None, base: LoadedModel, settings: Settings
    ) -> Predictor:
        """Train, save the adapter in `settings.out` if given, and return a predictor."""
        from telltune.training.adapter import take_off, whole_weights
        from telltune.training.early_stopping import EarlyStopping
        from telltune.training.run import TrainingOptions, train
        from telltune.training.trackers import TrackedRun

        together = processes()
        with together.first_before_others():
            ground = PreTraining(self, base, settings, task, general)
            ground.run()
            task, general, run_plan = ground.task, ground.general, ground.plan()
            recipe = run_plan.recipe
        tokenizer = anchored_tokenizer(base.tokenizer, run_plan.anchor)
        answered = task.train[: len(run_plan.task)]
        if ground.labeled is not None:
            # Labels are taken from labeled examples only, not from made ones.
            answered = ground.labeled
        lengths = run_plan.task.response_lengths
        if self.grouped:
            lengths = Encoder(base.tokenizer).encode(answered).response_lengths
        budget = answer_budget(lengths, recipe)
        labels = labels_of(task, answered)
        check_labels(recipe.evaluation, labels)
        evaluation = recipe.evaluation if ground.choice is None else choosing(recipe.evaluation)

        kind: Callable[..., Predictor] = Predictor
        if self.grouped:
            kind = partial(GroupPredictor, spec=recipe.over_prompt or OverPromptSpec())

        def predictor(model: Any) -> Predictor:
            return kind(
                model=model,
                tokenizer=tokenizer,
                anchor=run_plan.anchor,
                max_new_tokens=budget,
                evaluation=evaluation,
                labels=labels,
                classifier=ground.choice and ground.choice.calibrated,
                shots=task.shots,
                answer_after=task.answer_after,
            )

        stopping = None
        if run_plan.dev is not None:
            encoded = run_plan.dev.encoded
            dev, tokens = task.dev[: len(encoded)], encoded.response_lengths
            score = settings.score if run_plan.dev.answers else None

            def look(model: Any) -> tuple[float, float | None]:
                loss = float((response_nll(model, encoded).numpy() / tokens).mean())
                if score is None:
                    return loss, None
                return loss, score(replace(predictor(model), in_process=True).predict(dev))

            stopping = EarlyStopping(run_plan.dev.looks, look, contents_of(dev))
        tracked = settings.tracked
        if tracked is None and settings.out is not None:
            tracked = TrackedRun.of(settings.out)
        options = TrainingOptions(
            out=settings.out,
            description=self.label,
            progress=settings.progress,
            callbacks=settings.callbacks,
            texts=(task.train, general),
            confidence=ground.confidence,
            start=ground.start,
            stopping=stopping,
            tracked=tracked,
        )
        learn = train if settings.shared is None else settings.shared.train
        model, seconds, steps = learn(base, recipe, run_plan, options)
        with ExitStack() as stack:
            release = partial(take_off, model)
            stack.callback(release)
            run_plan = run_plan.stopped_after(steps)
            cost = Cost.of(asdict(run_plan.counts), seconds + ground.seconds)
            trained = replace(predictor(model), cost=replace(cost, **ground.counts))
            weights = whole_weights(model)
            if settings.out is not None and settings.save and together.first:
                looked = stopping if stopping is not None and stopping.looks else None
                save_adapter(ground, run_plan, trained, looked, weights)
            together.wait()
            stack.pop_all()  # From here on, the predictor releases the base.
        return replace(trained, release=release)
