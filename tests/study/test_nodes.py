"""Nodes that would fail or delay a study are found by a probe."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from telltune.study import nodes as nodes_module
from telltune.study.nodes import Probe, files_of, left_out, probe, versions_here
from telltune.study.spec import StudySpec, cells_of

if TYPE_CHECKING:
    import pytest


def measured(product: float, disk: float = 0.1) -> Probe:
    return Probe("", {"a matrix product": product, "writing and reading a file": disk})


def test_a_node_much_slower_than_the_median_is_left_out() -> None:
    probes = {"a": measured(1.0), "b": measured(1.2), "c": measured(0.9), "slow": measured(4.0)}
    assert left_out(probes) == {"slow": "a matrix product takes 4.0 times as long as the median"}
    # Of two nodes the faster one sets the measure, and one node alone is never slow.
    assert list(left_out({"a": measured(1.0), "slow": measured(3.1)})) == ["slow"]
    assert left_out({"a": measured(1.0), "b": measured(2.9)}) == {}
    assert left_out({"slow": measured(4.0)}) == left_out({}) == {}


def test_short_times_on_a_disk_are_never_too_slow() -> None:
    assert left_out({"a": measured(1.0, 0.02), "b": measured(1.0, 0.9)}) == {}
    [told] = left_out({"a": measured(1.0, 0.5), "b": measured(1.0, 2.0)}).values()
    assert told == "writing and reading a file takes 4.0 times as long as the median"


def test_nodes_with_a_problem_are_left_out_and_set_no_measure() -> None:
    broken = Probe("x.jsonl is missing there")
    probes = {"a": measured(1.0), "x": broken, "y": broken, "slow": measured(4.0)}
    assert set(left_out(probes)) == {"x", "y", "slow"}
    assert left_out(probes)["x"] == "x.jsonl is missing there"


def test_a_probe_measures_and_names_what_is_wrong(
    toy_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = {"recipe": toy_recipe, "methods": ["tell"], "sizes": [300]}
    files = files_of(cells_of(StudySpec.model_validate(study)))
    assert toy_recipe["task"]["train"] in files
    here = versions_here()
    found = probe(here, files, Path(), gpu=False)
    assert not found.problem
    assert all(0 < spent < 10 for spent in found.seconds.values())
    assert probe(here, [*files, "gone.jsonl"], Path(), gpu=False).problem == (
        "gone.jsonl is missing there"
    )
    other = probe(here | {"torch": "1.0"}, files, Path(), gpu=False)
    assert other.problem == f"it has torch {here['torch']} instead of 1.0"

    def full() -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert probe(here, [], Path(), gpu=False).problem == "OSError: No space left on device"
    monkeypatch.setattr(nodes_module, "_ROUNDS", 1)
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: torch.matmul(a, b) + (b.ndim - 1))
    assert "wrong product" in probe(here, [], Path(), gpu=False).problem
