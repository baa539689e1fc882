"""A study runs on a Ray cluster of two nodes, of which one is lost."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from telltune.errors import RecipeError
from telltune.study import cluster as cluster_module
from telltune.study import nodes as nodes_module
from telltune.study.cluster import connect, elsewhere_than
from telltune.study.results import ANSWERS, RESULTS, ResultRow
from telltune.study.runner import run_cells
from telltune.study.spec import ForgettingSpec, StudySpec, cells_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ray = pytest.importorskip("ray")

FEW = ForgettingSpec(examples=8, prompts=4)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Start a head and another node, with one CPU each."""
    from ray.cluster_utils import Cluster

    # Without its dashboard and autoscaler, which are processes of their own.
    head = {"num_cpus": 1, "include_dashboard": False, "no_monitor": True}
    with pytest.MonkeyPatch.context() as patch:
        # By default Ray's processes wait until no other work is left, such as other tests.
        patch.setenv("RAY_worker_niceness", "0")
        made = Cluster(initialize_head=True, head_node_args=head)
        made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made
        ray.shutdown()
        made.shutdown()


def told(row: ResultRow) -> dict[str, Any]:
    return {name: value for name, value in vars(row).items() if name != "seconds"}


def test_what_a_cluster_has_not_is_said_soon(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_PATIENCE", 0.0)
    with pytest.raises(RecipeError, match=r"has 2 CPUs and 0 GPUs .*nodes have .*1 CPUs and 0 GPU"):
        connect(nodes.address, cpus=2)
    with pytest.raises(RecipeError, match="1 CPUs and 1 GPUs"):
        connect(nodes.address, gpus=1)


def test_addresses_where_nobody_answers_are_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RecipeError, match=f"no response from {address}"):
        connect(address)
    with pytest.raises(RecipeError, match="not a cluster address"):
        connect("somewhere")


def test_a_study_does_without_bad_nodes(
    nodes: Any, toy_recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = {"recipe": toy_recipe, "methods": ["base"], "sizes": [300]}
    cells = cells_of(StudySpec.model_validate(study))
    joined = connect(nodes.address)
    # Both nodes are this machine, where one may have to wait for other work.
    monkeypatch.setattr(nodes_module, "_SLOW", float("inf"))
    assert joined.bad_nodes(cells) == []
    bad, good = (node.node_id for node in nodes.list_all_nodes())

    def where() -> str:
        return str(ray.get_runtime_context().get_node_id())

    elsewhere = ray.remote(num_cpus=1, **elsewhere_than([bad]))(where)
    assert set(ray.get([elsewhere.remote() for _ in range(3)])) == {good}
    # Both nodes have another code than this process claims to have.
    monkeypatch.setattr(nodes_module, "CODE", "other")
    with pytest.raises(RecipeError, match=r"no node of the cluster can .*\(other\); .*\(other\)"):
        joined.bad_nodes(cells)


@pytest.mark.timeout(900)
def test_a_node_that_is_lost_loses_no_cell(
    nodes: Any, toy_recipe: dict[str, Any], tmp_path: Path
) -> None:
    toy_recipe["training"]["report_to"] = "tensorboard"
    study = {
        "recipe": toy_recipe | {"mixture": {"leverage_ratio": 1.0, "passes": 2}},
        "methods": ["base", "tell"],
        "sizes": [300, 600],
    }
    cells = cells_of(StudySpec.model_validate(study))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on the nodes, so that floating-point sums are the same
    try:
        here = run_cells(cells, FEW, tmp_path / "here", progress=False)
    finally:
        torch.set_num_threads(threads)
    # Trained cells are answered in tasks of their own, and the base's cells in one.
    joined = connect(nodes.address, answer_cpus=1)
    out = tmp_path / "there"
    found: list[ResultRow] = []

    def run() -> None:
        found.extend(run_cells(cells, FEW, out, progress=False, elsewhere=joined.run))

    running = threading.Thread(target=run)
    running.start()
    until = time.monotonic() + 300
    while not (out / RESULTS).exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    # While its next cell runs.
    before = (out / RESULTS).read_bytes()
    [lost] = nodes.worker_nodes
    nodes.remove_node(lost, allow_graceful=False)
    assert running.is_alive()
    running.join(timeout=300)
    assert not running.is_alive()
    assert (out / RESULTS).read_bytes().startswith(before)
    assert [told(row) for row in found] == [told(row) for row in here]
    assert {row.status for row in found} == {"done"}
    trained = {cell.title for cell in cells if cell.method != "base"}
    assert {path.name for path in (out / "runs").iterdir()} == trained
    for row in found:
        name = f"{row.key}.jsonl"
        assert (out / ANSWERS / name).read_bytes() == (
            tmp_path / "here" / ANSWERS / name
        ).read_bytes()
