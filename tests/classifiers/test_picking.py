"""The picked inputs cover all others, and do not depend on labels."""

from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import telltune
from telltune.classifiers import picking
from telltune.classifiers.picking import cover, pick
from telltune.errors import DataError
from telltune.recipe import Columns
from telltune.valuation import embeddings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def unit(vectors: Any) -> NDArray[np.float32]:
    array = np.asarray(vectors, dtype=np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def clusters(sizes: list[int], seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return points close to one axis per cluster, in a mixed order, and the cluster of each."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return unit(np.eye(len(sizes))[owner] + 0.05 * rng.normal(size=(len(owner), len(sizes)))), owner


def test_each_cluster_is_picked_once_before_any_is_picked_twice_the_largest_first() -> None:
    vectors, owner = clusters([50, 3, 20, 10])
    chosen, coverage = cover(vectors, 4)
    assert owner[chosen].tolist() == [0, 2, 3, 1]
    assert (np.diff(coverage) > 0).all()
    assert coverage[-1] > 0.95


def total(vectors: NDArray[np.float32], chosen: Any) -> float:
    return float(np.maximum(vectors @ vectors[list(chosen)].T, 0).max(axis=1).sum())


@given(seed=st.integers(0, 10_000), number=st.integers(1, 3))
def test_the_choice_is_within_the_bound_of_the_best(seed: int, number: int) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(8, 3)))
    best = max(total(vectors, some) for some in combinations(range(8), number))
    chosen, coverage = cover(vectors, number)
    assert len(set(chosen.tolist())) == number
    assert total(vectors, chosen) >= (1 - 1 / np.e) * best - 1e-4
    assert coverage[-1] == pytest.approx(total(vectors, chosen) / 8, rel=1e-4)


def test_a_smaller_choice_is_the_start_of_a_larger() -> None:
    vectors, _ = clusters([9, 9, 9])
    assert cover(vectors, 3)[0].tolist() == cover(vectors, 20)[0][:3].tolist()


def test_what_labeled_examples_cover_comes_last() -> None:
    vectors, owner = clusters([50, 20, 10])
    chosen, _ = cover(vectors, 2, labeled=unit([[1, 0, 0]]))
    assert owner[chosen].tolist() == [1, 2]


def test_equal_inputs_are_chosen_one_after_another() -> None:
    assert sorted(cover(unit(np.ones((4, 2))), 4)[0].tolist()) == [0, 1, 2, 3]


def test_large_pools_are_sampled_and_whole_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, owner = clusters([300, 200, 100])
    monkeypatch.setattr(picking, "CANDIDATES", 50)
    first, second = (cover(vectors, 3, seed=seed)[0] for seed in (0, 1))
    assert set(owner[first]) == set(owner[second]) == {0, 1, 2}
    assert first.tolist() != second.tolist()
    # More inputs can be picked than are usually candidates.
    assert len(set(cover(vectors, 120)[0].tolist())) == 120


@pytest.fixture
def files(tmp_path: Path, tiny_encoder: Path) -> dict[str, Any]:
    rows = [{"id": n, "text": f"item {n} is round", "team": "secret"} for n in range(6)]
    rows.append(dict(rows[0]))
    (tmp_path / "inputs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "labeled.csv").write_text("text,team\nitem 1 is round,ball\n")
    return {"folder": tmp_path, "encoder": str(tiny_encoder)}


def test_no_more_inputs_are_encoded_than_are_covered(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []

    def embed(texts: list[str], encoder: str) -> NDArray[np.float32]:
        encoded.append(len(texts))
        return embeddings.embed(texts, encoder)

    monkeypatch.setattr(picking, "embed", embed)
    monkeypatch.setattr(picking, "COVERED", 4)
    columns = Columns(prompt="text", completion="team")
    inputs = files["folder"] / "inputs.jsonl"
    some, more = (pick(inputs, n, columns=columns, encoder=files["encoder"]) for n in (3, 5))
    assert encoded == [4, 5]
    assert (some.inputs, len({row["id"] for row in some.rows})) == (6, 3)
    assert len({row["id"] for row in more.rows}) == 5


def test_rows_come_back_whole_once_and_without_those_labeled(files: dict[str, Any]) -> None:
    folder = files["folder"]
    columns = Columns(prompt="text", completion="team")
    picked = pick(
        folder / "inputs.jsonl",
        5,
        labeled=folder / "labeled.csv",
        columns=columns,
        encoder=files["encoder"],
    )
    assert sorted(int(row["id"]) for row in picked.rows) == [0, 2, 3, 4, 5]
    assert (picked.inputs, picked.labeled, len(picked.coverage)) == (5, 1, 5)
    assert set(picked.rows[0]) == {"id", "text", "team"}
    with pytest.raises(DataError, match="has 6 distinct inputs without a label, but 7 are"):
        telltune.pick(folder / "inputs.jsonl", 7, columns=columns, encoder=files["encoder"])
