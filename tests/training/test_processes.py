"""One run is shared by two and four real processes, which communicate through gloo."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from forked import Forked, run
from telltune.api import fit
from telltune.training.processes import Processes
from telltune.training.steps import own_share
from telltune.training.trainer import MixtureTrainer

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIGURATIONS = Path(__file__).parents[2] / "configurations"


@pytest.fixture
def long(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe of twelve steps; the last of an epoch has fewer examples than processes."""
    training = toy_recipe["training"] | {"batch_size": 5, "save_steps": 4, "micro_batch_tokens": 96}
    return toy_recipe | {"training": training}


class Group:
    """Group of `tell fit` processes that know each other as under torchrun.

    Args:
        folder: Folder for their recipes and outputs.
        recipes: Recipe of each process.
        out: Output folder of the run.
        fsdp: Whether to shard the model over them.
        stop: Step in which one of them gets SIGTERM; None for no signal.
    """

    def __init__(
        self,
        folder: Path,
        recipes: list[dict[str, Any]],
        out: str,
        *,
        fsdp: bool = False,
        stop: int | None = None,
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"WORLD_SIZE": str(len(recipes))} | (launched("fsdp.yaml")[1] if fsdp else {})
        self.members = []
        for rank, recipe in enumerate(recipes):
            path = folder / f"{out}-{rank}.yaml"
            path.write_text(yaml.safe_dump(recipe))
            self.members.append(
                Forked(
                    *("fit", path, "--out", folder / out),
                    said=path.with_suffix(".txt"),
                    first=partial(prepare, fsdp, stop if rank == 0 else None),
                    environment=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                )
            )

    def wait(self) -> list[int]:
        """Wait for all processes, and return their exit codes."""
        return [member.wait() for member in self.members]

    def said(self) -> list[str]:
        """Return the output of each process."""
        return [member.said.read_text() for member in self.members]


def prepare(fsdp: bool, stop: int | None) -> None:
    """Allow FSDP in a process, or let the process get SIGTERM in a step."""
    if fsdp:
        allow_fsdp()
    if stop is not None:
        compute = MixtureTrainer._compute

        def signaled(self: MixtureTrainer, *rest: Any) -> torch.Tensor:
            if self.state.global_step == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return compute(self, *rest)

        MixtureTrainer._compute = signaled  # type: ignore[method-assign]


def allow_fsdp() -> None:
    """Let accelerate use FSDP on CPUs, which it does only for GPUs.

    Nothing of telltune is replaced. FSDP is PyTorch's own, over gloo.
    """
    from accelerate.state import DistributedType, PartialState

    torch.distributed.init_process_group("gloo")
    # accelerate has no FSDP type for CPUs; the device is a CPU all the same.
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)


