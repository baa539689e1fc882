"""The processes that torchrun or `accelerate launch` started, which train one model together.

Who they are and how they talk is accelerate's business; here are the few things that a run asks of
them. A process alone is the usual case, and needs no group.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from telltune.errors import RecipeError, TellError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

__all__ = ["Processes", "processes"]


class Processes:
    """All of a run's processes, as one of them sees them.

    Args:
        state: accelerate's; None for a process alone.
    """

    def __init__(self, state: Any = None) -> None:
        self._state = state
        self.count: int = state.num_processes if state is not None else 1
        """How many."""
        self.rank: int = state.process_index if state is not None else 0
        """This one's place among them."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self._state is not None:
            self._state.wait_for_everyone()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first does something whose result it keeps on disk, and the others find it there."""
        if self._state is None:
            yield
            return
        with self._state.main_process_first():
            yield

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sums over all processes; of the shape, type and device of `values`."""
        return self._reduced(values, "SUM")

    def most(self, value: int) -> int:
        """The largest of all processes' values."""
        import torch

        if self._state is None:
            return value
        return int(self._reduced(torch.tensor(value, device=self._state.device), "MAX"))

    def check_same(self, named: Mapping[str, str | None]) -> None:
        """Make sure that all processes were given the same.

        Args:
            named: A text or hash by what it is of, such as "task data".

        Raises:
            RecipeError: They were not, in every process; it names what differs and where.
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
                    f"process {rank} was given another {' and another '.join(names)} than process "
                    "0; give the same recipe and the same data to all, on every node."
                )

    @contextmanager
    def noticing_loss(self) -> Iterator[None]:
        """Say so in a sentence where another process has gone, and this one cannot go on.

        Raises:
            TellError: Another process has gone.
        """
        try:
            yield
        except RuntimeError as error:
            said = str(error)
            if self.count == 1 or not any(name in said for name in ("gloo", "NCCL", "peer")):
                raise
            raise TellError(
                f"process {self.rank} of {self.count} has lost the others: one of them ended or "
                "cannot be reached any more, and what that one says last is the reason "
                f"({said.splitlines()[0]})."
            ) from error

    def _reduced(self, values: torch.Tensor, how: str) -> torch.Tensor:
        from torch import distributed

        if self._state is None:
            return values
        # NCCL knows no tensors but its GPU's.
        found = values.detach().to(self._state.device, copy=True)
        distributed.all_reduce(found, op=getattr(distributed.ReduceOp, how))
        return found.to(values.device)


def processes() -> Processes:
    """Those that the launcher started this one with; it joins their group where it has not yet."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    import torch
    from accelerate import PartialState

    cpu = not torch.cuda.is_available()
    return Processes(PartialState(cpu=cpu, **({"backend": "gloo"} if cpu else {})))
