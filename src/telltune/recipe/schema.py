"""What a recipe may say: every key, its default, its meaning and its bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from telltune.masking import holds_secret

__all__ = [
    "SHORTHANDS",
    "AnchorSpec",
    "Columns",
    "ConfidenceSpec",
    "DataSpec",
    "EngineName",
    "EvaluationSpec",
    "FewShotSpec",
    "GeneralChoiceSpec",
    "GeneralSpec",
    "LoraSpec",
    "LossAverage",
    "MixtureSpec",
    "ModelSpec",
    "Order",
    "Recipe",
    "SelectionSpec",
    "SynthesisSpec",
    "TaskSpec",
    "TrainingSpec",
]

Order = Literal["shuffled", "stratified", "task_first", "general_first"]
LossAverage = Literal["token", "example", "source"]
EngineName = Literal["auto", "packed", "transformers", "vllm"]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        # Infinity is a float to YAML, and no setting.
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    @field_validator("*")
    @classmethod
    def _can_be_written(cls, value: Any) -> Any:
        """Recipes are written into outputs and reports: no secrets, and no half characters."""
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                continue
            if holds_secret(text):
                raise ValueError(
                    "holds a token or password, which would be written into every output; give "
                    "it in the environment (HF_TOKEN) and take it out here"
                )
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError("has half a character (a lone surrogate); write the whole one")
        return value


def _short(key: str) -> BeforeValidator:
    """Let a plain string stand for a mapping with one key: `general: embedded`."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


class ModelSpec(_Part):
    """The base model."""

    name: str = "embedded"
    """`embedded`, a Hugging Face hub id, or a folder."""
    revision: str | None = None
    """Hub branch, tag or commit."""
    trust_remote_code: bool = False
    """Run code that ships with the model. Off unless you ask."""
    allow_pickle: bool = False
    """Read weights from pickle files (`.bin`, `.pt`), which can run code when they are opened."""


class Columns(_Part):
    """Which columns of the user's data hold what, where the schema is none of the usual ones."""

    prompt: str
    """The column with the input."""
    completion: str
    """The column with the wanted answer."""
    system: str | None = None
    """A column with a system text, if there is one."""
    confidence: str | None = None
    """A column with how far the answer can be trusted, above 0 and up to 1; see `confidence`."""


class DataSpec(_Part):
    """Where one data set lies."""

    path: str
    """A file (JSONL, JSON, CSV, Parquet), a folder of such, a hub id, or `embedded` (general)."""
    columns: Columns | None = None
    """Only for schemas that telltune does not know."""
    config: str | None = None
    """The hub data set's configuration."""
    split: str | None = None
    """The hub data set's split; `train` if not given."""
    rows: tuple[int, int] | None = None
    """Only the examples from the first number up to, not including, the second, from 0."""

    @field_validator("rows")
    @classmethod
    def _is_a_stretch(cls, rows: tuple[int, int] | None) -> tuple[int, int] | None:
        if rows is not None and not 0 <= rows[0] < rows[1]:
            raise ValueError("`rows` is [from, to], with 0 <= from < to")
        return rows


Data = Annotated[DataSpec, _short("path")]
DataList = Annotated[
    list[Data], BeforeValidator(lambda value: value if isinstance(value, list) else [value])
]


class TaskSpec(_Part):
    """The scarce data."""

    embedded: str | None = None
    """An embedded task with its own splits and anchor, instead of `train`."""
    train: DataList | None = Field(default=None, validate_default=True)
    """What to learn from."""
    dev: DataList | None = None
    """What to choose settings on."""
    dev_share: float | None = Field(default=None, gt=0, lt=1)
    """Hold out this share of `train` as dev instead, the same examples under every seed."""
    test: DataList | None = None
    """What to report on. Never seen in training or in a choice."""
    max_examples: PositiveInt | None = None
    """Use at most so many training examples, drawn by `seed`; smaller draws lie inside larger."""
    max_tokens: PositiveInt | None = None
    """Use at most so many task tokens (prompt and response), drawn by `seed`."""

    # Of a key, not of the whole: pydantic asks the whole only where all keys are right.
    @field_validator("train")
    @classmethod
    def _is_data_or_embedded(
        cls, train: list[DataSpec] | None, info: ValidationInfo
    ) -> list[DataSpec] | None:
        # `embedded` is not there where it is wrong itself.
        if "embedded" in info.data and (info.data["embedded"] is None) == (train is None):
            raise ValueError("give either `train` (your data) or `embedded` (a task by name)")
        return train

    @field_validator("dev_share")
    @classmethod
    def _has_no_dev(cls, share: float | None, info: ValidationInfo) -> float | None:
        if share is not None and (info.data.get("dev") or info.data.get("embedded")):
            raise ValueError("give it only to a task that has no dev data of its own")
        return share


class GeneralSpec(_Part):
    """The abundant data: general instructions and answers."""

    sources: DataList
    """Files, folders, hub ids, or `embedded`."""


class GeneralChoiceSpec(_Part):
    """Which general examples a mixture takes; without this, random ones."""

    take: Literal["nearest", "diverse"] = "nearest"
    """Those most like the task's examples, or those least like one another."""
    by: Literal["embeddings", "gradients"] = "embeddings"
    """Of sentences, or of what each example does to a fresh adapter."""
    candidates: PositiveInt = 2000
    """Choose among so many, drawn by `seed`."""
    embedding_model: str = "embedded"
    """`embedded` (all-MiniLM-L6-v2 from PyPI), a hub id, or a folder."""


def _as_sources(value: Any) -> Any:
    """One data set, or a list of them, stands for `sources`."""
    one = isinstance(value, str | list) or (isinstance(value, dict) and "path" in value)
    return {"sources": value} if one else value