def launched(configuration: str) -> tuple[Any, dict[str, str]]:
    """Return the arguments and FSDP variables that `accelerate launch` makes of a configuration."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    given = ["--config_file", str(CONFIGURATIONS / configuration), "--main_process_ip", "10.0.0.1"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args([*given, "script"]))
    env = prepare_multi_gpu_env(arguments)
    return arguments, {name: env[name] for name in env if "FSDP" in name}


def log_of(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def assert_alike(one: Path, other: Path) -> None:
    """Compare steps, losses and weights, up to the order of floating-point sums."""
    assert len(log_of(one)) == len(log_of(other))
    for before, after in zip(log_of(one), log_of(other), strict=True):
        # Each process lays out its rows by itself, and its median is of its own tokens.
        for row in (before, after):
            for key in ("computed_tokens", "median_task", "median_general"):
                row.pop(key, None)
        assert after == pytest.approx(before, rel=2e-4)
    first, second = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value - second[name]).abs().max() < 1e-4, name


def test_each_example_is_one_processs_and_all_have_as_much() -> None:
    lengths = [50, 10, 10, 30, 20, 40]

    class Of(Processes):
        def __init__(self, rank: int, count: int) -> None:
            self.rank, self.count = rank, count

    assert own_share(lengths, Of(0, 1)) == [0, 1, 2, 3, 4, 5]
    shares = [own_share(lengths, Of(rank, 2)) for rank in range(2)]
    assert sorted([*shares[0], *shares[1]]) == [0, 1, 2, 3, 4, 5]
    assert [sum(lengths[i] for i in share) for share in shares] == [80, 80]
    assert own_share([7], Of(1, 2)) == []


def test_torchruns_processes_make_what_one_makes(long: dict[str, Any], tmp_path: Path) -> None:
    # Everything that affects a step's loss, except the model.
    long["training"] |= {"source_weights": "alf1"}
    fit(long, tmp_path / "alone", progress=False)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(long))
    words = ["fit", str(recipe), "--json", "--out", str(tmp_path / "together")]
    outputs = (tmp_path / "said.txt", tmp_path / "complaints.txt")
    # torchrun's agent, with workers that have done their imports. It replaces signal handlers,
    # except in a thread.
    how = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "start_method": "forkserver"}
    torchrun = elastic_launch(LaunchConfig(1, 1, 2, max_restarts=0, **how), run)
    cache = {"TELLTUNE_CACHE": os.environ["TELLTUNE_CACHE"]}
    with ThreadPoolExecutor(1) as thread:
        thread.submit(torchrun, words, outputs, None, cache).result()
    # One process prints for all.
    assert json.loads(outputs[0].read_text())["counts"]["optimizer_steps"] > 10
    assert_alike(tmp_path / "alone", tmp_path / "together")


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_a_run_of_two_that_was_stopped_goes_on_as_one_and_as_four(
    long: dict[str, Any], tmp_path: Path, *, fsdp: bool
) -> None:
    long["training"] |= {"learning_rate": 1e-4}
    fit(long, tmp_path / "whole", progress=False)
    cut = tmp_path / "cut"
    # One of the two gets the signal, and both stop after the same step.
    two = Group(tmp_path, [long] * 2, "cut", fsdp=fsdp, stop=6)
    assert all(two.wait())
    assert "run the same command to resume" in two.said()[0]
    newest = cut / "checkpoints" / "checkpoint-7"
    assert newest.exists()
    if fsdp:
        # Each of the two has written its half of the weights and of the moments.
        assert len(list(newest.glob("*/*.distcp"))) == 4
    else:
        shutil.copytree(cut, tmp_path / "one")
        fit(long, tmp_path / "one", progress=False)
        assert_alike(tmp_path / "whole", tmp_path / "one")
    four = Group(tmp_path, [long] * 4, "cut", fsdp=fsdp)
    assert four.wait() == [0] * 4, four.said()
    assert_alike(tmp_path / "whole", cut)


def test_with_fsdp_bases_of_half_precision_are_spread_too(
    long: dict[str, Any], tmp_path: Path
) -> None:
    long["training"] |= {"precision": "bf16"}
    long["mixture"] |= {"passes": 1}
    fit(long, tmp_path / "alone", progress=False)
    two = Group(tmp_path, [long] * 2, "spread", fsdp=True)
    assert two.wait() == [0] * 2, two.said()
    for one, other in zip(log_of(tmp_path / "alone"), log_of(tmp_path / "spread"), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.05)  # 8 bits of mantissa


@pytest.mark.parametrize("name", ["fsdp.yaml", "two-nodes.yaml"])
def test_configurations_are_what_accelerate_reads(name: str) -> None:
    arguments, env = launched(name)
    assert int(arguments.nproc_per_node) == 8
    assert arguments.num_processes == 8 * int(arguments.num_machines)
    assert env["ACCELERATE_USE_FSDP"] == "true"
    assert env["FSDP_VERSION"] == "2"


def test_nodes_that_were_given_different_data_are_told(
    long: dict[str, Any], tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    lines = Path(long["general"]).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[3]["completion"] += "!"
    other = long | {"general": str(write_jsonl(tmp_path / "other.jsonl", rows))}
    two = Group(tmp_path, [long, other], "out")
    assert two.wait() == [2, 2]
    for said in two.said():
        assert "process 1 differs from process 0 in: general data, recipe; use the same" in said
        assert "Traceback" not in said


def test_whoever_loses_the_others_says_so(long: dict[str, Any], tmp_path: Path) -> None:
    broken = long | {"general": str(tmp_path / "missing.jsonl")}
    two = Group(tmp_path, [long, broken], "out")
    assert two.wait() == [2, 2]
    first, second = two.said()
    assert "missing.jsonl" in second
    assert "process 0 of 2 lost contact with the others" in first
    assert "Traceback" not in first


def test_more_than_a_step_has_examples_are_too_many(long: dict[str, Any], tmp_path: Path) -> None:
    long["training"] |= {"batch_size": 1}
    two = Group(tmp_path, [long] * 2, "many")
    assert two.wait() == [2, 2]
    assert all("2 processes cannot share a step of" in said for said in two.said())
