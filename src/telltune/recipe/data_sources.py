"""Recipe sections of the data: files and hub data sets, the task, and general data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from telltune.recipe.base import AutoInt, ConfigModel, short

Quoting = Literal["auto", "minimal", "none"]


class Columns(ConfigModel):
    """Columns of data whose schema telltune does not recognize."""

    prompt: str
    """Column with the input."""
    completion: str
    """Column with the expected answer."""
    system: str | None = None
    """Column with a system message, if there is one."""
    confidence: str | None = None
    """Column with the confidence in the answer, above 0 and up to 1; see `confidence`."""
    rationale: str | None = None
    """Column with the reason why the answer is right, for the method `rcl`."""


class DataSpec(ConfigModel):
    """Location and format of one data set."""

    path: str
    """File (JSONL, JSON, CSV, TSV, Parquet, Arrow), folder of such files, pattern such as
    `shards/*.jsonl`, hub id, or `embedded` (general data)."""
    columns: Columns | None = None
    """Names of columns, for schemas that telltune does not recognize."""
    labels: list[str] | None = Field(default=None, min_length=2)
    """Names of the classes if the data contain class numbers: the name of 0, of 1, and so on."""
    config: str | None = None
    """Configuration of the hub data set."""
    split: str | None = None
    """Split of a folder or hub data set; by default the one that matches the use of the data."""
    quoting: Quoting = "auto"
    """Meaning of double quotes in CSV and TSV. `minimal`: they enclose cells. `none`: they are
    ordinary characters. `auto`: they enclose cells, and a file is refused if they seem to
    enclose whole rows."""
    rows: tuple[int, int] | None = None
    """Range `[from, to]` of examples to use, counted from 0, with `to` excluded. Hub data sets are
    streamed, and later rows are not downloaded."""
    take: AutoInt | None = None
    """Number of examples to read from a stream, whose shards are read in a fixed random order; the
    rest is not read. `auto` (general data only) is as many as the mixture needs."""

    @field_validator("take")
    @classmethod
    def _is_no_stretch(
        cls, take: int | Literal["auto"] | None, info: ValidationInfo
    ) -> int | Literal["auto"] | None:
        if take is not None and info.data.get("rows") is not None:
            raise ValueError("use `take` or `rows`, not both")
        return take

    @field_validator("rows")
    @classmethod
    def _is_a_stretch(cls, rows: tuple[int, int] | None) -> tuple[int, int] | None:
        if rows is not None and not 0 <= rows[0] < rows[1]:
            raise ValueError("`rows` must be [from, to] with 0 <= from < to")
        return rows


Data = Annotated[DataSpec, short("path")]
DataList = Annotated[
    list[Data], BeforeValidator(lambda value: value if isinstance(value, list) else [value])
]


def _described(labels: Any) -> Any:
    """Return labels with the words about each; a label of a list is its own description."""
    if not isinstance(labels, list | dict):
        raise ValueError("give a list of labels, or a mapping from labels to words about each")
    pairs = labels.items() if isinstance(labels, dict) else [(label, label) for label in labels]
    for text in (text for pair in pairs for text in pair):
        if not isinstance(text, str):
            # YAML reads `yes` and `no` as truth values.
            raise ValueError(f"put {text} in quotes, because a label must be text")
    if not all(label.strip() for label, _ in pairs):
        raise ValueError("a label is empty")
    described = {label.strip(): text.strip() for label, text in pairs}
    if len(described) < max(2, len(pairs)):
        raise ValueError("list at least two labels, each once")
    return described


Labels = Annotated[
    dict[str, str],
    BeforeValidator(_described, json_schema_input_type=list[str] | dict[str, str]),
]


class TaskSpec(ConfigModel):
    """Task data, which are scarce."""

    embedded: str | None = None
    """Name of an embedded task with its own splits and anchor, instead of `train`."""
    labels: Labels | None = None
    """All labels that an answer can be: a list, or a mapping from labels to a few words about each.
    Small classifiers learn from these words, and know labels that no example has; no words (`""`)
    teach nothing."""
    train: DataList | None = Field(default=None, validate_default=True)
    """Training data. With `labels`, a small classifier needs none."""
    dev: DataList | None = None
    """Data for choosing settings."""
    dev_share: float | None = Field(default=None, gt=0, lt=1)
    """Share of `train` to hold out as dev data if there is no `dev`; the same examples for every
    seed."""
    dev_fold: NonNegativeInt | None = None
    """Which part of `train` `dev_share` holds out, for cross-validation: 0 (the default) for the
    first part of that size, 1 for the next, and so on."""
    test: DataList | None = None
    """Data for reporting scores. Never used in training or to choose settings."""
    max_examples: PositiveInt | None = None
    """Maximum number of training examples, drawn by `seed`. Smaller draws are subsets of larger
    ones."""
    max_tokens: PositiveInt | None = None
    """Maximum number of task tokens (prompt and response), drawn by `seed`."""
    unlabeled: DataList | None = None
    """Inputs without labels, in any format of `train`. `rest` takes the training examples that
    `max_examples` or `max_tokens` leave out. Answers in them are ignored."""

    # Field validators, because pydantic runs model validators only if all fields are valid.
    @field_validator("train")
    @classmethod
    def _is_data_or_embedded(
        cls, train: list[DataSpec] | None, info: ValidationInfo
    ) -> list[DataSpec] | None:
        # What is invalid itself is missing from `info.data`.
        if {"embedded", "labels"} <= info.data.keys():
            embedded, labels = info.data["embedded"], info.data["labels"]
            if (embedded and train) or not (embedded or train or any((labels or {}).values())):
                raise ValueError("give either `train` (your data) or `embedded` (a task by name)")
        return train

    @field_validator("dev_fold")
    @classmethod
    def _lies_in_train(cls, fold: int | None, info: ValidationInfo) -> int | None:
        share = info.data.get("dev_share")
        if fold and (share is None or (fold + 1) * share > 1 + 1e-9):
            raise ValueError(
                f"{fold + 1} parts of dev_share = {share} are more than `train`; set `dev_share` "
                f"to at most 1 / {fold + 1}"
            )
        return fold

    @field_validator("train", "dev", "test", "unlabeled")
    @classmethod
    def _has_a_number(cls, data: list[DataSpec] | None) -> list[DataSpec] | None:
        if any(spec.take == "auto" for spec in data or ()):
            raise ValueError("`take: auto` is for general data; give a number of examples")
        return data

    @field_validator("dev_share")
    @classmethod
    def _has_no_dev(cls, share: float | None, info: ValidationInfo) -> float | None:
        if share is not None and (info.data.get("dev") or info.data.get("embedded")):
            raise ValueError("use it only for a task without dev data")
        return share


class GeneralSpec(ConfigModel):
    """General data, which are abundant: instructions and answers."""

    sources: DataList
    """Files, folders, hub ids, or `embedded`. `stream: X` in place of `sources` is a source with
    `path: X` and `take: auto`."""


def as_sources(value: Any) -> Any:
    """Turn one data set, a list of them, or a stream into a mapping with `sources`."""
    if isinstance(value, dict) and isinstance(value.get("stream"), str):
        value = {"path": value["stream"], "take": "auto"} | value
        del value["stream"]
    one = isinstance(value, str | list) or (isinstance(value, dict) and "path" in value)
    return {"sources": value} if one else value
