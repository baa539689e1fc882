"""Processes of torchrun or `accelerate launch` that train one model together.

Accelerate sets up the processes and their communication. This module has the few operations that a
run needs. A single process, the usual case, needs no process group.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError, TellError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch


class Processes:
    """Processes of a run, from the point of view of one of them.

    `state` is the `PartialState` of accelerate; None for a single process.
    """

    def __init__(self, state: Any = None) -> None:
        self._state = state
        self.count: int = state.num_processes if state is not None else 1
        """Number of processes."""
        self.rank: int = state.process_index if state is not None else 0
        """Rank of this process."""
        self.first = self.rank == 0
        """Whether this is the first process, which writes files and messages."""

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self._state is not None:
            self._state.wait_for_everyone()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Run the context in the first process before the others, which can then use its files."""
        if self._state is None:
            yield
            return
        with self._state.main_process_first():
            yield

    def total(self, values: torch.Tensor, how: str = "SUM") -> torch.Tensor:
        """Return sums over all processes, with the shape, dtype and device of `values`."""
        from torch import distributed

        if self._state is None:
            return values
        # NCCL supports only tensors on its GPU.
        found = values.detach().to(self._state.device, copy=True)
        distributed.all_reduce(found, op=getattr(distributed.ReduceOp, how))
        return found.to(values.device)

    def most(self, value: int) -> int:
        """Return the maximum of the values of all processes."""
        import torch

        if self._state is None:
            return value
        return int(self.total(torch.tensor(value, device=self._state.device), "MAX"))

    def check_same(self, named: Mapping[str, str | None]) -> None:
        """Check that all processes have the same inputs, given the text or hash of each by name.

        Raises:
            RecipeError: In every process, if inputs differ; the message names inputs and process.
        """
        from torch import distributed

        if self._state is None:
            return
        given: list[Any] = [None] * self.count
        distributed.all_gather_object(given, dict(named))
        for rank, other in enumerate(given):
            names = sorted(n for n in given[0] | other if given[0].get(n) != other.get(n))
            if names:
                raise RecipeError(
                    f"process {rank} differs from process 0 in: {', '.join(names)}; use the same "
                    "recipe and data in all processes, on every node."
                )

    @contextmanager
    def noticing_loss(self) -> Iterator[None]:
        """Turn communication errors into a one-sentence error within a context.

        Raises:
            TellError: If another process ended or is unreachable.
        """
        try:
            yield
        except RuntimeError as error:
            said = str(error)
            if self.count == 1 or not any(name in said for name in ("gloo", "NCCL", "peer")):
                raise
            raise TellError(
                f"process {self.rank} of {self.count} lost contact with the others: one of them "
                "ended or is unreachable; see its last message for the reason "
                f"({said.splitlines()[0]})."
            ) from error


def processes() -> Processes:
    """Return the processes of this launch, and join their group if not done yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    import torch
    from accelerate import PartialState

    cpu = not torch.cuda.is_available()
    return Processes(PartialState(cpu=cpu, **({"backend": "gloo"} if cpu else {})))
