"""What a recipe may say: every key, its default, its meaning and its bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    ValidationInfo,
    field_validator,
)

from telltune.recipe.mistakes import NUMBER
from telltune.recipe.part import Part, short
from telltune.recipe.worth import (
    ConfidenceSpec,
    GeneralChoiceSpec,
    MetaSpec,
    ProductSpec,
    PseudoLabelSpec,
    SelectionSpec,
    SynthesisSpec,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "SHORTHANDS",
    "AnchorSpec",
    "Columns",
    "DataSpec",
    "EngineName",
    "EvaluationSpec",
    "FewShotSpec",
    "GeneralSpec",
    "LoraSpec",
    "LossAverage",
    "MixtureSpec",
    "ModelSpec",
    "Order",
    "OverPromptSpec",
    "Quoting",
    "Recipe",
    "TaskSpec",
    "TrainingSpec",
    "as_number",
]

T = TypeVar("T", int, float)

Order = Literal["shuffled", "stratified", "task_first", "general_first"]
LossAverage = Literal["token", "example", "source"]
Quoting = Literal["auto", "minimal", "none"]
EngineName = Literal["auto", "packed", "transformers", "vllm"]
AutoInt = Annotated[
    Annotated[PositiveInt, Tag(NUMBER)] | Annotated[Literal["auto"], Tag("auto")],
    Discriminator(lambda value: "auto" if value == "auto" else NUMBER),
]
"""A whole number, or `auto`; see `telltune.training.defaults`."""
AutoFloat = Annotated[
    Annotated[PositiveFloat, Tag(NUMBER)] | Annotated[Literal["auto"], Tag("auto")],
    Discriminator(lambda value: "auto" if value == "auto" else NUMBER),
]
"""A number, or `auto`."""


def as_number(value: T | Literal["auto"]) -> T:
    """Return a setting that is a number by now: `telltune.training.defaults.resolve` was called."""
    assert value != "auto"
    return value


class ModelSpec(Part):
    """The base model."""

    name: str = "embedded"
    """`embedded`, a Hugging Face hub id, or a folder."""
    revision: str | None = None
    """Hub branch, tag or commit."""
    trust_remote_code: bool = False
    """Run code that ships with the model. Off unless you ask."""
    allow_pickle: bool = False
    """Read weights from pickle files (`.bin`, `.pt`), which can run code when they are opened."""
    chat_template: str | None = None
    """A Jinja file, the name of one of the tokenizer's own templates, or `chatml`; without it, the
    tokenizer's own template."""
    quantization: Literal["nf4", "int8"] | None = None
    """Hold frozen layers in 4 bits (`nf4`, as QLoRA) or 8; `pip install telltune[quantized]`."""


class Columns(Part):
    """Which columns of the user's data hold what, where the schema is none of the usual ones."""

    prompt: str
    """The column with the input."""
    completion: str
    """The column with the wanted answer."""
    system: str | None = None
    """A column with a system text, if there is one."""
    confidence: str | None = None
    """A column with how far the answer can be trusted, above 0 and up to 1; see `confidence`."""
    rationale: str | None = None
    """A column with why the answer is right, for the method `rcl`."""


class DataSpec(Part):
    """Where one data set lies."""

    path: str
    """A file (JSONL, JSON, CSV, TSV, Parquet, Arrow), a folder of such, a hub id, or `embedded`
    (general data)."""
    columns: Columns | None = None
    """Only for schemas that telltune does not know."""
    labels: list[str] | None = Field(default=None, min_length=2)
    """Names of the classes, where the data have their numbers: the name of 0, of 1, and so on."""
    config: str | None = None
    """The hub data set's configuration."""
    split: str | None = None
    """The split of a folder or hub data set; if not given, the one that the data are for."""
    quoting: Quoting = "auto"
    """What double quotes mean in CSV and TSV: they enclose cells (`minimal`), are ordinary
    characters (`none`), or enclose cells and are refused where they seem to swallow rows (`auto`).
    """
    rows: tuple[int, int] | None = None
    """Only the examples from the first number up to, not including, the second, from 0. Those of a
    hub data set are streamed, and what comes behind them is not fetched."""

    @field_validator("rows")
    @classmethod
    def _is_a_stretch(cls, rows: tuple[int, int] | None) -> tuple[int, int] | None:
        if rows is not None and not 0 <= rows[0] < rows[1]:
            raise ValueError("`rows` is [from, to], with 0 <= from < to")
        return rows


Data = Annotated[DataSpec, short("path")]
DataList = Annotated[
    list[Data], BeforeValidator(lambda value: value if isinstance(value, list) else [value])
]


class TaskSpec(Part):
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
    unlabeled: DataList | None = None
    """Inputs without labels, in any format of `train`, or `rest`: the training examples that
    `max_examples` or `max_tokens` leave out. Answers in them are ignored."""

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


class GeneralSpec(Part):
    """The abundant data: general instructions and answers."""

    sources: DataList
    """Files, folders, hub ids, or `embedded`."""


