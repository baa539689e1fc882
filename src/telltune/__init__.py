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
from typing import TYPE_CHECKING, Any

from telltune.version import VERSION

if TYPE_CHECKING:
    from telltune.answering import evaluate, predict
    from telltune.api import anchor, check, fit, plan, show
    from telltune.classifiers.picking import pick
    from telltune.errors import TellError
    from telltune.exporting.export import export
    from telltune.proposal.recipe_of import recipe_for
    from telltune.proposal.write import write_recipe
    from telltune.recipe import Recipe, load_recipe
    from telltune.research.streams.cascade import Cascade
    from telltune.research.streams.records import CascadeAnswer
    from telltune.research.streams.spec import CascadeSpec
    from telltune.study.compare import compare
    from telltune.study.example_scores import score_examples
    from telltune.study.recommend import recommend
    from telltune.study.synthetic_file import write_synthetic
    from telltune.study.verbs import plan_study, report, run_study
    from telltune.tell_classifier import TellClassifier
    from telltune.verification import verify

__version__ = VERSION

__all__ = [
    "Cascade",
    "CascadeAnswer",
    "CascadeSpec",
    "Recipe",
    "TellClassifier",
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
    "recipe_for",
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
    "Cascade": "telltune.research.streams.cascade",
    "CascadeAnswer": "telltune.research.streams.records",
    "CascadeSpec": "telltune.research.streams.spec",
    "Recipe": "telltune.recipe",
    "TellClassifier": "telltune.tell_classifier",
    "TellError": "telltune.errors",
    "anchor": "telltune.api",
    "check": "telltune.api",
    "compare": "telltune.study.compare",
    "evaluate": "telltune.answering",
    "export": "telltune.exporting.export",
    "fit": "telltune.api",
    "load_recipe": "telltune.recipe",
    "pick": "telltune.classifiers.picking",
    "plan": "telltune.api",
    "plan_study": "telltune.study.verbs",
    "predict": "telltune.answering",
    "recipe_for": "telltune.proposal.recipe_of",
    "recommend": "telltune.study.recommend",
    "report": "telltune.study.verbs",
    "run_study": "telltune.study.verbs",
    "score_examples": "telltune.study.example_scores",
    "show": "telltune.api",
    "verify": "telltune.verification",
    "write_recipe": "telltune.proposal.write",
    "write_synthetic": "telltune.study.synthetic_file",
}
"""Module of each name."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'telltune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
