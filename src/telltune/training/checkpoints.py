"""Checkpoints that can be trusted: whole, on the disk, known by checksums, of this very run."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any

from telltune.errors import StorageError
from telltune.storage import checksums, publish, write_json, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

__all__ = ["CHECKPOINTS", "Checkpoints", "copied"]

CHECKPOINTS = "checkpoints"
"""Name of their folder in a run's folder."""

MANIFEST = "manifest.json"
INPUTS = "inputs.json"
# If the newest is damaged there is still the one before.
_KEPT = 2
_UNFINISHED = "unfinished"


class Checkpoints:
    """The checkpoints of one run.

    The Trainer writes a checkpoint into `unfinished` under its own name; of what is large it only
    copies the state, and leaves the writing for `later`. Training goes on, and a thread writes
    that, then the manifest, with a checksum of every other file; then all is synced, and moved to
    where checkpoints are looked for. A kill at any moment leaves the ones before as they were, and
    costs the steps since the newest that was moved.

    Args:
        folder: Where they are, a folder each.
        inputs: What the run is made of: a hash by name, such as "task data". A run that goes on
            must be made of the same.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, str | None]) -> None:
        self.folder = folder
        self.inputs = dict(inputs)
        self.unfinished = folder / _UNFINISHED
        """Where the Trainer writes."""
        self._later: list[Callable[[], object]] = []
        self._persisting: Thread | None = None
        self._error: Exception | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        # Whatever ended the run: nobody writes here afterwards.
        if self._persisting is not None:
            self._persisting.join()

    @contextmanager
    def saving(self, step: int, needed: int) -> Iterator[None]:
        """Make what is written into `unfinished` meanwhile, or `later`, the newest checkpoint.

        Waits for the one before, so that there is one at a time.

        Args:
            step: After which it was taken.
            needed: Bytes that it takes.

        Raises:
            StorageError: The disk refuses, or has refused the one before; those before that are as
                they were.
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
        """Leave a part of what is being saved to the thread.

        Args:
            write: Writes it, from what training does not change any more (`copied`).
        """
        self._later.append(write)

    def wait(self) -> None:
        """Until the newest is on the disk.

        Raises:
            StorageError: The disk refuses it; the checkpoints before are as they were.
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
                while self._later:  # each copy is let go when it is written
                    self._later.pop()()
                write_json(filled / INPUTS, self.inputs)
                write_json(filled / MANIFEST, checksums(filled))
                publish(filled, target)
        except Exception as error:
            self._error = error  # for `wait`, in the thread that trains
        finally:
            shutil.rmtree(filled, ignore_errors=True)
        # By their steps: of times that the clock says nothing follows.
        for old in self._all()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> Path | None:
        """The newest checkpoint that is what it was when it was written.

        Damaged ones are named on standard error and removed.

        Raises:
            StorageError: It is of other data or of another model.
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
            instead = "goes on from the one before" if paths else "begins anew"
            logging.getLogger(__name__).warning(
                "%s is damaged (%s): training %s.", path, damage, instead
            )
            shutil.rmtree(path, ignore_errors=True)
        return None

    def _all(self) -> list[Path]:
        """From the oldest to the newest."""
        found = {
            int(path.name.removeprefix("checkpoint-")): path
            for path in self.folder.glob("checkpoint-*")
            if path.name.removeprefix("checkpoint-").isdecimal()
        }
        return [found[step] for step in sorted(found)]

    def _check_inputs(self, path: Path) -> None:
        before = json.loads((path / INPUTS).read_text(encoding="utf-8"))
        changed = [name for name, value in self.inputs.items() if before.get(name) != value]
        if changed:
            run = self.folder.parent
            raise StorageError(
                f"{run} holds a run that was cut short, and since then what it is made of has "
                f"changed: {', '.join(changed)}. Bring back what it was, or remove {run} to train "
                "anew."
            )


def copied(state: Any) -> Any:
    """A state of tensors in lists and dictionaries as it is now, in the host's memory."""
    import torch

    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: copied(value) for name, value in state.items()}
    if isinstance(state, list):
        return [copied(value) for value in state]
    return state


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with it, or None."""
    try:
        expected = dict(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))
        found = checksums(checkpoint)
        found.pop(MANIFEST)
    except (OSError, ValueError, TypeError) as error:
        return f"it cannot be read: {error}"
    if found == expected:
        return None
    names = sorted(name for name in found | expected if found.get(name) != expected.get(name))
    return f"not as written: {', '.join(names)}"
