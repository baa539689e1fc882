"""Schema of a recipe: every key with its default, meaning and bounds.

The sections of the data are in `data_sources` and `data_selection`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
)

from telltune.recipe.api_spec import ApiSpec
from telltune.recipe.base import AutoFloat, AutoInt, ConfigModel, short
from telltune.recipe.data_selection import (
    ConfidenceSpec,
    GeneralChoiceSpec,
    MetaSpec,
    ProductSpec,
    PseudoLabelSpec,
    SelectionSpec,
    SynthesisSpec,
)
from telltune.recipe.data_sources import GeneralSpec, TaskSpec, as_sources
from telltune.recipe.lever_sections import read_sections

Order = Literal["shuffled", "stratified", "task_first", "general_first"]
LossAverage = Literal["token", "example", "source"]
EngineName = Literal["auto", "packed", "transformers", "vllm"]
_INITS = ("default", "gaussian", "orthogonal", "olora", "pissa")


class ModelSpec(ConfigModel):
    """Base model."""

    name: str = "embedded"
    """`embedded`, a Hugging Face hub id, or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Whether to run code that ships with the model."""
    allow_pickle: bool = False
    """Whether to read weights from pickle files (`.bin`, `.pt`), which can run code when opened."""
    chat_template: str | None = None
    """Jinja file, name of one of the tokenizer's templates, or `chatml`; by default the tokenizer's
    own template."""
    quantization: Literal["nf4", "int8"] | None = None
    """Quantization of frozen layers to 4 bits (`nf4`, as QLoRA) or 8 bits (`int8`); needs the extra
    `quantized`."""


def _as_names(value: Any) -> Any:
    """Turn one name into a list, and `none` into an empty one."""
    names = [value] if isinstance(value, str) else value
    return [] if names in (None, ["none"]) else names


def _as_modules(value: Any) -> Any:
    """Refuse what is neither a name nor a list of names, in one message instead of two."""
    names = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("must be the name of a layer or a list of names; put them in quotes")
    return value


def _as_off(value: Any) -> Any:
    """Turn False into `off`, because YAML reads a bare `off` as False."""
    return "off" if value is False else value


class AnchorSpec(ConfigModel):
    """Anchor: a fixed text added to every task example in training and at inference."""

    prompt: str
    """Text at the start of the user turn, or in the system turn."""
    response: str = ""
    """Text at the start of the answer. It is given to the model at inference and stripped before
    scoring."""
    place: Literal["user", "system"] = "user"
    """Turn that contains `prompt`: `user` or `system`."""


class MixtureSpec(ConfigModel):
    """Proportions and order of task and general data."""

    leverage_ratio: float = Field(default=8.0, ge=0)
    """Number of general tokens per distinct task token."""
    general_examples: int | None = Field(default=None, ge=0)
    """Number of general examples, instead of the ratio."""
    passes: AutoInt = "auto"
    """Number of passes over the task data; `auto` depends on the number of examples."""
    order: Order = "shuffled"
    """Order of the examples. TELL uses `shuffled`; the others are controls."""


class LoraSpec(ConfigModel):
    """LoRA adapter (arXiv 2106.09685), with the values of arXiv 2408.10841."""

    rank: PositiveInt = 16
    """LoRA rank."""
    alpha: PositiveFloat = 16
    """LoRA scaling numerator; the update is scaled by alpha / rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout probability on the adapter's input; must be 0 with `init: pissa` or `olora`."""
    target_modules: Annotated[str | list[str], BeforeValidator(_as_modules)] = "all-linear"
    """PEFT's `target_modules`."""
    layers: list[NonNegativeInt] | None = Field(default=None, min_length=1)
    """Numbers of the decoder layers that get an adapter, from 0; by default all."""
    rank_pattern: dict[str, PositiveInt] = Field(default={})
    """Other ranks for some layers, by the end of their names or a regular expression."""
    alpha_pattern: dict[str, PositiveFloat] = Field(default={})
    """Other values of `alpha` for some layers, by the end of their names or a regular expression.
    """
    use_dora: bool = False
    """Whether to train magnitudes and directions of weights separately (DoRA, arXiv 2402.09353)."""
    use_rslora: bool = False
    """Whether to scale the update by alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732)."""
    init: str = "default"
    """Initial weights: `default`, `gaussian`, `orthogonal`, `olora` (arXiv 2406.01775), `pissa`
    (arXiv 2404.02948), or `pissa_niter_N` with N iterations of a fast decomposition."""
    modules_to_save: list[str] | None = Field(default=None, min_length=1)
    """Modules to train whole and save with the adapter, by the end of their names."""

    @field_validator("init")
    @classmethod
    def _is_known_init(cls, init: str) -> str:
        if init not in _INITS and not re.fullmatch(r"pissa_niter_\d+", init):
            raise ValueError(f"use {', '.join(_INITS)} or pissa_niter_N, such as pissa_niter_16")
        return init

    @property
    def changes_base(self) -> bool:
        """Whether `init` moves a part of the base's weights into the adapter."""
        return self.init.startswith(("olora", "pissa"))


