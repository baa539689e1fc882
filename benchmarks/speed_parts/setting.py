"""What the parts have in common: sizes, places, the model and the recipe's values."""

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
    """How much of everything."""

    steps: int = 16
    """Optimizer steps of a row that counts; the first is warm-up."""
    screen: int = 4
    """Optimizer steps of a row that only finds the peer's best settings."""
    batch: int = 16
    """Examples in an optimizer step."""
    items: int = 200
    new_tokens: int = 32
    batches: tuple[int, ...] = (8, 32, 128)
    per_device: tuple[int, ...] = (1, 2, 4, 8, 16)
    packed: tuple[int, ...] = (1024, 2048)
    """Tokens in a row, where TRL packs. Never less than the longest example, which it would cut."""
    one_prompt: int = 64
    one_tokens: int = 64
    repeats: int = 3
    cost: tuple[int, ...] = (10_000, 30_000, 100_000, 1_000_000)
    gemm_seconds: float = 4.0

    @classmethod
    def quick(cls) -> Sizes:
        """Enough to see that all of it runs."""
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
    """Where everything is.

    Attributes:
        sizes: How much.
        work: Drawn work goes here; it is drawn once.
        ours: The python that has telltune.
        trl, llama_factory, llama_cpp: The peers' pythons, there or not.
    """

    sizes: Sizes
    work: Path
    ours: Path
    trl: Path
    llama_factory: Path
    llama_cpp: Path

    @cached_property
    def recipe(self) -> Recipe:
        """The demo's, as all trainers take it."""
        return load_recipe(draw.RECIPE, list(OVERRIDES))

    @cached_property
    def config(self) -> Any:
        """The model's."""
        return load_config(self.recipe.model)

    @cached_property
    def model(self) -> Path:
        """The model as an ordinary folder, for peers."""
        from telltune.models import files

        load_config(self.recipe.model)
        return Path(files.locate(self.recipe.model))

    @cached_property
    def dtype(self) -> str:
        """What ours computes in here: `auto` spelled out."""
        return "bf16" if native_bf16() else "fp32"

    @cached_property
    def peer_dtypes(self) -> tuple[str, ...]:
        """What peers are tried in: bf16 where the processor has it, since fp32 is slower there."""
        return ("bf16", "bf16_base") if native_bf16() else ("fp32",)

    @property
    def together(self) -> list[int]:
        """How many examples peers are tried with in one row, where they can."""
        return [size for size in self.sizes.per_device if size >= 4]

    def trained(self, workload: Path, steps: int) -> dict[str, Any]:
        """The arguments that all peers' trainers share."""
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
        """Our trainer's arguments."""
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
        """The steps that all trainers see."""
        steps = max(self.sizes.steps, self.sizes.screen)
        overrides = [f"training.batch_size={self.sizes.batch}"]
        return self._drawn("mixture.npz", draw.workload, steps, overrides)

    def long_mixture(self) -> Path:
        """The same with more general data, enough for the largest size of part `cost`."""
        overrides = ["mixture.leverage_ratio=110", f"training.batch_size={self.sizes.batch}"]
        return self._drawn("cost.npz", draw.workload, 2000, overrides)

    def adapter(self, task: str) -> tuple[Path, Path]:
        """An adapter folder, and the task's test items as messages."""
        folder, items = self.work / f"adapter-{task}", self.sizes.items
        if not (folder / "noisy").exists():
            _apart(draw.adapter, task, folder)
            (folder / "noisy").touch()
        path = self._drawn(f"prompts-{task}.json", draw.prompts, task, items, folder)
        return folder, path

    def prompt(self) -> Path:
        """One prompt of a fixed length."""
        return self._drawn("prompt.json", draw.one_prompt, self.sizes.one_prompt)

    def gguf(self) -> Path:
        """The file that the model comes from."""
        from telltune.models import files

        return files.embedded_gguf()

    def why_missing(self, python: Path) -> str:
        """Why a peer is not there: what pip said last, from the log that make leaves."""
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
    """Call it in a process of its own, so that none of its memory and threads stay here."""
    process = get_context("spawn").Process(target=function, args=asked)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed; see above.")
