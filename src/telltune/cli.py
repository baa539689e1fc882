"""The command line: a verb a function, which parses, calls the API and prints."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from telltune.errors import TellError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["main"]

app = typer.Typer(
    name="tell",
    help="Adapt a language model with almost no data: TELL, its controls, and an honest table.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: tell compare recipes/demo.yaml --out runs/demo",
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, in YAML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; repeat as needed."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what an earlier run of telltune left there.")
]


def main() -> None:
    """Run the command line; what the user can mend is one sentence and exit code 2."""
    if not sys.warnoptions:
        # What transformers will rename one day is for us to mend, not for who runs a recipe.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        app()
    except TellError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of our output, such as `head`, has left.
        sys.exit(0)


@app.command(epilog="Example: tell plan recipes/demo.yaml --set mixture.leverage_ratio=10")
def plan(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a run will do: examples, tokens, ratio, steps, minutes, memory. Trains nothing."""
    from telltune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)  # before PyTorch is: a typing mistake answers at once
    from telltune.api import plan as planned

    values = planned(loaded)
    if as_json:
        _print_json(values)
    else:
        _print_plan(values)


@app.command(epilog="Example: tell fit recipes/demo.yaml --out runs/mine --set mixture.passes=5")
def fit(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="The adapter folder.")],
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train an adapter. Called again after an interruption, it goes on from the last checkpoint."""
    from telltune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from telltune.api import fit as fitted

    done = fitted(
        loaded,
        out,
        overwrite=overwrite,
        progress=not as_json,
        on_plan=None if as_json else _print_plan,
    )
    if as_json:
        _print_json({"out": str(out), **done.record})
    else:
        typer.echo(f"Adapter in {out} after {done.record['seconds']:,.0f} s.")


@app.command(
    epilog="Example: tell evaluate runs/mine --metric macro_f1 --predictions answers.jsonl"
)
def evaluate(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="What `tell fit` left.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Score on this recipe's task, not on the adapter's own.")
    ] = None,
    split: Annotated[str, typer.Option(help="`test` or `dev`.")] = "test",
    metric: Annotated[
        list[str] | None, typer.Option(help="A metric by name, the headline first; repeatable.")
    ] = None,
    max_items: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write each item's answer and scores to this JSONL file.")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Score an adapter on held-out items, with a confidence interval for every metric."""
    from telltune.api import evaluate as evaluated
    from telltune.methods.adapter_folder import read_tell
    from telltune.recipe import load_recipe, recipe_from_dict

    if recipe is not None:
        loaded = load_recipe(recipe, overrides)
    else:
        loaded = recipe_from_dict(read_tell(adapter)["recipe"], overrides=overrides)
    result = evaluated(
        adapter,
        loaded,
        split=split,
        metrics=metric or (),
        max_items=max_items,
        predictions=predictions,
        progress=not as_json,
    )
    if as_json:
        _print_json({"adapter": str(adapter), "split": split, **result.to_dict()})
        return
    _print_table(
        f"{adapter} on {result.items} {split} items",
        ("metric", "score", f"{loaded.evaluation.confidence:.0%} interval"),
        [(n, f"{i.score:.1f}", f"{i.low:.1f} to {i.high:.1f}") for n, i in result.scores.items()],
    )


