"""Answers and scores of an output folder of `fit`, as Python functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from telltune.data.contents import contents_of
from telltune.data.examples import Example
from telltune.data.fields import RowRefusedError, check_encodable
from telltune.data.given import Files, Rows, files_of_data, is_column, rows_of
from telltune.data.loaders import Table
from telltune.data.prompts import prompts_of, read_prompts
from telltune.data.report import ReadReport
from telltune.data.task import data_files, load_split, load_task
from telltune.data.writing import check_writable
from telltune.errors import DataError, RecipeError, check_count
from telltune.evaluation.headline import TaskAnswers, task_answers
from telltune.evaluation.score import (
    check_metrics,
    evaluate_predictor,
    write_predictions,
)
from telltune.fitting.adapter_folder import answering_recipe, read_tell, run_files
from telltune.fitting.baseline_folder import load_folder
from telltune.fitting.model_card import record_scores
from telltune.proposal.recipe_of import as_columns, is_recipe, recipe_of
from telltune.proposal.survey import guessed_columns
from telltune.recipe import AnyRecipe, Columns, DataSpec, Recipe, TaskSpec
from telltune.training.progress import bar, phase

if TYPE_CHECKING:
    from telltune.data.files import Split
    from telltune.evaluation.score import Evaluation


def evaluate(
    adapter: str | Path,
    data: AnyRecipe | Files | Rows | None = None,
    *,
    columns: Columns | Mapping[str, str] | None = None,
    split: str = "test",
    metrics: Sequence[str] = (),
    max_items: int | None = None,
    predictions: Path | None = None,
    trust_model: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Score an adapter or baseline on held-out items, and keep the scores in its model card.

    Args:
        adapter: Output folder of `fit`.
        data: Recipe with the task to score on, by default the adapter's own. Or the items as for
            `fit`: files, rows, a frame or a data set.
        columns: Columns of the items, by default those of the training data, else guessed.
        split: `test` or `dev`.
        metrics: Names of metrics, the headline metric first.
        max_items: Maximum number of items to score, from the start of the split.
        predictions: File for prompts, references, answers and scores, in the format of its suffix,
            such as `.jsonl` or `.csv`.
        trust_model: Whether to run the base model's own code and read pickle files if tell.json
            asks for it.
        progress: Whether to show progress bars.

    Raises:
        TellError: The folder, the recipe or the items cannot be used.

    Examples:
        >>> scored = telltune.evaluate("runs/mine", progress=False)
        >>> metric, interval = scored.headline
        >>> interval.low <= interval.score <= interval.high
        True
    """
    folder = Path(adapter)
    check_count("max_items", max_items)
    record = read_tell(folder)
    if split not in ("test", "dev"):
        raise RecipeError(f"--split {split}: give `test` or `dev`.")
    part: Split = "test" if split == "test" else "dev"
    recipe = asked = answering_recipe(record)
    if data is not None and is_recipe(data):
        recipe = asked = recipe_of(data, columns=columns)[0]
    elif data is not None:
        asked = _with_items(recipe, data, as_columns(columns), part)  # type: ignore[arg-type]
    metrics = tuple(metrics) or tuple(recipe.evaluation.metrics or ())
    check_metrics(metrics)
    if predictions is not None:
        read_files = [*data_files(asked), *data_files(recipe), *run_files(folder, record)]
        check_writable(predictions, read_files)
    read = ReadReport()
    all_items = load_split(asked, part, read)
    answers: TaskAnswers | None = None
    unread: tuple[str, ...] = ()
    task_name = None
    try:
        task = load_task(recipe, may_lack_examples=True)
        answers = task_answers(recipe, task, all_items if split == "test" else None)
        task_name = task.name if asked is recipe else None
    except DataError as error:
        # An adapter can be scored on a machine that lacks its training data.
        told = f"the metrics and warnings use only the {split} items"
        unread = (f"the training data cannot be read, so {told}: {error}",)
    items = all_items[: max_items or recipe.evaluation.max_items]
    with phase("loading the model", shown=progress):
        predictor = load_folder(
            folder,
            precision=recipe.training.precision,
            evaluation=recipe.evaluation,
            trust_model=trust_model,
        )
    with bar(shown=progress) as shown:
        counter = shown.add_task(f"{folder.name}: {split}", total=len(items))
        evaluation = evaluate_predictor(
            predictor,
            items,
            metrics,
            confidence=recipe.evaluation.confidence,
            seed=recipe.seed,
            answers=answers,
            on_done=lambda n: shown.advance(counter, n),
        )
    if predictions is not None:
        write_predictions(predictions, items, evaluation)
    warnings = (*unread, *evaluation.warnings, *read.warnings(f"task.{split}"))
    evaluation = replace(evaluation, warnings=warnings)
    found = evaluation.to_dict()
    record_scores(
        folder,
        {
            "task": task_name or items[0].source,
            "split": split,
            "sha256": contents_of(items).digest,
            "items": found["items"],
            "of": len(all_items),
            "confidence": recipe.evaluation.confidence,
            "scores": found["scores"],
            "warnings": found["warnings"],
        },
    )
    return evaluation


