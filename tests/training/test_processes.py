"""One run on two and four real processes, which talk by gloo."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from safetensors.torch import load_file

from telltune.api import fit
from telltune.training.processes import Processes
from telltune.training.steps import own_share

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIGURATIONS = Path(__file__).parents[2] / "configurations"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


@pytest.fixture
def long(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    """A dozen steps, the last of each epoch short: it has fewer examples than four processes."""
    training = toy_recipe["training"] | {"batch_size": 5, "save_steps": 4, "micro_batch_tokens": 96}
    return toy_recipe | {"training": training}


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts `tell fit` in so many processes."""

    def started(
        count: int, recipe: dict[str, Any], out: str, *more: str, fsdp: bool = False
    ) -> subprocess.Popen[str]:
        path = tmp_path / f"{out}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        program = [str(Path(__file__).with_name("fsdp_on_cpus.py"))] if fsdp else ["-m", "telltune"]
        command = [*TORCHRUN, f"--nproc-per-node={count}", *program, "fit", str(path)]
        return process(
            [*command, "--out", str(tmp_path / out), *more],
            **(launched("fsdp.yaml")[1] if fsdp else {}),
        )

    return started


def launched(configuration: str) -> tuple[Any, dict[str, str]]:
    """What `accelerate launch` makes of a configuration: its arguments, and what it tells FSDP."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    given = ["--config_file", str(CONFIGURATIONS / configuration), "--main_process_ip", "10.0.0.1"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args([*given, "script"]))
    env = prepare_multi_gpu_env(arguments)
    return arguments, {name: env[name] for name in env if "FSDP" in name}


def process(command: list[str], **env: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    env = os.environ | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env)


def log_of(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def assert_alike(one: Path, other: Path) -> None:
    """The same steps, losses and weights, but for the order of floating-point sums."""
    assert len(log_of(one)) == len(log_of(other))
    for before, after in zip(log_of(one), log_of(other), strict=True):
        # How examples lie in rows is each process's own business.
        before.pop("computed_tokens"), after.pop("computed_tokens")
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


@pytest.mark.parametrize("count", [2, 4])
def test_the_result_does_not_depend_on_how_many_they_are(
    long: dict[str, Any],
    tmp_path: Path,
    start: Callable[..., subprocess.Popen[str]],
    count: int,
) -> None:
    if count == 2:
        # What a step's loss is made of besides the model.
        long["training"] |= {"source_weights": "alf1"}
    fit(long, tmp_path / "alone", progress=False)
    running = start(count, long, "together", "--json")
    said, errors = running.communicate(timeout=240)
    assert running.returncode == 0, errors
    # One speaks for all.
    assert json.loads(said)["counts"]["optimizer_steps"] > 10
    assert_alike(tmp_path / "alone", tmp_path / "together")


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp"])
def test_a_run_of_two_that_was_stopped_goes_on_as_one_and_as_four(
    long: dict[str, Any], tmp_path: Path, start: Callable[..., subprocess.Popen[str]], *, fsdp: bool
) -> None:
    long["training"] |= {"learning_rate": 1e-4, "save_steps": 5}
    long["mixture"] |= {"passes": 16}
    fit(long, tmp_path / "whole", progress=False)
    cut = tmp_path / "cut"
    running = start(2, long, "cut", fsdp=fsdp)
    until = time.monotonic() + 120
    while not (cut / "checkpoints" / "checkpoint-5").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    # One of the two is asked, and both stop after the same step.
    os.kill(json.loads((cut / ".process.json").read_text())["process"], signal.SIGTERM)
    _, errors = running.communicate(timeout=120)
    assert running.returncode != 0
    assert "the same command goes on from there" in errors
    newest = max((cut / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    assert 5 < int(newest.name[11:]) < len(log_of(tmp_path / "whole"))
    if fsdp:
        # Each of the two has written its half of the weights, and of the moments.
        assert len(list(newest.glob("*/*.distcp"))) == 4
    else:
        shutil.copytree(cut, tmp_path / "one")
        fit(long, tmp_path / "one", progress=False)
        assert_alike(tmp_path / "whole", tmp_path / "one")
    four = start(4, long, "cut", "--json", fsdp=fsdp)
    _, errors = four.communicate(timeout=240)
    assert four.returncode == 0, errors
    assert_alike(tmp_path / "whole", cut)


def test_with_fsdp_bases_of_half_precision_are_spread_too(
    long: dict[str, Any], tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    long["training"] |= {"precision": "bf16"}
    fit(long, tmp_path / "alone", progress=False)
    running = start(2, long, "spread", "--json", fsdp=True)
    _, errors = running.communicate(timeout=240)
    assert running.returncode == 0, errors
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
    for node in two_nodes(tmp_path, long, other):
        _, errors = node.communicate(timeout=120)
        assert node.returncode == 2
        assert (
            "process 1 was given another general data and another recipe than process 0" in errors
        )
        assert "Traceback" not in errors


def test_whoever_loses_the_others_says_so(long: dict[str, Any], tmp_path: Path) -> None:
    broken = long | {"general": str(tmp_path / "missing.jsonl")}
    first, second = two_nodes(tmp_path, long, broken)
    _, errors = second.communicate(timeout=120)
    assert "missing.jsonl" in errors
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 2
    assert "process 0 of 2 has lost the others" in errors
    assert "Traceback" not in errors


def two_nodes(folder: Path, *recipes: dict[str, Any]) -> list[subprocess.Popen[str]]:
    """A process each, as two machines would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = []
    for rank, recipe in enumerate(recipes):
        path = folder / f"node-{rank}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        env = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": port}
        command = [sys.executable, "-m", "telltune", "fit", str(path), "--out", str(folder / "out")]
        nodes.append(process(command, MASTER_ADDR="127.0.0.1", **env))
    return nodes


def test_more_than_a_step_has_examples_are_too_many(
    long: dict[str, Any], start: Callable[..., subprocess.Popen[str]]
) -> None:
    long["training"] |= {"batch_size": 1}
    running = start(2, long, "many")
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "2 processes cannot share a step of" in errors
