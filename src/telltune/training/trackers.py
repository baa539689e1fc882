"""Experiment trackers: TensorBoard, MLflow, Weights & Biases, Trackio, and those of plugins.

The callbacks are those of transformers. Here each training gets a run of its own, and a tracker
that fails does not end the training.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from telltune.errors import RecipeError
from telltune.plugins import load_plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from transformers import TrainerCallback, TrainerControl

RUNS = "runs"
"""Name of the folder for files of trackers in an output folder."""


@dataclass(frozen=True)
class TrackedRun:
    """A training as trackers show it.

    Attributes:
        name: Name of the run.
        group: Name of the study or comparison that the run belongs to, or None.
        folder: Folder for files of the run, which may not exist yet.
    """

    name: str
    group: str | None
    folder: Path

    @classmethod
    def of(cls, out: Path) -> TrackedRun:
        """Return the run of an output folder, which is named after the folder."""
        return cls(out.resolve().name, None, out / RUNS)

    @classmethod
    def of_cell(cls, out: Path, title: str) -> TrackedRun:
        """Return the run of a cell of the study, or of a method of the comparison, in `out`."""
        return cls(title, out.resolve().name, out / RUNS / re.sub(r"[^\w ,.-]", "-", title))


def check_trackers(names: Sequence[str]) -> None:
    """Raise an error unless all trackers exist and their packages are installed.

    Raises:
        RecipeError: A name is unknown, or a package is missing.
    """
    load_plugins()
    for name in names:
        if name not in _TRACKERS:
            raise RecipeError(
                f"training.report_to: there is no tracker `{name}`; choose from "
                f"{', '.join(_TRACKERS)}."
            )
        if name not in _PACKAGES:
            continue
        found = find_spec(name)
        # A folder such as ./wandb is found too, as a package without an origin.
        if found is None or found.origin is None:
            raise RecipeError(
                f"training.report_to: {name} is not installed; run `pip install {name}`, or remove "
                "it from the recipe."
            )


def register_tracker(name: str, factory: Callable[[TrackedRun], TrainerCallback]) -> None:
    """Add a tracker from a plugin.

    Args:
        name: Name in `training.report_to`.
        factory: Function that returns a new callback for a run. It is called before training.

    Raises:
        RecipeError: Another tracker has its name.
    """
    if name in _TRACKERS:
        raise RecipeError(f"tracker `{name}` is already registered; choose another name.")
    _TRACKERS[name] = lambda run: nullcontext(factory(run))


class Trackers:
    """Callback that passes the Trainer's events on to the callbacks of trackers.

    A tracker that fails is named in one warning and gets no further events. Trackers receive a copy
    of the Trainer's control, so they cannot end the training. What they print goes to standard
    error. As a context manager, it starts and ends the run of each tracker.
    """

    def __init__(self, names: Sequence[str], run: TrackedRun) -> None:
        self._names, self._run = names, run
        self._started: dict[str, AbstractContextManager[TrainerCallback]] = {}
        self._callbacks: dict[str, TrainerCallback] = {}
        self._failed: set[str] = set()

    def __enter__(self) -> Self:
        for name in self._names:
            with self._guarded(name):
                check_trackers([name])  # a node of a cluster may lack what the caller has
                started = _TRACKERS[name](self._run)
                self._callbacks[name] = started.__enter__()
                self._started[name] = started
        return self

    def __exit__(self, *error: Any) -> None:
        for name, started in self._started.items():
            with self._guarded(name):
                started.__exit__(*error)

    def __getattr__(self, event: str) -> Callable[..., None]:
        if not event.startswith("on_"):
            raise AttributeError(event)
        return partial(self._tell, event)

    def _tell(
        self, event: str, args: Any, state: Any, control: TrainerControl, **found: Any
    ) -> None:
        for name, callback in list(self._callbacks.items()):
            with self._guarded(name):
                getattr(callback, event)(args, state, replace(control), **found)

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            with redirect_stdout(sys.stderr):  # standard output is for results
                yield
        except Exception as error:
            self._callbacks.pop(name, None)
            if name not in self._failed:
                logging.getLogger(__name__).warning(
                    "The tracker %s fails (%s: %s); training continues without it.",
                    name,
                    type(error).__name__,
                    error,
                )
            self._failed.add(name)


@contextmanager
def _tensorboard(run: TrackedRun) -> Iterator[TrainerCallback]:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations.integration_utils import TensorBoardCallback

    class Resumable(TensorBoardCallback):
        """Callback that hides the steps after the checkpoint from which training resumes."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:
            self.close()  # training restarts from a checkpoint
            self.tb_writer = SummaryWriter(run.folder, purge_step=state.global_step + 1)
            super().on_train_begin(args, state, control, **found)  # type: ignore[no-untyped-call]

        def close(self) -> None:
            if self.tb_writer is not None:
                self.tb_writer.close()

    callback = Resumable()  # type: ignore[no-untyped-call]
    try:
        yield callback
    finally:
        callback.close()


@contextmanager
def _mlflow(run: TrackedRun) -> Iterator[TrainerCallback]:
    import mlflow

    # As in transformers, a run of the caller's is used and left open.
    mine = mlflow.active_run() is None
    tags = None if run.group is None else {"group": run.group}
    with mlflow.start_run(run_name=run.name, tags=tags) if mine else nullcontext():
        yield _callback("mlflow")


@contextmanager
def _wandb(run: TrackedRun) -> Iterator[TrainerCallback]:
    import wandb

    # As in transformers: its default project, and a run of the caller's is used and left open.
    started = None
    if wandb.run is None:
        project = os.getenv("WANDB_PROJECT", "huggingface")
        started = wandb.init(project=project, name=run.name, group=run.group)
    failed = True
    try:
        yield _callback("wandb")
        failed = False
    finally:
        if started is not None:
            started.finish(exit_code=int(failed))


def _trackio(_: TrackedRun) -> AbstractContextManager[TrainerCallback]:
    # The callback finds the name and project of the run in the Trainer's arguments. A run that was
    # left by an error ends when the next one starts.
    return nullcontext(_callback("trackio"))


def _callback(name: str) -> TrainerCallback:
    """Return a new callback of transformers for a tracker."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    integration: Any = INTEGRATION_TO_CALLBACK[name]
    callback: TrainerCallback = integration()
    return callback


_TRACKERS: dict[str, Callable[[TrackedRun], AbstractContextManager[TrainerCallback]]] = {
    "tensorboard": _tensorboard,
    "mlflow": _mlflow,
    "wandb": _wandb,
    "trackio": _trackio,
}
_PACKAGES = frozenset(_TRACKERS)
"""Names of trackers that are also the names of their packages."""
