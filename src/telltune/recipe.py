"""What a run is: one typed, checked recipe, YAML in and YAML out."""

from __future__ import annotations

import copy
import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from telltune.errors import RecipeError

__all__ = [
    "AnchorSpec",
    "AnyRecipe",
    "Columns",
    "DataSpec",
    "EvaluationSpec",
    "FewShotSpec",
    "GeneralSpec",
    "LoraSpec",
    "MixtureSpec",
    "ModelSpec",
    "Recipe",
    "TaskSpec",
    "TrainingSpec",
    "as_recipe",
    "explain",
    "load_recipe",
    "read_yaml",
    "recipe_from_dict",
]

Order = Literal["shuffled", "stratified", "task_first", "general_first"]
LossAverage = Literal["token", "example", "source"]
EngineName = Literal["auto", "packed", "transformers", "vllm"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


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


class Columns(_Part):
    """Which columns of the user's data hold what, where the schema is none of the usual ones."""

    prompt: str
    """The column with the input."""
    completion: str
    """The column with the wanted answer."""
    system: str | None = None
    """A column with a system text, if there is one."""


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

    @model_validator(mode="after")
    def _has_rows(self) -> DataSpec:
        if self.rows is not None and not 0 <= self.rows[0] < self.rows[1]:
            raise ValueError("`rows` is [from, to], with 0 <= from < to")
        return self


Data = Annotated[DataSpec, _short("path")]
DataList = Annotated[
    list[Data], BeforeValidator(lambda value: value if isinstance(value, list) else [value])
]


class TaskSpec(_Part):
    """The scarce data."""

    embedded: str | None = None
    """An embedded task with its own splits and anchor, instead of `train`."""
    train: DataList | None = None
    """What to learn from."""
    dev: DataList | None = None
    """What to choose settings on."""
    test: DataList | None = None
    """What to report on. Never seen in training or in a choice."""
    max_examples: PositiveInt | None = None
    """Use at most so many training examples, drawn by `seed`; smaller draws lie inside larger."""
    max_tokens: PositiveInt | None = None
    """Use at most so many task tokens (prompt and response), drawn by `seed`."""

    @model_validator(mode="after")
    def _has_training_data(self) -> TaskSpec:
        if (self.embedded is None) == (self.train is None):
            raise ValueError("give either `train` (your data) or `embedded` (a task by name)")
        return self


class GeneralSpec(_Part):
    """The abundant data: general instructions and answers."""

    sources: DataList
    """Files, folders, hub ids, or `embedded`."""


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
    anchor: Annotated[AnchorSpec | None, _short("prompt")] = None
    mixture: MixtureSpec = MixtureSpec()
    lora: LoraSpec = LoraSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    few_shot: FewShotSpec = FewShotSpec()
    seed: int = Field(default=0, ge=0)

    def to_yaml(self) -> str:
        """The recipe with every default written out."""
        text: str = yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        )
        return text


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe from YAML.

    Relative data paths and a relative model folder are taken from the recipe's own folder when
    they exist there, so that a recipe works from wherever it is called.

    Args:
        path: The YAML file.
        overrides: `key=value` texts such as `mixture.passes=5`; the value is read as YAML.

    Returns:
        The checked recipe.

    Raises:
        RecipeError: Every mistake found, each with its key, in one message.
    """
    path = Path(path)
    values = read_yaml(path, "recipe")
    return recipe_from_dict(values, name=str(path), folder=path.parent, overrides=overrides)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Args:
        path: The file.
        what: It should be: "recipe" or "study".

    Raises:
        RecipeError: There is none, or it cannot be read, or is no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such {what}; `recipes/` has some to start from.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        keys = "`task:` and `general:`" if what == "recipe" else "`recipe:` and `methods:`"
        raise RecipeError(f"{path}: a {what} is a mapping of keys such as {keys}.")
    return values


def recipe_from_dict(
    values: dict[str, Any],
    *,
    name: str = "recipe",
    folder: Path | None = None,
    overrides: list[str] | None = None,
) -> Recipe:
    """Check a recipe given as a dictionary.

    Args:
        values: The keys, as YAML would give them.
        name: What messages call it.
        folder: Where relative paths start, besides the working directory.
        overrides: As `load_recipe`.

    Raises:
        RecipeError: Every mistake found, each with its key, in one message.
    """
    values = copy.deepcopy(values)
    for override in overrides or []:
        _override(values, override)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{name}: {'; '.join(explain(error, Recipe, 'recipe'))}.") from None
    return recipe if folder is None else _resolve(recipe, folder)


AnyRecipe = Recipe | str | Path | dict[str, Any]
"""What the API takes for a recipe: one, its YAML file, or its keys."""


def as_recipe(recipe: AnyRecipe) -> Recipe:
    """A recipe from a file, a dictionary or a recipe.

    Raises:
        RecipeError: As `load_recipe`.
    """
    if isinstance(recipe, Recipe):
        return recipe
    return recipe_from_dict(recipe) if isinstance(recipe, dict) else load_recipe(recipe)


def _override(values: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in a nested mapping, in place."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"--set {override}: write it as key=value, such as mixture.passes=5.")
    *parents, last = key.strip().split(".")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise RecipeError(f"--set {override}: `{text}` is not a YAML value; quote it.") from None
    here = values
    for parent in parents:
        inner = here.get(parent)
        if isinstance(inner, str):
            # A shorthand such as `anchor: "text"` becomes the mapping that it stands for.
            inner = {_SHORTHANDS.get(parent, "path"): inner}
        here[parent] = inner = {} if inner is None else inner
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override}: `{parent}` holds no keys.")
        here = inner
    # `anchor.response=Team:` means the text, though YAML sees a mapping.
    here[last] = text if isinstance(value, dict) and not text.lstrip().startswith("{") else value


_SHORTHANDS = {"model": "name", "task": "embedded", "anchor": "prompt", "general": "sources"}


def explain(error: ValidationError, model: type[BaseModel], what: str) -> list[str]:
    """A clause a mistake: the key, what is wrong, and the nearest key where one was mistyped.

    Args:
        error: What pydantic found.
        model: That it checked.
        what: People call it.
    """
    clauses = []
    for mistake in error.errors():
        key = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            known = _keys_beside(mistake["loc"], model)
            near = difflib.get_close_matches(str(mistake["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
            clauses.append(f"`{key}` is not a key of a {what}; {hint}")
        elif mistake["type"] == "missing":
            clauses.append(f"`{key}` is missing")
        else:
            message = mistake["msg"].removeprefix("Value error, ")
            clauses.append(f"`{key}`: {message[0].lower()}{message[1:]}")
    return clauses


def _keys_beside(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """The keys that could stand where an unknown one was found."""
    part = model
    for name in location[:-1]:
        if isinstance(name, int):
            continue
        inner = part.model_fields[str(name)].annotation if str(name) in part.model_fields else None
        part = next(iter(_parts_in(inner)), part)
    return list(part.model_fields)


def _parts_in(annotation: Any) -> list[type[BaseModel]]:
    """The recipe parts named in a type such as `AnchorSpec | None` or `list[DataSpec]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for inner in get_args(annotation) for part in _parts_in(inner)]


def _resolve(recipe: Recipe, folder: Path) -> Recipe:
    """Make relative paths that exist beside the recipe independent of the working directory."""

    def beside(name: str) -> str:
        there = folder / name
        return str(there.resolve()) if not Path(name).is_absolute() and there.exists() else name

    def moved(specs: list[DataSpec] | None) -> list[DataSpec] | None:
        return specs and [s.model_copy(update={"path": beside(s.path)}) for s in specs]

    task, general = recipe.task, recipe.general
    task = task.model_copy(update={k: moved(getattr(task, k)) for k in ("train", "dev", "test")})
    if general is not None:
        general = general.model_copy(update={"sources": moved(general.sources)})
    model = recipe.model.model_copy(update={"name": beside(recipe.model.name)})
    return recipe.model_copy(update={"task": task, "general": general, "model": model})
