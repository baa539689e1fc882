"""Settings shared by the parts: sizes, paths, the model and the recipe's values."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speed_parts import draw
from telltune.models import load_config, native_bf16
from telltune.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = ("medical_specialty", "mention_json")
# Averaged over tokens and without warm-up, as the peers do it, so that losses can be compared; no
# checkpoint is written, as none of the peers is asked for one.
OVERRIDES = (
    "training.loss_average=token",
    "training.warmup_steps=0",
    "training.save_steps=1000000",
)


@dataclass(frozen=True)
class Sizes:
    """Numbers of steps, items and repeats."""

    steps: int = 16
    """Number of optimizer steps of a row that counts; the first is a warm-up."""
    screen: int = 4
    """Number of optimizer steps of a row that only finds a peer's best settings."""
    batch: int = 16
    """Number of examples per optimizer step."""
    items: int = 200
    new_tokens: int = 32
    batches: tuple[int, ...] = (8, 32, 128)
    per_device: tuple[int, ...] = (1, 2, 4, 8, 16)
    packed: tuple[int, ...] = (1024, 2048)
    """Numbers of tokens per row where TRL packs, never less than the longest example."""
    one_prompt: int = 64
    one_tokens: int = 64
    repeats: int = 3
    cost: tuple[int, ...] = (10_000, 30_000, 100_000, 1_000_000)
    gemm_seconds: float = 4.0

    @classmethod
    def quick(cls) -> Sizes:
        """Return the smallest sizes that run everything."""
        return replace(
            cls(),
            steps=2,
            screen=2,
            items=4,
            batches=(2, 4),
            batch=4,
            per_device=(4,),
            packed=(64,),
            repeats=1,
            new_tokens=8,
            one_tokens=8,
            cost=(500, 1500),
            gemm_seconds=0.3,
        )


@dataclass(frozen=True)
class Setting:
    """Settings of a comparison.

    Attributes:
        sizes: Numbers of steps, items and repeats.
        work: Folder for the drawn work, which is drawn once.
        ours: Python in which telltune is installed.
        trl, llama_factory, llama_cpp: Pythons of the peers, which may not exist.
    """

    sizes: Sizes
    work: Path
    ours: Path
    trl: Path
    llama_factory: Path
    llama_cpp: Path

    @cached_property
    def recipe(self) -> Recipe:
        """Recipe of the demo, with the settings for all trainers."""
        return load_recipe(draw.RECIPE, list(OVERRIDES))

    @cached_property
    def config(self) -> Any:
        """Configuration of the model."""
        return load_config(self.recipe.model)

    @cached_property
    def model(self) -> Path:
        """Folder of the model, for peers."""
        from telltune.models import files

        load_config(self.recipe.model)
        return Path(files.locate(self.recipe.model))

    @cached_property
    def dtype(self) -> str:
        """Precision in which telltune computes here, as `auto` chooses it."""
        return "bf16" if native_bf16() else "fp32"

    @cached_property
    def peer_dtypes(self) -> tuple[str, ...]:
        """Precisions for peers: bf16 if the processor supports it, since fp32 is slower there."""
        return ("bf16", "bf16_base") if native_bf16() else ("fp32",)

    @property
    def together(self) -> list[int]:
        """Numbers of examples per row that are tried with peers that can pack."""
        return [size for size in self.sizes.per_device if size >= 4]

    def trained(self, workload: Path, steps: int) -> dict[str, Any]:
        """Return the arguments that all peers' trainers share."""
        recipe = self.recipe
        return {
            "workload": workload,
            "steps": steps,
            "model": self.model,
            "learning_rate": recipe.training.learning_rate,
            "weight_decay": recipe.training.weight_decay,
            "max_grad_norm": recipe.training.max_grad_norm,
            "seed": recipe.seed,
            "lora": {
                "r": recipe.lora.rank,
                "lora_alpha": recipe.lora.alpha,
                "lora_dropout": recipe.lora.dropout,
                "target_modules": recipe.lora.target_modules,
            },
        }

    def ours_trained(self, workload: Path, steps: int) -> dict[str, Any]:
        """Return the arguments of telltune's trainer."""
        return {
            "workload": workload,
            "steps": steps,
            "recipe": draw.RECIPE,
            "overrides": [
                *OVERRIDES,
                f"training.precision={self.dtype}",
                f"training.batch_size={self.sizes.batch}",
            ],
        }

    def mixture(self) -> Path:
        """Return the file of the steps that all trainers run."""
        steps = max(self.sizes.steps, self.sizes.screen)
        overrides = [f"training.batch_size={self.sizes.batch}"]
        return self._drawn("mixture.npz", draw.workload, steps, overrides)

    def long_mixture(self) -> Path:
        """Return a file of steps with more general data, for the largest size of part `cost`."""
        overrides = ["mixture.leverage_ratio=110", f"training.batch_size={self.sizes.batch}"]
        return self._drawn("cost.npz", draw.workload, 2000, overrides)

    def adapter(self, task: str) -> tuple[Path, Path]:
        """Return an adapter folder, and the file of the task's test items as messages."""
        folder, items = self.work / f"adapter-{task}", self.sizes.items
        if not (folder / "noisy").exists():
            _apart(draw.adapter, task, folder)
            (folder / "noisy").touch()
        path = self._drawn(f"prompts-{task}.json", draw.prompts, task, items, folder)
        return folder, path

    def prompt(self) -> Path:
        """Return the file of one prompt of a fixed length."""
        return self._drawn("prompt.json", draw.one_prompt, self.sizes.one_prompt)

    def gguf(self) -> Path:
        """Return the file from which the model is converted."""
        from telltune.models import files

        return files.embedded_gguf()

    def why_missing(self, python: Path) -> str:
        """Return why a peer is not installed: the last error of pip in the log from make."""
        venv = python.parents[1]
        log = venv.with_name(venv.name + ".log")
        if not log.is_file():
            return f"{venv.name} is missing"
        said = [s.strip() for s in log.read_text(encoding="utf-8").splitlines() if s.strip()]
        reason = next((s for s in reversed(said) if "ERROR" in s), said[-1] if said else "no word")
        return f"does not install: {reason[:300]}"

    def _drawn(self, name: str, make: Callable[..., None], *asked: Any) -> Path:
        path = self.work / name
        drawn = self.work / f"{name}.drawn"
        wanted = json.dumps([str(value) for value in asked])
        if not path.exists() or not drawn.exists() or drawn.read_text() != wanted:
            _apart(make, *asked, path)
            drawn.write_text(wanted)
        return path


def _apart(function: Callable[..., None], *asked: Any) -> None:
    """Call a function in a separate process, which takes its memory and threads with it."""
    process = get_context("spawn").Process(target=function, args=asked)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed; see above.")
