"""The number of threads follows the free cores, unless the user has set it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from telltune.models import threads
from telltune.models.kernels.packing import pack, token_nll
from telltune.models.threads import adapt_threads, cpu_limit, shared_cores, threads_for

if TYPE_CHECKING:
    from pathlib import Path

CORES = len(os.sched_getaffinity(0))


def machine(root: Path, cgroup: str, **files: str) -> Path:
    """Return a root folder with a process's cgroup and the given files of `sys/fs/cgroup`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        # Version 2: in a container, below one, and a job within a service.
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "25000 100000\n"}, 0.25),
        ("0::/a\n", {"a/cpu.max": "80000 100000", "cpu.max": "60000 100000"}, 0.6),
        # Version 1, also if the path is the host's and the container sees only its own root.
        (
            "4:cpu,cpuacct:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "40000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            0.4,
        ),
        (
            "3:cpuset:/\n2:cpu:/docker/3f\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "70000", "cpu/cpu.cfs_period_us": "100000"},
            0.7,
        ),
        # Both versions at once.
        ("1:cpu:/\n0::/x\n", {"unified/x/cpu.max": "30000 100000"}, 0.3),
        # Nothing is limited, or nothing can be read.
        ("0::/\n", {"cpu.max": "max 100000\n"}, CORES),
        (
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            CORES,
        ),
        ("0::/\n", {"cpu.max": ""}, CORES),
        ("0::/gone\n", {}, CORES),
        ("0::/\n", {"cpu.max": "9900000 100000"}, CORES),
    ],
)
def test_a_containers_quota_is_the_limit(
    tmp_path: Path, cgroup: str, files: dict[str, str], limit: float
) -> None:
    assert cpu_limit(machine(tmp_path, cgroup, **files)) == pytest.approx(limit)


def test_without_cgroups_the_affinity_is_the_limit(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path) == CORES


def test_the_affinity_is_respected() -> None:
    code = (
        "import os\n"
        "from telltune.models.threads import cpu_limit\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print(cpu_limit())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    assert done.stdout.split() == [b"1"]


@given(st.integers(1, 256), st.floats(-8, 256))
def test_the_number_of_threads_settles_at_the_cores_that_are_free(before: int, free: float) -> None:
    count = threads_for(before, free)
    assert count == threads_for(count, free)  # the same load does not change the number again
    assert count >= 1
    if free >= 1:
        assert abs(count - free) < 1


@pytest.mark.parametrize(
    ("cores", "others", "threads"),
    [
        (2, 0.05, 2),  # alone
        (2, 0.67, 1),  # one busy process, which has a third of the machine beside two threads
        (2, 1.0, 1),
        (2, 2.0, 1),
        (16, 1.0, 15),
        (16, 14.2, 2),
    ],
)
def test_a_busy_process_takes_a_thread(cores: int, others: float, threads: int) -> None:
    assert threads_for(cores, cores - others) == threads


def test_a_thread_is_taken_back_only_when_the_core_is_free() -> None:
    assert [threads_for(1, 2 - others) for others in (0.6, 0.3, 0.1)] == [1, 1, 2]
    assert [threads_for(2, 2 - others) for others in (0.1, 0.3, 0.6)] == [2, 2, 1]


@pytest.fixture
def nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove settings of the number of threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_SHARE", threads._Share())
    torch.set_num_threads(CORES)  # the fixture `one_thread` resets it


@pytest.mark.skipif(CORES < 2, reason="one core has nothing to give up")
@pytest.mark.usefixtures("nobody_chose")
def test_beside_busy_processes_fewer_threads_compute() -> None:
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(CORES)]
    try:
        with shared_cores():
            end = time.monotonic() + 30
            while torch.get_num_threads() == CORES and time.monotonic() < end:
                adapt_threads()
                time.sleep(0.05)
            assert torch.get_num_threads() < CORES
        assert torch.get_num_threads() == CORES
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.usefixtures("nobody_chose")
def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    share = threads._SHARE
    share.others = float(CORES)  # no core is free
    torch.set_num_threads(CORES + 1)
    with shared_cores():
        adapt_threads()
        assert torch.get_num_threads() == CORES + 1
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(CORES))
            torch.set_num_threads(CORES)
            with shared_cores():
                adapt_threads()
                assert torch.get_num_threads() == CORES


def test_looking_at_the_machine_takes_less_than_a_hundredth() -> None:
    share = threads._Share()
    share.look()
    began = time.process_time()
    for _ in range(20):
        share._last = (share._last[0] - 1.0, *share._last[1:])
        share.look()
    assert (time.process_time() - began) / 20 < 0.01 * threads._LOOK


def test_the_number_of_threads_changes_no_bit_of_a_gradient() -> None:
    """A run on a busy machine therefore gives the same result as on an idle one."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2048,
            hidden_size=256,
            intermediate_size=640,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    ids = torch.randint(0, 2048, (6, 150), dtype=torch.int32).numpy()
    rows = [(row[: 60 + 15 * place], 20) for place, row in enumerate(ids)]
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        model.zero_grad()
        for batch in pack(rows, 2048, together=False):
            token_nll(model, batch).sum().backward()  # type: ignore[no-untyped-call]
        found.append([parameter.grad.clone() for parameter in model.parameters()])
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        found[-1].append(norm)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@pytest.mark.usefixtures("nobody_chose")
def test_within_itself_the_choice_goes_on() -> None:
    share = threads._SHARE
    with shared_cores():
        with shared_cores():  # such as the dev items that are scored within training
            pass
        share.others = float(CORES)
        share._last = (time.monotonic(), *share._last[1:])
        adapt_threads()
        assert torch.get_num_threads() == 1
