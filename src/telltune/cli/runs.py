"""Verbs of one run: plan, show, fit, evaluate, predict and verify."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from telltune.cli.app import (
    AdapterFolder,
    AsJson,
    ColumnNames,
    MaxNewTokens,
    ModelFolder,
    Overrides,
    Overwrite,
    TrustModel,
    app,
)
from telltune.cli.console import (
    print_examples,
    print_json,
    print_note,
    print_plan,
    print_study_plan,
    print_table,
    print_warnings,
)
from telltune.errors import RecipeError

if TYPE_CHECKING:
    from telltune.research.diagnosis.restarts import Attempt

RecipeOrData = Annotated[
    Path, typer.Argument(metavar="RECIPE|DATA", help="Recipe in YAML, or examples to train on.")
]


@app.command(epilog="Example: tell plan recipes/demo.yaml --set mixture.leverage_ratio=10")
def plan(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe or study file in YAML.")],
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the study; its finished cells are not counted.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's examples, tokens, leverage ratio, steps, time and memory without training."""
    from telltune.recipe import load_recipe, read_yaml
    from telltune.training.progress import phase

    # Both are read before the slow import of PyTorch, to report typing mistakes at once.
    if "methods" in read_yaml(recipe, "recipe"):
        from telltune.study.spec import load_study

        load_study(recipe)
        if overrides:
            raise RecipeError(
                f"{recipe}: --set changes the keys of a recipe, but this is a study; edit its "
                "section `recipe`."
            )
        from telltune.study.verbs import plan_study

        with phase("planning", shown=not as_json):
            planned = plan_study(recipe, out)
        if as_json:
            print_json(planned)
        else:
            print_study_plan(planned)
        return
    loaded = load_recipe(recipe, overrides)
    if out is not None:
        raise RecipeError(
            f"{recipe}: --out names the folder of a study, but this is a recipe; leave it out."
        )
    from telltune.api import plan as planned_run

    with phase("planning", shown=not as_json):
        values = planned_run(loaded)
    if as_json:
        print_json(values)
    else:
        print_plan(values)


@app.command(epilog="Example: tell show recipes/demo.yaml -n 5; or tell show tickets.csv")
def show(
    recipe: RecipeOrData,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Number of examples.")] = 3,
    split: Annotated[
        str, typer.Option(help="`train` (the mixture of the run, in order), `dev` or `test`.")
    ] = "train",
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only one JSON list.")] = False,
) -> None:
    """Show examples as the model sees them, and mark the tokens that carry loss."""
    from telltune.proposal.recipe_of import recipe_of

    loaded, guessed = recipe_of(recipe, overrides=overrides)
    if guessed and not as_json:
        print_note(guessed)
    from telltune.preview import shown_examples

    shown = shown_examples(loaded, number, split=split)
    if as_json:
        print_json([one.to_dict() for one in shown])
    else:
        print_examples(shown)