def _with_items(
    recipe: Recipe, data: Files | Rows, columns: Columns | None, split: Split
) -> Recipe:
    """Return a recipe whose task is the given items, read as the training data were."""
    trained_on = recipe.task.train or ()
    files = files_of_data(data)
    specs = []
    for path in files.get(split, []) if isinstance(files, dict) else files:
        used = columns or guessed_columns(path, split, trained_on)
        labels = trained_on[0].labels if trained_on else None
        specs.append(DataSpec(path=path, columns=used, labels=labels))
    return recipe.model_copy(update={"task": TaskSpec(train=specs, dev=specs, test=specs)})


@overload
def predict(  # type: ignore[overload-overlap]  # a text is also a sequence of texts
    adapter: str | Path,
    inputs: str,
    *,
    columns: Columns | Mapping[str, str] | None = None,
    max_new_tokens: int | None = None,
    trust_model: bool = False,
) -> str: ...
@overload
def predict(
    adapter: str | Path,
    inputs: Path | Sequence[str] | Rows,
    *,
    columns: Columns | Mapping[str, str] | None = None,
    max_new_tokens: int | None = None,
    trust_model: bool = False,
) -> list[str]: ...
def predict(
    adapter: str | Path,
    inputs: str | Path | Sequence[str] | Rows,
    *,
    columns: Columns | Mapping[str, str] | None = None,
    max_new_tokens: int | None = None,
    trust_model: bool = False,
) -> str | list[str]:
    """Answer inputs greedily with an output folder of `fit`.

    Args:
        adapter: Output folder of `fit`.
        inputs: One text; or texts (a list, an array or a column), list of dicts or of
            conversations, frame, data set, or the `Path` of a file. Answers in the data are
            ignored.
        columns: Columns of the inputs, by default those of the training data.
        max_new_tokens: Maximum length of an answer in tokens, by default that of the adapter.
        trust_model: See `evaluate`.

    Returns:
        The answer to one text, or a list with the answer to each input.

    Raises:
        TellError: The folder or the inputs cannot be used.

    Examples:
        >>> len(telltune.predict("runs/mine", ["Where is my parcel?", "I was billed twice."]))
        2
        >>> isinstance(telltune.predict("runs/mine", "Where is my parcel?"), str)
        True
    """
    check_count("max_new_tokens", max_new_tokens)
    given: Any = [inputs] if isinstance(inputs, str) else inputs
    if is_column(given):
        given = list(given)
    if isinstance(given, Sequence) and (not given or any(isinstance(one, str) for one in given)):
        examples = [_example(n, text) for n, text in enumerate(given, start=1)]
    else:
        examples = _prompts(adapter, given, as_columns(columns))
    answers = predict_examples(
        adapter, examples, max_new_tokens=max_new_tokens, trust_model=trust_model
    )
    return answers[0] if isinstance(inputs, str) else answers


def _example(number: int, text: object) -> Example:
    if not isinstance(text, str):
        raise DataError(
            f"list:{number}: the input is of type {type(text).__name__}, but others are texts; "
            "give a text."
        )
    return Example(str(text), "")


def _prompts(adapter: str | Path, inputs: Path | Rows, columns: Columns | None) -> list[Example]:
    """Return the prompts of a file or of rows, read as the training data were."""
    trained_on = answering_recipe(read_tell(Path(adapter))).task.train or ()
    if isinstance(inputs, Path):
        rows = read_prompts(inputs, columns=columns, trained_on=trained_on)
    else:
        given = rows_of(inputs)
        table = Table(given.name, given.name, given.parsed())
        rows = prompts_of(table, columns=columns, trained_on=trained_on)
    return [example for _, example in rows]


def predict_examples(
    adapter: str | Path,
    examples: Sequence[Example],
    *,
    max_new_tokens: int | None = None,
    trust_model: bool = False,
    progress: bool = False,
) -> list[str]:
    """Answer examples as `predict` does; each may have turns before its prompt."""
    for number, example in enumerate(examples, start=1):
        try:
            check_encodable(example.prompt, f"prompt {number}")
        except RowRefusedError as error:
            raise DataError(f"{error}.") from None
    with phase("loading the model", shown=progress):
        predictor = load_folder(Path(adapter), trust_model=trust_model)
    if max_new_tokens is not None:
        if predictor.model is None:
            raise RecipeError(
                f"{adapter} is a baseline, which answers with whole training answers; leave out "
                "max_new_tokens."
            )
        predictor.max_new_tokens = max_new_tokens
    with bar(shown=progress) as shown:
        counter = shown.add_task("predict", total=len(examples))
        return predictor.predict(examples, on_done=lambda n: shown.advance(counter, n))