class TrainingSpec(ConfigModel):
    """Training settings."""

    full_parameters: bool = False
    """Whether to train all weights instead of a LoRA adapter."""
    learning_rate: AutoFloat = "auto"
    """Peak learning rate; `auto` depends on the size of the model."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Learning rate schedule after the warm-up; `linear` and `cosine` end at zero."""
    warmup_steps: int = Field(default=25, ge=0)
    """Number of warm-up steps, capped at a tenth of the run."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: PositiveFloat = 1.0
    """Maximum gradient norm for clipping."""
    batch_size: AutoInt = "auto"
    """Number of examples per optimizer step over all processes; `auto` depends on the number of
    examples."""
    micro_batch_tokens: PositiveInt = 1024
    """Number of tokens computed at once. The examples of a step are packed into as many
    micro-batches as needed."""
    kernels: Annotated[Literal["auto", "off"], BeforeValidator(_as_off)] = "auto"
    """Fast paths of training, such as packed rows and fused layers; `off` trains with the code of
    transformers and PEFT alone, one example per row."""
    use_liger_kernel: bool = False
    """Whether to use the kernels of `liger-kernel`; needs `kernels: off`."""
    torch_compile: bool = False
    """Whether to compile the model with `torch.compile`; needs `kernels: off`."""
    deepspeed: str | None = None
    """File with a configuration of DeepSpeed (ZeRO stage 1 or 2), for runs in several processes."""
    loss_average: LossAverage = "example"
    """Unit over which the loss is averaged: response tokens, examples or sources."""
    task_weight: PositiveFloat = 1.0
    """Loss weight of task data."""
    general_weight: PositiveFloat = 1.0
    """Loss weight of general data."""
    source_weights: Literal["alf1", "alf2"] | None = None
    """Learn a loss weight for each data set with `alf1` or `alf2`, in addition to the weights
    above."""
    max_length: PositiveInt = 2048
    """Maximum length of an example in tokens, at most the model's context length."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """Treatment of longer examples. `truncate` cuts the end of the response and prints a warning.
    """
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Numeric precision; `auto` is bf16 if the CPU or GPU computes it natively, else fp32."""
    gradient_checkpointing: bool = False
    """Whether to recompute activations, which saves memory and takes more time."""
    early_stopping: bool | None = None
    """Whether to evaluate on dev data during the run, keep the best weights, and stop when nothing
    improves. By default true if the recipe has `task.dev` or `task.dev_share`."""
    save_steps: PositiveInt | None = None
    """Number of steps between checkpoints; by default a tenth of the run, and at least 10."""
    report_to: Annotated[list[str], BeforeValidator(_as_names)] = Field(default=[])
    """Experiment trackers: `tensorboard`, `mlflow`, `wandb`, `trackio`, or the name of a plugin's;
    one name or a list."""


