"""Steps that do not fit in memory are computed in shorter rows, with the same result."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from victim import Left

import telltune
from telltune.errors import RecipeError
from telltune.training import trainer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FITS = 100
"""Number of tokens that fit in a row; a step has some 200, an example up to 80."""
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Return a function that lets longer rows fail, and returns the lengths that fit."""

    def install(tokens: int, error: Exception) -> list[int]:
        fitted: list[int] = []
        token_nll = trainer.token_nll

        def allocate(model: Any, batch: Any, cut: Any = None) -> torch.Tensor:
            if batch.input_ids.numel() > tokens:
                raise error
            fitted.append(batch.input_ids.numel())
            return token_nll(model, batch, cut)

        monkeypatch.setattr(trainer, "token_nll", allocate)
        return fitted

    return install


def test_rows_are_halved_and_the_adapter_is_the_same(
    short: dict[str, Any],
    tmp_path: Path,
    small_memory: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    short["lora"]["dropout"] = 0.0  # its random draws depend on the layout of rows
    whole = telltune.fit(short, tmp_path / "whole", progress=False).folder
    fitted = small_memory(FITS, CUDA)
    with caplog.at_level(logging.WARNING, logger="telltune"):
        out = telltune.fit(short, tmp_path / "out", progress=False).folder
    said = [r.getMessage() for r in caplog.records if "does not fit in memory" in r.getMessage()]
    assert len(said) == 1
    assert max(fitted) <= FITS
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (out, whole))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=2e-4, rtol=1e-3)
    for row, other in zip(Left.of(out).rows, Left.of(whole).rows, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert row["tokens"] == other["tokens"]
    # The result is bit-identical to that of a recipe with such rows.
    found = re.search(r"Step 1 does not .* from now on (\d+) tokens are computed at once", said[0])
    assert found, said
    short["training"]["micro_batch_tokens"] = int(found[1])
    assert Left.of(telltune.fit(short, tmp_path / "asked", progress=False).folder) == Left.of(out)


@pytest.mark.parametrize(
    "error",
    [
        CUDA,
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "linux", "numpy"],
)
def test_what_does_not_fit_at_all_is_said(
    short: dict[str, Any],
    tmp_path: Path,
    small_memory: Callable[..., list[int]],
    error: Exception,
) -> None:
    small_memory(8, error)
    with pytest.raises(RecipeError, match=r"step 1 does not fit .*gradient_checkpointing: true"):
        telltune.fit(short, tmp_path / "out", progress=False)


def test_other_errors_are_not_taken_for_it(
    short: dict[str, Any], tmp_path: Path, small_memory: Callable[..., list[int]]
) -> None:
    small_memory(8, RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        telltune.fit(short, tmp_path / "out", progress=False)
