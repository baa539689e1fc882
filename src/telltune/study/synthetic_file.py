"""Task data that the model makes, in a file that a recipe can name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from telltune.data.task import load_task
from telltune.methods.output_folder import alone, claim, record_recipe
from telltune.methods.selection import usable
from telltune.models import load_base
from telltune.recipe import SynthesisSpec, as_recipe
from telltune.storage import write_json, write_text
from telltune.synthesis import synthesize
from telltune.synthesis.auxiliary import Refined, auxiliary_examples, refine
from telltune.synthesis.self_guide import instruction_of
from telltune.training.progress import phase

if TYPE_CHECKING:
    from telltune.data.examples import Example
    from telltune.recipe import AnyRecipe
    from telltune.synthesis.self_guide import Yield

__all__ = ["SYNTHETIC", "Written", "write_synthetic"]

SYNTHETIC = "synthetic.jsonl"
_YIELD = "yield.json"


@dataclass(frozen=True)
class Written:
    """What was made, and what became of the rest."""

    examples: tuple[Example, ...]
    told: Yield | Refined


def write_synthetic(
    recipe: AnyRecipe, *, out: str | Path, overwrite: bool = False, progress: bool = True
) -> Written:
    """Let the model make task data of the examples that the recipe may use.

    A call that was cut short goes on, when called again, with the round where it was.

    Args:
        recipe: A file, a dictionary or a `Recipe`; its `synthesis` says how many and how.
        out: Where synthetic.jsonl goes, a row an example with `prompt`, `completion` and
            `confidence`, and yield.json with what was refused.
        overwrite: Begin anew where another recipe's are.
        progress: Show a bar.

    Raises:
        DataError: Too few demonstrations, or nothing is left; says by which filter.
        StorageError: The folder holds something else.
    """
    recipe, out = as_recipe(recipe), Path(out)
    spec = recipe.synthesis or SynthesisSpec()
    with alone(out):
        claim(out, recipe, overwrite=overwrite)
        task = load_task(recipe)
        with phase("loading the model", shown=progress):
            base = load_base(recipe.model, recipe.training.precision)
        record_recipe(out, recipe, overwrite=overwrite)
        real = usable(task, base, recipe)
        instruction = instruction_of(task.anchor.prompt if task.anchor else None)
        if spec.make == "auxiliary":
            chains = refine(base, real, instruction, seed=recipe.seed)
            written = Written(tuple(auxiliary_examples(real, chains)), Refined.of(chains))
        else:
            made = synthesize(base, real, instruction, spec, seed=recipe.seed, progress=progress)
            written = Written(made.examples, made.told)
        rows = [
            {
                "prompt": example.prompt,
                "completion": example.completion,
                "confidence": round(example.confidence, 4),
            }
            for example in written.examples
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(out / SYNTHETIC, text)
        write_json(out / _YIELD, asdict(written.told))
    return written