@app.command(epilog='Example: tell predict runs/mine "Cholesterol is the precursor of:"')
def predict(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="What `tell fit` left.")],
    prompt: Annotated[str | None, typer.Argument(help="One prompt.")] = None,
    file: Annotated[Path | None, typer.Option(help="Rows to answer, in any data format.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the rows go, each with `prediction` added.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer one prompt, or every row of a file."""
    from telltune.api import predict_examples
    from telltune.data.examples import Example
    from telltune.data.prompts import read_prompts
    from telltune.errors import RecipeError
    from telltune.storage import write_text

    if (prompt is None) == (file is None):
        raise RecipeError("give either a prompt or --file.")
    if prompt is not None:
        [answer] = predict_examples(adapter, [Example(prompt, "")], max_new_tokens=max_new_tokens)
        if as_json:
            _print_json({"prompt": prompt, "prediction": answer})
        else:
            typer.echo(answer)
        return
    assert file is not None
    rows = read_prompts(file)
    answers = predict_examples(
        adapter,
        [example for _, example in rows],
        max_new_tokens=max_new_tokens,
        progress=not as_json,
    )
    answered = [
        values | {"prediction": answer} for (values, _), answer in zip(rows, answers, strict=True)
    ]
    lines = "".join(json.dumps(r, ensure_ascii=False, default=str) + "\n" for r in answered)
    if out is not None:
        write_text(out, lines)
    if as_json:
        _print_json(
            {"file": str(file), "out": str(out), "rows": len(answered)}
            if out is not None
            else {"file": str(file), "predictions": answers}
        )
    elif out is None:
        typer.echo(lines, nl=False)
    else:
        typer.echo(f"{len(answered)} rows in {out}.")


@app.command(epilog="Example: tell check train.jsonl --test test.jsonl --model embedded")
def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Training data.")],
    dev: Annotated[list[str] | None, typer.Option(help="Dev data; repeatable.")] = None,
    test: Annotated[list[str] | None, typer.Option(help="Test data; repeatable.")] = None,
    model: Annotated[
        str, typer.Option(help="Whose tokenizer counts tokens and knows control tokens.")
    ] = "embedded",
    max_length: Annotated[int, typer.Option(min=1, help="Longest example, in tokens.")] = 2048,
    as_json: AsJson = False,
) -> None:
    """List empty, malformed, duplicate, leaking and over-long rows. Exit 1 if any is refused."""
    from telltune.api import check as checked

    splits = {"train": files, "dev": dev or [], "test": test or []}
    counts, findings = checked(
        {name: paths for name, paths in splits.items() if paths},
        model=model,
        max_length=max_length,
    )
    refused = sum(finding.refused for finding in findings)
    if as_json:
        _print_json(
            {"examples": counts, "refused": refused, "findings": [asdict(f) for f in findings]}
        )
    else:
        for finding in findings:
            typer.echo(f"{finding} [{finding.kind}]")
        counted = ", ".join(f"{n:,} {split}" for split, n in counts.items())
        typer.echo(f"{counted} examples; {refused} refused, {len(findings) - refused} warnings.")
    if refused:
        raise typer.Exit(1)


@app.command(epilog="Example: tell anchor recipes/demo.yaml --candidates 12")
def anchor(
    recipe: RecipeFile,
    candidates: Annotated[int, typer.Option(min=1, help="How many to propose.")] = 8,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Let the model propose anchors, and rank them by held-out loss before any training."""
    from telltune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from telltune.api import anchor as ranked

    rows = ranked(loaded, candidates=candidates)
    if as_json:
        _print_json({"candidates": [asdict(row) for row in rows]})
        return
    _print_table(
        "Anchors by loss on held-out examples, before training (lower is better)",
        ("loss", "tokens", "from", "anchor"),
        [
            (
                f"{row.loss:.3f}",
                f"{row.tokens:+.0f}",
                row.origin,
                row.anchor.prompt if row.anchor else "-",
            )
            for row in rows
        ],
    )
    typer.echo("Copy the one you want into the recipe, under anchor.prompt.")


@app.command(epilog="Example: tell compare recipes/demo.yaml --out runs/demo --method sft,tell")
def compare(
    recipe: RecipeFile,
    out: Annotated[Path, typer.Option(help="Where adapters, answers and summary.json go.")],
    method: Annotated[
        str, typer.Option(help="Names, separated by commas.")
    ] = "base,sft,sft_anchor,tell",
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Fit and score several methods on the same task tokens, and print one table."""
    from telltune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from telltune.api import plan as planned
    from telltune.methods.registry import get_method
    from telltune.study.compare import compare as compared

    names = [name.strip() for name in method.split(",") if name.strip()]
    trained = [name for name in names if get_method(name).trains]
    if trained and not as_json:
        # The recipe's own method need not be among them, nor what it asks for in the recipe.
        last = loaded.model_copy(update={"method": trained[-1]})
        _print_plan(planned(last, measure=False))
    rows = compared(loaded, names, out=out, overwrite=overwrite, progress=not as_json)
    if as_json:
        _print_json({"out": str(out), "rows": [asdict(row) for row in rows]})
        return
    interval = f"{loaded.evaluation.confidence:.0%} interval"
    _print_table(
        f"{rows[0].items} test items, {rows[0].metric}",
        ("method", "score", interval, "task tokens", "general tokens", "seconds"),
        [
            (
                row.method,
                f"{row.score:.1f}",
                f"{row.low:.1f} to {row.high:.1f}",
                f"{row.task_tokens:,}",
                f"{row.general_tokens:,}",
                f"{row.seconds:,.0f}",
            )
            for row in rows
        ],
    )
    typer.echo(f"Rows in {out / 'summary.json'}; adapters and answers beside it.")


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


def _print_plan(values: dict[str, Any]) -> None:
    seconds = values["estimated_seconds"]
    time = (
        "not known before a first run here; `tell plan` measures it"
        if seconds is None
        else f"about {seconds / 60:,.1f} minutes"
    )
    ratio, general = values["leverage_ratio"], f"{values['general_tokens']:,} tokens"
    rows: Iterable[tuple[str, str]] = (
        ("method", f"{values['method']} on {values['task']}, {values['precision']}"),
        ("task", f"{values['task_examples']:,} examples, {values['task_tokens']:,} tokens"),
        (
            "general",
            f"{values['general_examples']:,} examples, {general} (leverage ratio {ratio:g})",
        ),
        ("passes", f"{values['passes']}"),
        ("optimizer steps", f"{values['optimizer_steps']:,}"),
        (
            "tokens to train",
            f"{values['trained_tokens']:,}, {values['computed_tokens']:,} computed",
        ),
        ("time", time),
        ("memory", f"about {values['estimated_memory_gib']:.1f} GiB"),
    )
    _print_table("Plan", ("", ""), list(rows))
    if values["truncated"]:
        shown = ", ".join(values["truncated"][:5])
        typer.echo(f"{len(values['truncated'])} examples lose their end: {shown} …", err=True)


def _print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=any(heads), title_justify="left")
    for head in heads:
        table.add_column(head, justify="right" if head in _NUMBERS else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


_NUMBERS = {"score", "loss", "tokens", "task tokens", "general tokens", "seconds"}
