"""Train with telltune on a workload; measure steps, computed tokens, losses and memory."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speed_parts.result import StepClock, StepProfile, arguments, give
from speed_parts.workload import Workload
from telltune.data.encoded import EncodedSet
from telltune.data.mixture import Mixture, Slots
from telltune.models import load_base
from telltune.recipe import load_recipe
from telltune.training.log import LOG
from telltune.training.run import TrainingOptions, train
from telltune.training.training_data import LossWeights, TrainingData


@dataclass(frozen=True, kw_only=True)
class FixedMixture(Mixture):
    """Mixture in the order of the workload."""

    fixed: Slots

    def _slots(self, epoch: int, start: int, stop: int, task_before: int) -> Slots:  # noqa: ARG002
        return Slots(self.fixed.is_task[start:stop], self.fixed.index[start:stop])


def main() -> None:
    """Measure one run."""
    asked = arguments()
    work = Workload.load(asked["workload"]).first(asked["steps"])
    recipe = load_recipe(asked["recipe"], asked["overrides"])
    task, general = (
        _set(work, np.flatnonzero(work.is_task)),
        _set(work, np.flatnonzero(~work.is_task)),
    )
    # Number of each example within its source.
    own = np.where(work.is_task, np.cumsum(work.is_task), np.cumsum(~work.is_task)) - 1
    order = work.steps.ravel()
    drawn = int(work.is_task[order].sum())
    mixture = FixedMixture(
        task_examples=drawn,
        general_examples=len(order) - drawn,
        general_available=len(order) - drawn,
        passes=1,
        order="shuffled",
        seed=recipe.seed,
        batch_size=work.steps.shape[1],
        fixed=Slots(work.is_task[order], own[order]),
    )
    clock = StepClock()
    profile = StepProfile(asked["profile"]) if "profile" in asked else None
    with tempfile.TemporaryDirectory() as folder:
        weights = LossWeights("token", 1.0, 1.0, work.task_share)
        train(
            load_base(recipe.model, recipe.training.precision),
            recipe,
            TrainingData(task, general, mixture, 1, weights),
            TrainingOptions(out=Path(folder)),
        )
        log = (Path(folder) / LOG).read_text(encoding="utf-8").splitlines()
    computed = [json.loads(line).get("computed_tokens") for line in log][1:]
    give(
        **clock.result(work.step_tokens),
        # Computed tokens of the log, or the given ones if it has none.
        computed_tokens=int(sum(computed)) if all(computed) else sum(work.step_distinct[1:]),
        response_tokens=sum(work.step_responses[1:]),
        **(profile.result() if profile else {}),
    )


def _set(work: Workload, numbers: np.ndarray) -> EncodedSet:
    rows = [work.example(i) for i in numbers]
    lengths = [len(ids) for ids, _ in rows]
    return EncodedSet(
        np.concatenate([np.empty(0, np.int32), *(ids for ids, _ in rows)]),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
        np.array([prompt for _, prompt in rows], np.int32),
    )


if __name__ == "__main__":
    main()