def _as_sources(value: Any) -> Any:
    """One data set, or a list of them, stands for `sources`."""
    one = isinstance(value, str | list) or (isinstance(value, dict) and "path" in value)
    return {"sources": value} if one else value


class AnchorSpec(Part):
    """A fixed text that goes with every task example, in training and at inference."""

    prompt: str
    """What opens the user turn, or stands in the system turn."""
    response: str = ""
    """What opens the answer. Given to the model at inference, and stripped before scoring."""
    place: Literal["user", "system"] = "user"
    """Where the prompt side goes."""


class MixtureSpec(Part):
    """How much of what, and in which order."""

    leverage_ratio: float = Field(default=8.0, ge=0)
    """General tokens / distinct task tokens."""
    general_examples: int | None = Field(default=None, ge=0)
    """An explicit count, in place of the ratio."""
    passes: AutoInt = "auto"
    """How often each task example appears; `auto` follows from the number of examples."""
    order: Order = "shuffled"
    """`shuffled` is TELL's; the others are controls."""


class LoraSpec(Part):
    """The adapter (arXiv 2106.09685; values of arXiv 2408.10841)."""

    rank: PositiveInt = 16
    """r."""
    alpha: PositiveFloat = 16
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """PEFT's `target_modules`."""


class TrainingSpec(Part):
    """How the adapter is trained."""

    full_parameters: bool = False
    """Train every weight in place of a LoRA adapter."""
    learning_rate: AutoFloat = "auto"
    """Peak learning rate; `auto` follows from the model's size."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Learning rate after the warm-up; `linear` and `cosine` end at zero."""
    warmup_steps: int = Field(default=25, ge=0)
    """At most a tenth of the run, so that tiny runs are not all warm-up."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this norm."""
    batch_size: AutoInt = "auto"
    """Examples in an optimizer step, over all processes; `auto` follows from their number."""
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
    early_stopping: bool | None = None
    """Look at dev data along the run, keep the best weights and stop when nothing improves. If not
    given, that is done where the recipe has `task.dev` or `task.dev_share`."""
    save_steps: PositiveInt | None = None
    """Write a checkpoint every so many steps; by default ten in a run."""


class EvaluationSpec(Part):
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


class FewShotSpec(Part):
    """Task examples shown in the prompt, for the method `few_shot`."""

    examples: PositiveInt | None = None
    """How many; by default as many as the model's context holds, or 8 of the nearest."""
    choose: Literal["drawn", "nearest"] = "drawn"
    """Which: the first of the draw for every question, or those nearest to each, nearest last."""


class OverPromptSpec(Part):
    """Many inputs in one prompt, for the method `over_prompt`."""

    inputs: PositiveInt = 10
    """How many at once; fewer where the model's context has no room."""
    answers: Literal["lines", "json"] = "lines"
    """How the reply gives them: a numbered line each, or a JSON object by number."""
    order: Literal["given", "shuffled", "topic"] = "given"
    """Which inputs stand together: as they come, at random, or like beside like."""
    shots: NonNegativeInt = 1
    """Solved groups of task examples before the question."""


class Recipe(Part):
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
    model: Annotated[ModelSpec, short("name")] = ModelSpec()
    task: Annotated[TaskSpec, short("embedded")]
    general: Annotated[
        GeneralSpec | None,
        BeforeValidator(_as_sources),
    ] = None
    general_choice: Annotated[GeneralChoiceSpec | None, short("take")] = None
    anchor: Annotated[AnchorSpec | None, short("prompt")] = None
    synthesis: Annotated[SynthesisSpec | None, short("use_as")] = None
    pseudo_label: Annotated[PseudoLabelSpec | None, short("by")] = None
    product_of_experts: Annotated[ProductSpec | None, short("by")] = None
    selection: SelectionSpec | None = None
    meta: Annotated[MetaSpec | None, short("algorithm")] = None
    confidence: Annotated[ConfidenceSpec | None, short("by")] = None
    mixture: MixtureSpec = MixtureSpec()
    lora: LoraSpec = LoraSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    few_shot: FewShotSpec = FewShotSpec()
    over_prompt: OverPromptSpec | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)

    def with_keys(self, keys: Sequence[tuple[str, Any]]) -> Recipe:
        """Return the recipe with other values of some keys.

        Args:
            keys: Pairs of a key, such as `selection.order`, and its value. A part alone, such as
                `meta`, stands for its defaults where the recipe has none.
        """
        if not keys:
            return self
        values = self.model_dump()
        for key, value in keys:
            part, _, name = key.partition(".")
            values[part] = (values[part] or {}) | ({name: value} if name else {})
        return Recipe.model_validate(values)

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
    "meta": "algorithm",
    "general_choice": "take",
    "synthesis": "use_as",
    "pseudo_label": "by",
    "product_of_experts": "by",
}
"""The key that a plain string stands for, by the key that it is given for."""
