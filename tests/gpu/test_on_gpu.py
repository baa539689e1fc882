"""On a GPU, fast paths compute what the plain model computes, and a CPU reads what was trained.

`benchmarks/gpu.py` runs these tests. TELLTUNE_TRY_GPU_TESTS=1 runs them on a CPU.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

import telltune
from telltune.data.task import load_split
from telltune.fitting.adapter_folder import load_predictor
from telltune.recipe import as_recipe
from telltune.training.log import LOG, read_log

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() or "TELLTUNE_TRY_GPU_TESTS" in os.environ), reason="no GPU"
)


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder / LOG) if "loss" in row]


def answers(folder: Path, recipe: dict[str, Any], engine: str) -> list[str]:
    predictor = load_predictor(folder)
    predictor.evaluation = predictor.evaluation.model_copy(update={"engine": engine})
    return list(predictor.predict(load_split(as_recipe(recipe), "test")))


@pytest.fixture
def tell(toy_recipe: dict[str, Any]) -> dict[str, Any]:
    return toy_recipe | {"method": "tell"}


@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-3), ("bf16", 0.05)])
def test_fast_training_has_the_losses_of_the_plain_model(
    tell: dict[str, Any], tmp_path: Path, precision: str, within: float
) -> None:
    found = {}
    for kernels in ("auto", "off"):
        tell["training"] |= {"kernels": kernels, "precision": precision}
        telltune.fit(tell, tmp_path / kernels, progress=False)
        found[kernels] = losses(tmp_path / kernels)
    assert len(found["auto"]) > 3
    assert all(map(math.isfinite, found["auto"]))
    assert found["auto"] == pytest.approx(found["off"], rel=within)
    assert found["auto"][-1] < found["auto"][0]


def test_the_packed_engine_answers_as_transformers_does(
    tell: dict[str, Any], tmp_path: Path
) -> None:
    telltune.fit(tell, tmp_path / "run", progress=False)
    packed = answers(tmp_path / "run", tell, "packed")
    assert packed == answers(tmp_path / "run", tell, "transformers")


def test_a_cpu_answers_as_the_gpu_does(tell: dict[str, Any], tmp_path: Path) -> None:
    telltune.fit(tell, tmp_path / "run", progress=False)
    told = [sys.executable, "-m", "telltune", "predict", str(tmp_path / "run"), "--file"]
    told += [tell["task"]["test"], "--out", str(tmp_path / "answers.jsonl")]
    subprocess.run(
        told, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, check=True, capture_output=True
    )
    rows = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    on_cpu = [json.loads(row)["prediction"] for row in rows]
    assert on_cpu == answers(tmp_path / "run", tell, "auto")


def test_a_quantized_base_learns(tell: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    tell["model"] = {"name": tell["model"], "quantization": "nf4"}
    telltune.fit(tell, tmp_path / "run", progress=False)
    found = losses(tmp_path / "run")
    assert found[-1] < found[0]
