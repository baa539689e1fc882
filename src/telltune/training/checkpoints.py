"""Checkpoints that are complete, synced to disk, and verified by checksums and inputs."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from telltune.errors import StorageError
from telltune.storage import checksums, publish, write_json, writing

CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints in a run's folder."""

MANIFEST = "manifest.json"
INPUTS = "inputs.json"
# If the newest checkpoint is damaged, training resumes from the previous one.
_KEPT = 2
_UNFINISHED = "unfinished"
_ADDED = frozenset({"confidence", "dev data"})


class Checkpoints:
    """The checkpoints of one run.

    The Trainer writes a checkpoint into `unfinished` under its own name. It only copies large state
    and defers writing it with `later`. While training continues, a thread writes that state and a
    manifest with the checksums of all other files. Then it syncs the files and moves the folder to
    its final place. A kill at any moment leaves earlier checkpoints intact, and loses the steps
    since the newest one that was moved.

    Args:
        folder: Folder with one subfolder per checkpoint.
        inputs: Hash of each input of the run by name, such as "task data". A resumed run must have
            the same inputs.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, str | None]) -> None:
        self.folder = folder
        self.inputs = dict(inputs)
        self.unfinished = folder / _UNFINISHED
        """Folder in which the Trainer writes."""
        self._later: list[Callable[[], object]] = []
        self._persisting: Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        # Wait for the thread also after an error, so that nothing is written afterwards.
        if self._persisting is not None:
            self._persisting.join()

    @contextmanager
    def saving(self, step: int, needed: int) -> Iterator[None]:
        """Save files that are written into `unfinished` or with `later` as a new checkpoint.

        Waits until the previous checkpoint is on disk. `needed` is the size of the checkpoint in
        bytes.

        Raises:
            StorageError: If this or the previous checkpoint cannot be written. Earlier ones stay
                intact.
        """
        self.wait()
        target = self.folder / f"checkpoint-{step}"
        filled = self.unfinished / target.name
        self._later = []
        try:
            with writing(target, needed=needed):
                filled.mkdir(parents=True, exist_ok=True)
                yield
        except BaseException:
            shutil.rmtree(filled, ignore_errors=True)
            raise
        self._persisting = Thread(target=self._persist, args=(filled, target, needed))
        self._persisting.start()

    def later(self, write: Callable[[], object]) -> None:
        """Defer the writing of a part of the checkpoint to the thread.

        The part must be state that training no longer changes; see `copied`.
        """
        self._later.append(write)

    def wait(self) -> None:
        """Wait until the newest checkpoint is on disk.

        Raises:
            StorageError: If it cannot be written. Earlier checkpoints stay intact.
        """
        if self._persisting is not None:
            self._persisting.join()
            self._persisting = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _persist(self, filled: Path, target: Path, needed: int) -> None:
        try:
            with writing(target, needed=needed):
                while self._later:  # free each copy once it is written
                    self._later.pop()()
                write_json(filled / INPUTS, self.inputs)
                write_json(filled / MANIFEST, checksums(filled))
                publish(filled, target)
        except Exception as error:
            self._error = error  # `wait` raises it in the training thread
        finally:
            shutil.rmtree(filled, ignore_errors=True)
        # Order by step, because file times are not reliable.
        for old in self._all()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> Path | None:
        """Return the newest intact checkpoint, or None.

        Damaged checkpoints are reported on standard error and removed.

        Raises:
            StorageError: If the inputs of the checkpoint differ from those of this run.
        """
        self.wait()
        shutil.rmtree(self.unfinished, ignore_errors=True)
        paths = self._all()
        while paths:
            path = paths.pop()
            damage = _damage(path)
            if damage is None:
                self._check_inputs(path)
                return path
            instead = "resumes from the previous one" if paths else "starts over"
            logging.getLogger(__name__).warning(
                "%s is damaged (%s): training %s.", path, damage, instead
            )
            shutil.rmtree(path, ignore_errors=True)
        return None

    def _all(self) -> list[Path]:
        """Return all checkpoints from the oldest to the newest."""
        found = {
            int(path.name.removeprefix("checkpoint-")): path
            for path in self.folder.glob("checkpoint-*")
            if path.name.removeprefix("checkpoint-").isdecimal()
        }
        return [found[step] for step in sorted(found)]

    def _check_inputs(self, path: Path) -> None:
        before = json.loads((path / INPUTS).read_text(encoding="utf-8"))
        # Earlier versions did not record the inputs in `_ADDED`.
        changed = [
            name
            for name, value in self.inputs.items()
            if before.get(name, value if name in _ADDED else None) != value
        ]
        if changed:
            run = self.folder.parent
            raise StorageError(
                f"{run} holds an interrupted run whose inputs have changed since: "
                f"{', '.join(changed)}. Restore them, or remove {run} to start over."
            )


def copied(state: Any) -> Any:
    """Copy nested lists and dictionaries of tensors to host memory."""
    import torch

    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    if isinstance(state, list):
        return [copied(value) for value in state]
    return state


def _damage(checkpoint: Path) -> str | None:
    """Return a description of the damage, or None."""
    try:
        expected = dict(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))
        found = checksums(checkpoint)
        found.pop(MANIFEST)
    except (OSError, ValueError, TypeError) as error:
        return f"it cannot be read: {error}"
    if found == expected:
        return None
    names = sorted(name for name in found | expected if found.get(name) != expected.get(name))
    return f"checksum mismatch: {', '.join(names)}"