class AnchorSpec(_Part):
    """A fixed text that goes with every task example, in training and at inference."""

    prompt: str
    """What opens the user turn, or stands in the system turn."""
    response: str = ""
    """What opens the answer. Given to the model at inference, and stripped before scoring."""
    place: Literal["user", "system"] = "user"
    """Where the prompt side goes."""


class MixtureSpec(_Part):
    """How much of what, and in which order."""

    leverage_ratio: float = Field(default=8.0, ge=0)
    """General tokens / distinct task tokens."""
    general_examples: int | None = Field(default=None, ge=0)
    """An explicit count, in place of the ratio."""
    passes: PositiveInt = 3
    """How often each task example appears."""
    order: Order = "shuffled"
    """`shuffled` is TELL's; the others are controls."""


class SelectionSpec(_Part):
    """Which task examples are used, and when, by what each is worth."""

    by: Literal["pvi", "memory"] = "pvi"
    """`pvi`: bits that the input tells of the answer; `memory`: how often the base says it."""
    folds: int = Field(default=5, ge=2)
    """PVI: each is scored by a model trained on the others."""
    in_context: int = Field(default=0, ge=0)
    """PVI: exemplars in the prompt in place of that training; 0 trains."""
    templates: list[str] = []
    """Memory: ways to put a question, each with `{prompt}`; four of telltune's if not given."""
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


class ConfidenceSpec(_Part):
    """How a task example's confidence c weighs in training; without this it does not."""

    by: Literal["column", "pvi"] = "column"
    """From `columns.confidence`, or from PVI under the settings of `selection`."""
    scale: Literal["output", "input", "both"] = "output"
    """`output` multiplies the example's loss by c, `input` the embeddings of its own prompt."""


class SynthesisSpec(_Part):
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


class LoraSpec(_Part):
    """The adapter (arXiv 2106.09685; values of arXiv 2408.10841)."""

    rank: PositiveInt = 16
    """r."""
    alpha: PositiveFloat = 16
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """PEFT's `target_modules`."""


class TrainingSpec(_Part):
    """How the adapter is trained."""

    full_parameters: bool = False
    """Train every weight in place of a LoRA adapter."""
    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up."""
    warmup_steps: int = Field(default=25, ge=0)
    """At most a tenth of the run, so that tiny runs are not all warm-up."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    batch_size: PositiveInt = 16
    """Examples in an optimizer step, over all processes."""
    micro_batch_tokens: PositiveInt = 1024
    """Tokens computed at once; a step's examples are packed into as many as it takes."""
    loss_average: LossAverage = "example"
    """Average over response tokens, over examples, or over sources."""
    task_weight: PositiveFloat = 1.0
    """Weight of task data."""
    general_weight: PositiveFloat = 1.0
    """Weight of general data."""
    source_weights: Literal["alf1", "alf2"] | None = None
    """Learn a weight for each data set along with the adapter, on top of those above."""
    max_length: PositiveInt = 2048
    """Longest example in tokens; never more than the model's context."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """What to do with a longer example. `truncate` cuts the response's end and says so."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 where the CPU or GPU computes it natively, else fp32."""
    gradient_checkpointing: bool = False
    """Less memory for more time."""
    save_steps: PositiveInt | None = None
    """Write a checkpoint every so many steps; by default ten in a run."""


class EvaluationSpec(_Part):
    """How a predictor is scored."""

    metrics: list[str] | None = None
    """Names from the metric registry, the headline first; chosen by the data if not given."""
    max_new_tokens: PositiveInt | None = None
    """Longest answer; by default a little over the longest training response."""
    max_items: PositiveInt | None = None
    """Score the first so many test items only, and say so."""
    batch_tokens: PositiveInt = 8192
    """Tokens in a generation batch."""
    answers: Literal["generate", "likelihood"] = "generate"
    """How an answer comes about: written, or the likeliest label of the training data's."""
    engine: EngineName = "auto"
    """What generates: `packed` (ours), `transformers`, `vllm`, or with `auto` the quickest."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of the intervals."""


class FewShotSpec(_Part):
    """Task examples shown in the prompt, for the method `few_shot`."""

    examples: PositiveInt | None = None
    """How many; by default as many as the model's context holds."""


class Recipe(_Part):
    """A whole run.

    Example:
        ```yaml
        model: embedded
        task: {train: tickets.jsonl, test: tickets-test.jsonl}
        general: embedded
        anchor: {prompt: "You route support tickets. Name the team, nothing else."}
        mixture: {leverage_ratio: 20, passes: 3, order: shuffled}
        ```
    """

    method: str = "tell"
    """Which method `tell fit` runs."""
    model: Annotated[ModelSpec, _short("name")] = ModelSpec()
    task: Annotated[TaskSpec, _short("embedded")]
    general: Annotated[
        GeneralSpec | None,
        BeforeValidator(_as_sources),
    ] = None
    general_choice: Annotated[GeneralChoiceSpec | None, _short("take")] = None
    anchor: Annotated[AnchorSpec | None, _short("prompt")] = None
    synthesis: Annotated[SynthesisSpec | None, _short("use_as")] = None
    selection: SelectionSpec | None = None
    confidence: Annotated[ConfidenceSpec | None, _short("by")] = None
    mixture: MixtureSpec = MixtureSpec()
    lora: LoraSpec = LoraSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    few_shot: FewShotSpec = FewShotSpec()
    seed: int = Field(default=0, ge=0, lt=2**32)

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        text: str = yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        return text


SHORTHANDS = {
    "model": "name",
    "task": "embedded",
    "anchor": "prompt",
    "general": "sources",
    "confidence": "by",
    "general_choice": "take",
    "synthesis": "use_as",
}
"""The key that a plain string stands for, by the key that it is given for."""
