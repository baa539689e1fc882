"""telltune: adapt a language model with few labeled data.

    import telltune

    recipe = telltune.load_recipe("recipes/tickets.yaml")
    adapter = telltune.fit(recipe, "runs/tickets")
    print(telltune.evaluate("runs/tickets").scores)
    print(telltune.predict("runs/tickets", ["My invoice is wrong."]))

Every name is imported on first use, so that `import telltune` is fast.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from telltune.version import VERSION

if TYPE_CHECKING:
    from telltune.api import (
        anchor,
        check,
        evaluate,
        fit,
        plan,
        plan_study,
        predict,
        report,
        run_study,
        show,
    )
    from telltune.classifiers.picking import pick
    from telltune.errors import TellError
    from telltune.exporting.export import export
    from telltune.proposal.write import write_recipe
    from telltune.recipe import Recipe, load_recipe
    from telltune.study.compare import compare
    from telltune.study.example_scores import score_examples
    from telltune.study.recommend import recommend
    from telltune.study.synthetic_file import write_synthetic
    from telltune.verification import verify

# GNU OpenMP reads this variable once, when torch is imported. By default its threads spin 300,000
# times (about 7 ms) before they sleep, which takes the core from the threads that they wait for.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = VERSION

__all__ = [
    "Recipe",
    "TellError",
    "anchor",
    "check",
    "compare",
    "evaluate",
    "export",
    "fit",
    "load_recipe",
    "pick",
    "plan",
    "plan_study",
    "predict",
    "recommend",
    "report",
    "run_study",
    "score_examples",
    "show",
    "verify",
    "write_recipe",
    "write_synthetic",
]

_HOMES = {
    "Recipe": "telltune.recipe",
    "TellError": "telltune.errors",
    "compare": "telltune.study.compare",
    "export": "telltune.exporting.export",
    "load_recipe": "telltune.recipe",
    "pick": "telltune.classifiers.picking",
    "recommend": "telltune.study.recommend",
    "score_examples": "telltune.study.example_scores",
    "verify": "telltune.verification",
    "write_recipe": "telltune.proposal.write",
    "write_synthetic": "telltune.study.synthetic_file",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'telltune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "telltune.api")), name)
