"""What a recipe may say of the worth of data: chosen, made, ordered and weighed examples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from telltune.recipe.part import Part

__all__ = [
    "ConfidenceSpec",
    "GeneralChoiceSpec",
    "MetaSpec",
    "ProductSpec",
    "PseudoLabelSpec",
    "SelectionSpec",
    "SynthesisSpec",
]


class GeneralChoiceSpec(Part):
    """Which general examples a mixture takes; without this, random ones."""

    take: Literal["nearest", "diverse"] = "nearest"
    """Those most like the task's examples, or those least like one another."""
    by: Literal["embeddings", "gradients"] = "embeddings"
    """Of sentences, or of what each example does to a fresh adapter."""
    candidates: PositiveInt = 2000
    """Choose among so many, drawn by `seed`."""
    embedding_model: str = "embedded"
    """`embedded` (all-MiniLM-L6-v2 from PyPI), a hub id, or a folder."""


class SynthesisSpec(Part):
    """Task data that the model makes itself, from those that there are."""

    make: Literal["examples", "auxiliary"] = "examples"
    """More `examples` (SELF-GUIDE), or what decides each answer and why (MT-ISA)."""
    examples: PositiveInt = 200
    """How many examples to make; fewer come where the rounds do not yield them."""
    rounds: PositiveInt = 20
    """Of writing 32 inputs, at most."""
    temperature: PositiveFloat = 0.8
    """At which inputs are written."""
    samples: PositiveInt = 10
    """Answers to each input, at temperature 0.2."""
    shots: PositiveInt = 8
    """Demonstrations shown before each of them."""
    consistency: float = Field(default=0.3, gt=0, le=1)
    """Least share of samples that agree on an answer."""
    use_as: Literal["task", "general", "third", "only"] = "task"
    """As task data, in place of general data, beside both, or `only`: alone, with demonstrations
    in the prompt, as published."""


class PseudoLabelSpec(Part):
    """Training examples from unlabeled inputs, for which `task.unlabeled` is needed."""

    by: Literal["auto", "encoder", "tfidf", "model"] = "auto"
    """Who labels: classes of a sentence encoder or of words in TF-IDF (closed labels), or adapters
    of the model that agree. `auto` lets folds of the labeled examples choose among the first two,
    and takes the model where they know nothing or the answers are no labels."""
    examples: PositiveInt = 400
    """Most examples to make: the most confident of each label by its share, or as many inputs as
    the adapters are asked."""
    adapters: int = Field(default=2, ge=2)
    """`model`: how many are trained, each with another seed; what all of them answer is kept."""


class ProductSpec(Part):
    """Answers with the label that the adapter and a small classifier together find likeliest."""

    by: Literal["auto", "encoder", "tfidf"] = "auto"
    """What the classifier reads: vectors of a sentence encoder, words in TF-IDF, or with `auto`
    what folds of the labeled examples choose."""


class SelectionSpec(Part):
    """Which task examples are used, and when, by what each is worth."""

    by: Literal["pvi", "memory"] = "pvi"
    """`pvi`: bits that the input tells of the answer; `memory`: how often the base says it."""
    folds: int = Field(default=5, ge=2)
    """PVI: each is scored by a model trained on the others."""
    in_context: int = Field(default=0, ge=0)
    """PVI: exemplars in the prompt in place of that training; 0 trains."""
    templates: list[str] = Field(default=[])
    """Memory: ways to put a question, each with `{prompt}`; four of telltune's if not given."""
    proposed_templates: int = Field(default=0, ge=0)
    """Memory: let the model write up to so many more."""
    samples: PositiveInt = 10
    """Memory: completions of each question by each template."""
    aliases: str | None = None
    """Memory: a JSON file with other names by answer."""
    levels: list[int] | None = None
    """Memory: use examples of these levels only, from 0 (never said) to 4 (nearly always)."""
    drop_easiest: float = Field(default=0, ge=0, lt=1)
    """Leave out this share of the examples, those with the highest score."""
    drop_hardest: float = Field(default=0, ge=0, lt=1)
    """Leave out this share, those with the lowest: wrong labels are among them."""
    examples: PositiveInt | None = None
    """Of those left, use so many, drawn by `seed`."""
    order: Literal["easy_first", "hard_first"] | None = None
    """Each pass goes through the task data by score, in the places that the mixture gives them."""

    @field_validator("templates")
    @classmethod
    def _hold_the_question(cls, templates: list[str]) -> list[str]:
        for template in templates:
            if "{prompt}" not in template:
                raise ValueError(f"`{template}` has no {{prompt}}, where the question goes")
        return templates

    @field_validator("levels")
    @classmethod
    def _are_of_memory(cls, levels: list[int] | None, info: ValidationInfo) -> list[int] | None:
        if levels is not None and info.data.get("by") != "memory":
            raise ValueError("levels are those of `by: memory`; PVI has none")
        if levels is not None and not (levels and set(levels) <= set(range(5))):
            raise ValueError("levels are numbers from 0 to 4, one at least")
        return levels

    @field_validator("drop_hardest")
    @classmethod
    def _leaves_some(cls, share: float, info: ValidationInfo) -> float:
        if share + info.data.get("drop_easiest", 0) >= 1:
            raise ValueError("with `drop_easiest` it leaves no example; the two are below 1")
        return share


class ConfidenceSpec(Part):
    """How a task example's confidence c weighs in training; without this it does not."""

    by: Literal["column", "pvi"] = "column"
    """From `columns.confidence`, or from PVI under the settings of `selection`."""
    scale: Literal["output", "input", "both"] = "output"
    """`output` multiplies the example's loss by c, `input` the embeddings of its prompt."""


class MetaSpec(Part):
    """A start of the adapter that is learned on general data, a source of them being a task."""

    algorithm: Literal["maml", "fomaml", "reptile"] = "reptile"
    """`maml` differentiates through the inner steps, the other two do not."""
    sampling: Literal["uniform", "proportional", "mixed"] = "proportional"
    """How often a source is visited: all alike, by its size, or in between."""
    steps: PositiveInt = 100
    """Of the start."""
    tasks_per_step: PositiveInt = 2
    """Sources visited for each."""
    inner_steps: PositiveInt = 4
    """Of gradient descent on a visit."""
    batch_size: PositiveInt = 8
    """Examples in each."""
    inner_learning_rate: PositiveFloat = 0.1
    """Of gradient descent."""
    learning_rate: PositiveFloat = 1e-3
    """Of the start, by Adam."""
    examples: PositiveInt = 2000
    """General examples to learn on, the first that `seed` draws."""