@app.command(epilog="Example: tell fit recipes/demo.yaml --out runs/mine --set mixture.passes=5")
def fit(
    recipe: RecipeOrData,
    out: Annotated[Path, typer.Option(help="Output folder of the adapter or baseline.")],
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    restarts: Annotated[int, typer.Option(min=0, help="Maximum number of automatic restarts.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train an adapter, or fit a baseline.

    Called again after an interruption, training resumes from the last checkpoint.
    Settings for a file of examples are guessed; `tell init` writes them as a recipe.
    """
    from telltune.proposal.recipe_of import recipe_of

    loaded, guessed = recipe_of(recipe, overrides=overrides)
    if guessed and not as_json:
        print_note(guessed)
    if restarts:
        _fit_with_restarts(out, restarts)
        return
    from telltune.api import fit as fitted
    from telltune.fitting.baseline_folder import is_baseline
    from telltune.levers.protocol import yield_text
    from telltune.training.processes import processes

    done = fitted(
        loaded,
        out,
        overwrite=overwrite,
        progress=not as_json,
        on_plan=None if as_json else print_plan,
    )
    if not processes().first:
        return
    if as_json:
        print_json({"out": str(out), **done.record, "warnings": list(done.warnings)})
    else:
        for got in done.record.get("levers", []):
            typer.echo(f"{got['lever']}: {yield_text(got)}. {' '.join(got['notes'])}")
        if told := done.record.get("classifier"):
            alone = "" if "answers" in told else " It adds nothing: the adapter chooses alone."
            typer.echo(f"product_of_experts: {' '.join(told['notes'])}{alone}")
        if is_baseline(done.record):
            if chosen := done.record["baseline"].get("notes"):
                typer.echo(f"{done.record['method']}: {' '.join(chosen)}")
            typer.echo(f"Baseline in {out} after {done.record['seconds']:,.1f} s.")
        else:
            typer.echo(f"Adapter in {out} after {done.record['seconds']:,.0f} s.")
        print_warnings(done.warnings)


def _fit_with_restarts(out: Path, restarts: int) -> None:
    """Run the same command without `--restarts` in subprocesses, and restart it if it fails."""
    from telltune.research.diagnosis.restarts import run_with_restarts

    def tell(attempt: Attempt, number: int) -> None:
        assert attempt.diagnosis is not None  # `on_restart` is called after failures.
        cause = attempt.diagnosis.cause.replace("_", " ")
        typer.echo(f"Attempt {number} failed ({cause}); resuming from its checkpoint.", err=True)

    arguments = [*sys.argv[1:]]
    for i, argument in enumerate(arguments):
        if argument == "--restarts":
            del arguments[i : i + 2]
            break
        if argument.startswith("--restarts="):
            del arguments[i]
            break
    # The run's own folder must hold only its own files, so the logs go to another.
    logs = out.with_name(f"{out.name}.tries")
    command = [sys.executable, "-m", "telltune", *arguments]
    last = run_with_restarts(command, logs, restarts, on_restart=tell)[-1]
    if last.diagnosis is not None:
        told = last.diagnosis
        typer.echo(
            f"{last.log}: {told.cause.replace('_', ' ')} ({told.side}). {told.mend}", err=True
        )
    if last.code:
        raise typer.Exit(last.code if last.code > 0 else 128 - last.code)


@app.command(
    epilog="Example: tell evaluate runs/mine --metric macro_f1 --predictions answers.jsonl"
)
def evaluate(
    adapter: ModelFolder,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe whose task is scored; by default the adapter's own.")
    ] = None,
    split: Annotated[str, typer.Option(help="`test` or `dev`.")] = "test",
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Metric, the headline metric first; repeatable."),
    ] = None,
    max_items: Annotated[
        int | None, typer.Option(min=1, help="Number of items to score, from the first.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Write each item's answer and scores to this file; its suffix sets the format."
        ),
    ] = None,
    overrides: Overrides = None,
    trust_model: TrustModel = False,
    as_json: AsJson = False,
) -> None:
    """Score an adapter or baseline on held-out items, with confidence intervals."""
    from telltune.recipe import load_recipe

    loaded = None if recipe is None else load_recipe(recipe, overrides)
    from telltune.answering import evaluate as evaluated
    from telltune.fitting.adapter_folder import answering_recipe, read_tell

    if loaded is None:
        loaded = answering_recipe(read_tell(adapter), overrides)
    result = evaluated(
        adapter,
        loaded,
        split=split,
        metrics=metric or (),
        max_items=max_items,
        predictions=predictions,
        trust_model=trust_model,
        progress=not as_json,
    )
    if as_json:
        print_json({"adapter": str(adapter), "split": split, **result.to_dict()})
        return
    [table] = result.tables()
    print_table(f"{adapter} on {result.items} {split} items", table.heads, table.rows)
    print_warnings(result.warnings)


@app.command(
    epilog='Example: tell predict runs/mine "Cholesterol is the precursor of:"; of a pipe: '
    "tell predict runs/mine - --format csv < inputs.jsonl"
)
def predict(
    adapter: ModelFolder,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="Prompt to answer; `-` reads texts or JSONL from standard input."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="File of rows to answer, in any data format.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output file for the rows with `prediction` added; its suffix sets the format. "
            "`-` is standard output."
        ),
    ] = None,
    output_format: Annotated[
        Literal["jsonl", "csv", "tsv", "json"],
        typer.Option("--format", help="Format of rows on standard output."),
    ] = "jsonl",
    columns: ColumnNames = None,
    max_new_tokens: MaxNewTokens = None,
    trust_model: TrustModel = False,
    as_json: AsJson = False,
) -> None:
    """Answer one prompt, or every row of a file or of standard input.

    By default, rows are read with the columns that the adapter was trained on.
    """
    from telltune.recipe import columns_from_text

    if (prompt is None) == (file is None):
        raise RecipeError("give either a prompt or --file.")
    # Answers need no column of completions.
    named = None if columns is None else columns_from_text(columns, completion="completion")
    from telltune.answering import predict_examples
    from telltune.data.examples import Example
    from telltune.data.fields import listed
    from telltune.data.prompts import prompts_of, read_prompts, table_of_lines
    from telltune.data.report import ReadReport
    from telltune.data.task import data_files
    from telltune.data.writing import check_writable, rows_as_bytes, write_rows
    from telltune.fitting.adapter_folder import answering_recipe, read_tell, run_files

    piped, report = "-" in (prompt, str(file)), ReadReport()
    if prompt is not None and not piped:
        [answer] = predict_examples(
            adapter,
            [Example(prompt, "")],
            max_new_tokens=max_new_tokens,
            trust_model=trust_model,
        )
        if as_json:
            print_json({"prompt": prompt, "prediction": answer})
        else:
            typer.echo(answer)
        return
    if str(out) == "-":
        out = None
    record = read_tell(adapter)
    recipe = answering_recipe(record)
    if out is not None:
        read = [*([file] if file else []), *data_files(recipe), *run_files(adapter, record)]
        check_writable(out, read)
    trained_on = recipe.task.train or ()
    if piped:
        key = "prompt" if named is None else named.prompt
        table = table_of_lines(sys.stdin.buffer, "standard input", key)
        rows = prompts_of(table, columns=named, trained_on=trained_on, report=report)
    else:
        assert file is not None
        rows = read_prompts(file, columns=named, trained_on=trained_on, report=report)
    source = "-" if piped else str(file)
    if report.unread and not as_json:
        print_note(f"{source}: not read: {listed(report.unread)}.")
    answers = predict_examples(
        adapter,
        [example for _, example in rows],
        max_new_tokens=max_new_tokens,
        trust_model=trust_model,
        progress=not as_json,
    )
    answered = [
        values | {"prediction": answer} for (values, _), answer in zip(rows, answers, strict=True)
    ]
    if out is not None:
        write_rows(out, answered)
    if as_json:
        print_json(
            {"file": source, "out": str(out), "rows": len(answered)}
            if out is not None
            else {"file": source, "predictions": answers}
        )
    elif out is None:
        typer.echo(rows_as_bytes(answered, f".{output_format}"), nl=False)
    else:
        typer.echo(f"{len(answered)} rows written to {out}.")


@app.command(epilog="Example: tell verify runs/mine")
def verify(
    adapter: AdapterFolder,
    as_json: AsJson = False,
) -> None:
    """Check files, data, base model and example order against tell.json.

    Loads no weights. Exit 1 if something differs.
    """
    from telltune.training.progress import phase
    from telltune.verification import verify as verified

    with phase("verifying", shown=not as_json):
        found = verified(adapter)
    if as_json:
        print_json({"adapter": str(adapter), "held": found.held, **asdict(found)})
    else:
        for check in found.checks:
            told = {True: "as claimed", False: "DIFFERS", None: "cannot be checked"}[check.held]
            typer.echo(f"{check.what}: {told}{f' ({check.reason})' if check.reason else ''}")
        for note in found.notes:
            typer.echo(f"not part of the claims, but may change a new training: {note}")
    if found.held is False:
        raise typer.Exit(1)
