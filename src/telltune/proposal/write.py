"""Writing of a first recipe, and of the parts of data that are not split yet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from telltune.data.checks import question
from telltune.data.embedded.stable import stable_number
from telltune.data.examples import Problem
from telltune.data.given import AnyData, files_of_data
from telltune.data.loaders import examples_by_row, tables
from telltune.data.report import ReadReport
from telltune.data.writing import json_line, write_rows
from telltune.errors import DataError, StorageError, TellError
from telltune.evaluation.data_check import check_files
from telltune.models import context_length, load_config
from telltune.proposal.recipe_of import as_columns, shown_files
from telltune.proposal.split import LEAST_FOR_DEV, LEAST_FOR_TEST, split_rows
from telltune.proposal.survey import Survey, survey
from telltune.recipe import Columns, DataSpec, ModelSpec
from telltune.storage import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from telltune.data.files import Split

RECIPE = "recipe.yaml"
_PARTS: tuple[Split, ...] = ("train", "dev", "test")
_LENGTHS = (2048, 4096, 8192)
"""Values of `training.max_length` to try: the default, and up to what the embedded model reads."""


@dataclass(frozen=True)
class Proposal:
    """A written recipe and what it is based on.

    Attributes:
        recipe: Recipe file.
        told: Description of the data in one line.
        counts: Number of rows by part; a conversation is one row.
        anchor: Anchor of the recipe.
        notes: Remarks on the split of the data, one sentence each.
        warnings: Parts of the data that are not read, or that `tell check` would refuse.
    """

    recipe: Path
    told: str
    counts: dict[Split, int]
    anchor: str
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def write_recipe(
    data: AnyData,
    out: str | Path = ".",
    *,
    columns: Columns | Mapping[str, str] | None = None,
    model: str = "embedded",
) -> Proposal:
    """Write a recipe for data files, and split them unless their names tell the splits.

    Columns, kind of task and anchor are guessed; see `survey`. The split depends on the texts alone
    and puts nearly equal prompts into one part; see `split_rows`. Existing files are never
    replaced.

    Args:
        data: One or several files or folders, in any format of training data; or rows in Python,
            as for `telltune.fit`.
        out: Folder for `recipe.yaml`, `train.jsonl`, `dev.jsonl` and `test.jsonl`.
        columns: Columns of the data, if they cannot be guessed.
        model: Base model of the recipe: `embedded`, a hub id, or a folder.

    Raises:
        DataError: The data cannot be read, or their columns cannot be guessed.
        StorageError: A file exists already, or the folder cannot be written.

    Examples:
        >>> rows = [{"text": f"Parcel {n} is late.", "team": "shipping"} for n in range(8)]
        >>> proposal = telltune.write_recipe(rows, "tickets")
        >>> proposal.counts
        {'train': 8}
    """
    out = Path(out)
    files = files_of_data(data)
    if isinstance(files, dict):
        raise DataError("the data are split already; `telltune.recipe_for` makes their recipe.")
    found = survey(files, as_columns(columns))
    _refuse_existing([out / RECIPE])
    if found.is_split:
        specs, notes = found.specs, ["The files are used as they are split."]
        counts = found.counts
    else:
        specs, counts, notes = _write_parts(found, out)
    warnings = list(found.warnings)
    length = _max_length(specs, model, warnings)
    write_text(out / RECIPE, _recipe_text(found, shown_files(files), specs, out, model, length))
    return Proposal(out / RECIPE, found.told, counts, found.anchor, tuple(notes), tuple(warnings))


def _write_parts(
    found: Survey, out: Path
) -> tuple[dict[Split, list[DataSpec]], dict[Split, int], list[str]]:
    """Write the rows of all data by part, and return data sets, numbers of rows and notes."""
    if len({spec.columns for spec in found.specs["train"]}) > 1:
        raise DataError("the files have different columns; give files of one layout.")
    _refuse_existing([out / f"{part}.jsonl" for part in _PARTS])
    rows = [
        (dict(read[0].values), read[1])
        for spec in found.specs["train"]
        for table in tables(spec, "train")
        for read in examples_by_row(table, spec, ReadReport())
        if not isinstance(read, Problem)  # `survey` refuses those.
    ]
    questions = [[question(example) for example in examples] for _, examples in rows]
    labels = [examples[-1].answer if found.labels and examples else "" for _, examples in rows]
    parts = split_rows(questions, labels)
    # The order of the rows depends on their texts alone, as the parts do.
    lines = [(stable_number(json_line(row)), row) for row, _ in rows]
    used = found.specs["train"][0].columns
    specs: dict[Split, list[DataSpec]] = {}
    counts: dict[Split, int] = {}
    for part in _PARTS:
        held = [line for line, of in zip(lines, parts, strict=True) if of == part]
        if held:
            held.sort(key=lambda line: line[0])
            write_rows(out / f"{part}.jsonl", [row for _, row in held])
            specs[part] = [DataSpec(path=str(out / f"{part}.jsonl"), columns=used)]
            counts[part] = len(held)
    notes = []
    if "test" not in counts:
        notes.append(
            "There is no test part: it needs prompts that differ, and at least "
            f"{LEAST_FOR_TEST} of them."
        )
    elif "dev" not in counts:
        notes.append(f"There is no dev part below {LEAST_FOR_DEV} different prompts.")
    return specs, counts, notes


def _refuse_existing(files: Sequence[Path]) -> None:
    there = [str(file) for file in files if file.exists()]
    if there:
        raise StorageError(f"{', '.join(there)} would be replaced; choose another --out.")


def _max_length(specs: dict[Split, list[DataSpec]], model: str, warnings: list[str]) -> int:
    """Return the shortest `training.max_length` that no example exceeds, or the model's context.

    Other rows that `tell check` would refuse are added to the warnings.
    """
    spec = ModelSpec(name=model)
    for length in _LENGTHS:
        try:
            findings = check_files(specs, model=spec, max_length=length)[1]
            context = context_length(load_config(spec))
        except TellError as error:  # The model is not installed, or cannot be reached.
            warnings.append(f"The lengths were not checked: {error}")
            return _LENGTHS[0]
        refused = [finding for finding in findings if finding.refused]
        if length >= context or not any(finding.kind == "over_long" for finding in refused):
            break
    if refused:
        warnings.append(f"`tell check` refuses {len(refused):,} rows, such as {refused[0]}.")
    return length


def _recipe_text(
    found: Survey,
    shown: str,
    specs: dict[Split, list[DataSpec]],
    out: Path,
    model: str,
    max_length: int,
) -> str:
    """Return the recipe with comments."""
    task = [
        f"  {part}: {_one(specs[part][0], out)}"
        if len(specs[part]) == 1
        else f"  {part}:\n" + "\n".join(f"    - {_one(spec, out)}" for spec in specs[part])
        for part in _PARTS
        if part in specs
    ]
    if found.telling_labels:
        listed = ", ".join(map(_scalar, found.telling_labels))
        task += [
            "  # All labels that an answer can be, also those without an example. A name that says",
            "  # little can be described: `labels: {P1: answer within an hour, ...}`.",
            f"  labels: [{listed}]",
        ]
    lines = [
        f"# Written by `tell init` for {shown}: {found.told}.",
        "# The settings are guesses: read the anchor above all.",
        f"model: {_model(model, out)}   # `embedded` (SmolLM2-135M-Instruct), hub id, or folder",
        "task:",
        *task,
        "general: embedded   # general data to mix in; or your own files, or hub ids",
        "# A fixed text that says what to do with each input; `tell anchor` proposes others.",
        f"anchor: {_scalar(found.anchor)}",
    ]
    if max_length != _LENGTHS[0]:
        lines += ["training:", f"  max_length: {max_length}   # the longest example needs it"]
    return "\n".join(lines) + "\n"


def _model(name: str, out: Path) -> str:
    """Return a model as YAML, a folder with its path from the recipe's folder."""
    return _scalar(_beside(name, out) if Path(name).exists() else name)


def _one(spec: DataSpec, out: Path) -> str:
    """Return a data set as YAML on one line, with its path from the recipe's folder."""
    text = _scalar(_beside(spec.path, out))
    if spec.columns is None:
        return text
    named = spec.columns.model_dump(exclude_none=True).items()
    columns = ", ".join(f"{key}: {_scalar(column)}" for key, column in named)
    return f"{{path: {text}, columns: {{{columns}}}}}"


def _beside(path: str, out: Path) -> str:
    """Return the path from a folder to what is inside it, and the whole path of anything else."""
    whole = Path(path).expanduser().resolve()
    here = out.resolve()
    return whole.relative_to(here).as_posix() if whole.is_relative_to(here) else str(whole)


def _scalar(text: str) -> str:
    """Return a text as YAML on one line, in quotes if necessary."""
    plain: str = yaml.safe_dump([text], default_flow_style=True, width=10**6, allow_unicode=True)
    inner = plain.strip()[1:-1]
    return inner if "\n" not in inner else json.dumps(text)
