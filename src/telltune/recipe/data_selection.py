"""Recipe keys for selecting, generating, ordering and weighting examples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from telltune.recipe.base import ConfigModel


class GeneralChoiceSpec(ConfigModel):
    """Choice of general examples for the mixture; by default they are random."""

    take: Literal["nearest", "diverse"] = "nearest"
    """`nearest` takes the examples most similar to the task's; `diverse` those least similar to one
    another."""
    by: Literal["embeddings", "gradients"] = "embeddings"
    """Similarity measure: sentence `embeddings`, or `gradients` of each example on a fresh adapter.
    """
    candidates: PositiveInt = 2000
    """Number of candidate examples, drawn by `seed`."""
    embedding_model: str = "embedded"
    """`embedded` (all-MiniLM-L6-v2 from PyPI), a hub id, or a folder."""


class SynthesisSpec(ConfigModel):
    """Generation of task data by the model itself or a teacher, from the given examples."""

    make: Literal["examples", "auxiliary"] = "examples"
    """`examples` generates task examples (SELF-GUIDE); `auxiliary` explains each answer (MT-ISA).
    """
    by: Literal["model", "teacher"] = "model"
    """Writer of the texts: the base `model` itself, or the recipe's `teacher`."""
    examples: PositiveInt = 200
    """Number of examples to generate; fewer if the rounds do not yield them."""
    rounds: PositiveInt = 20
    """Maximum number of rounds, each of which generates 32 inputs."""
    temperature: PositiveFloat = 0.8
    """Sampling temperature for inputs."""
    samples: PositiveInt = 10
    """Number of answers sampled per input, at temperature 0.2."""
    shots: PositiveInt = 8
    """Maximum number of demonstrations per prompt."""
    consistency: float = Field(default=0.3, gt=0, le=1)
    """Minimum share of samples that must agree on an answer."""
    use_as: Literal["task", "general", "third", "only"] = "task"
    """`task` adds the examples to the task data, `general` replaces general data, `third` adds a
    third source. `only` trains on them alone, with demonstrations in the prompt, as published."""


class PseudoLabelSpec(ConfigModel):
    """Pseudo-labeled training examples from the inputs in `task.unlabeled`."""

    by: Literal["auto", "encoder", "tfidf", "combined", "model"] = "auto"
    """Labeler: for closed labels a classifier on sentence vectors (`encoder`), words (`tfidf`) or
    both (`combined`), or agreeing adapters of the `model`. `auto` chooses a classifier by
    cross-validation, and uses the model if the answers are not labels."""
    examples: PositiveInt = 400
    """Maximum number of pseudo-labeled examples. Classifiers keep the most confident of each label,
    in proportion to its share. With `model`, it is the number of inputs to label."""
    adapters: int = Field(default=2, ge=2)
    """With `model`: number of adapters, each trained with another seed. Only answers on which all
    agree are kept."""


class ProductSpec(ConfigModel):
    """Product of experts: the label that is most likely under adapter and classifier together."""

    by: Literal["auto", "encoder", "tfidf", "combined"] = "auto"
    """Features of the classifier: sentence vectors (`encoder`), words (`tfidf`) or both
    (`combined`); `auto` chooses by cross-validation on the labeled examples."""


class SelectionSpec(ConfigModel):
    """Selection and order of task examples by score."""

    by: Literal["pvi", "memory"] = "pvi"
    """`pvi`: bits of information about the answer in the input. `memory`: how often the base model
    gives the answer."""
    folds: int = Field(default=5, ge=2)
    """PVI: number of folds; each is scored by a model trained on the others."""
    in_context: int = Field(default=0, ge=0)
    """PVI: number of exemplars in the prompt instead of training; 0 trains."""
    templates: list[str] = Field(default=[])
    """Memory: templates of a question, each with `{prompt}`; by default four built-in ones."""
    proposed_templates: int = Field(default=0, ge=0)
    """Memory: maximum number of additional templates written by the model."""
    samples: PositiveInt = 10
    """Memory: number of completions per question and template."""
    aliases: str | None = None
    """Memory: JSON file with alternative names for answers."""
    levels: list[int] | None = None
    """Memory: levels of the examples to use, from 0 (never recalled) to 4 (nearly always)."""
    drop_easiest: float = Field(default=0, ge=0, lt=1)
    """Share of examples to drop, those with the highest scores."""
    drop_hardest: float = Field(default=0, ge=0, lt=1)
    """Share of examples to drop, those with the lowest scores, which include wrong labels."""
    examples: PositiveInt | None = None
    """Number of remaining examples to use, drawn by `seed`."""
    order: Literal["easy_first", "hard_first"] | None = None
    """Order of the task data by score in each pass, in the positions given by the mixture."""

    @field_validator("templates")
    @classmethod
    def _hold_the_question(cls, templates: list[str]) -> list[str]:
        for template in templates:
            if "{prompt}" not in template:
                raise ValueError(f"`{template}` must contain {{prompt}}, the place of the question")
        return templates

    @field_validator("levels")
    @classmethod
    def _are_of_memory(cls, levels: list[int] | None, info: ValidationInfo) -> list[int] | None:
        if levels is not None and info.data.get("by") != "memory":
            raise ValueError("levels require `by: memory`; PVI has none")
        if levels is not None and not (levels and set(levels) <= set(range(5))):
            raise ValueError("levels must be one or more numbers from 0 to 4")
        return levels

    @field_validator("drop_hardest")
    @classmethod
    def _leaves_some(cls, share: float, info: ValidationInfo) -> float:
        if share + info.data.get("drop_easiest", 0) >= 1:
            raise ValueError("its sum with `drop_easiest` must be below 1, to leave examples")
        return share


class ConfidenceSpec(ConfigModel):
    """Weighting of task examples by their confidence c; by default there is none."""

    by: Literal["column", "pvi"] = "column"
    """Source of the confidence: `columns.confidence`, or PVI with the settings of `selection`."""
    scale: Literal["output", "input", "both"] = "output"
    """`output` multiplies the example's loss by c, `input` the embeddings of its prompt; `both`
    does both."""


class MetaSpec(ConfigModel):
    """Meta-learned initial weights of the adapter, with each general source as one task."""

    algorithm: Literal["maml", "fomaml", "reptile"] = "reptile"
    """`maml` differentiates through the inner steps; `fomaml` and `reptile` do not."""
    sampling: Literal["uniform", "proportional", "mixed"] = "proportional"
    """Frequency of each source: `uniform`, `proportional` to its size, or `mixed`, their mean."""
    steps: PositiveInt = 100
    """Number of meta-learning steps."""
    tasks_per_step: PositiveInt = 2
    """Number of sources per meta-learning step."""
    inner_steps: PositiveInt = 4
    """Number of gradient descent steps on each source."""
    batch_size: PositiveInt = 8
    """Number of examples per inner step."""
    inner_learning_rate: PositiveFloat = 0.1
    """Learning rate of the inner steps."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of the meta-learning steps (Adam)."""
    examples: PositiveInt = 2000
    """Number of general examples to learn from, the first drawn by `seed`."""