class EvaluationSpec(ConfigModel):
    """Evaluation settings."""

    metrics: list[str] | None = None
    """Names of registered metrics, the headline metric first; by default chosen from the data."""
    max_new_tokens: PositiveInt | None = None
    """Maximum length of an answer in tokens; by default slightly above the longest training
    response."""
    max_items: PositiveInt | None = None
    """Number of test items to score, from the first; by default all."""
    batch_tokens: PositiveInt = 8192
    """Number of tokens in a generation batch, prompts included."""
    answers: Literal["generate", "likelihood"] = "generate"
    """`generate` writes the answer; `likelihood` picks the most likely label (of `task.labels`, if
    listed, else of the training data).
    """
    engine: EngineName = "auto"
    """Generation engine: `packed` (telltune's own), `transformers`, `vllm`, or `auto` for the
    fastest."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Confidence level of the intervals, e.g. 0.95."""


class FewShotSpec(ConfigModel):
    """Task examples shown in the prompt, for the method `few_shot`."""

    examples: PositiveInt | None = None
    """Number of task examples in the prompt; by default as many as the context holds, or 8 for
    `nearest`."""
    choose: Literal["drawn", "nearest"] = "drawn"
    """`drawn` uses the first examples of the draw for every question; `nearest` uses those most
    similar to each question, the most similar last."""


class OverPromptSpec(ConfigModel):
    """Many inputs in one prompt, for `over_prompt` and the other methods of that name."""

    inputs: PositiveInt = 10
    """Number of inputs per prompt; fewer if the context is too short."""
    answers: Literal["lines", "json"] = "lines"
    """Format of the reply: numbered `lines`, or a `json` object with numbers as keys."""
    order: Literal["given", "shuffled", "topic"] = "given"
    """Grouping of inputs: `given` keeps the order, `shuffled` is random, `topic` groups similar
    inputs."""
    shots: NonNegativeInt = 1
    """Number of solved groups of task examples before the question."""


class Recipe(ConfigModel):
    """Recipe of a run.

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
    """Name of the method that `tell fit` runs."""
    model: Annotated[ModelSpec, short("name")] = ModelSpec()
    task: Annotated[TaskSpec, short("embedded")]
    general: Annotated[GeneralSpec | None, BeforeValidator(as_sources)] = None
    general_choice: Annotated[GeneralChoiceSpec | None, short("take")] = None
    anchor: Annotated[AnchorSpec | None, short("prompt")] = None
    teacher: ApiSpec | None = None
    synthesis: Annotated[SynthesisSpec | None, short("use_as")] = None
    pseudo_label: Annotated[PseudoLabelSpec | None, short("by")] = None
    levers: Annotated[
        dict[str, SerializeAsAny[ConfigModel]] | None, BeforeValidator(read_sections)
    ] = None
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

    @field_validator("synthesis")
    @classmethod
    def _has_its_teacher(
        cls, synthesis: SynthesisSpec | None, info: ValidationInfo
    ) -> SynthesisSpec | None:
        # An invalid `teacher` is missing from `info.data`.
        asked = synthesis is not None and synthesis.by == "teacher"
        if asked and info.data.get("teacher", ...) is None:
            raise ValueError("`by: teacher` needs the section `teacher` with its `url` and `model`")
        return synthesis

    def with_keys(self, keys: Sequence[tuple[str, Any]]) -> Recipe:
        """Return a copy of the recipe with new values for some keys.

        Args:
            keys: Pairs of a key, such as `selection.order`, and its value. The name of a part,
                such as `meta`, adds the part with its defaults if the recipe has none.
        """
        if not keys:
            return self
        values = self.model_dump()
        for key, value in keys:
            part, _, name = key.partition(".")
            values[part] = (values[part] or {}) | ({name: value} if name else {})
        return Recipe.model_validate(values)

    def changed(self, **sections: dict[str, Any]) -> Recipe:
        """Return a copy with other values for some keys of sections, which are not validated."""
        update = {name: getattr(self, name).model_copy(update=k) for name, k in sections.items()}
        return self.model_copy(update=update)

    def to_yaml(self) -> str:
        """Return the recipe as YAML, with all defaults."""
        text: str = yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        return text


def written_out(section: str, value: str) -> Any:
    """Return the mapping that a string in a place of a section is short for; else the string."""
    if section not in Recipe.model_fields:
        return {"path": value}  # a data set, such as `task.train`
    for validator in Recipe.model_fields[section].metadata:
        if isinstance(validator, BeforeValidator):
            value = validator.func(value)  # type: ignore[call-arg]
    return value
