"""Output of the command line: JSON for programs, tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from telltune.errors import one_line
from telltune.outputs import verbosity
from telltune.result_table import NUMBERS, InNotebooks, between
from telltune.storage import json_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from telltune.planned import Plan
    from telltune.preview import ExamplePreview
    from telltune.research.continual.page import ContinualReport
    from telltune.research.quanta.report import QuantaReport
    from telltune.research.streams.page import StreamReport
    from telltune.study.example_scores import ExampleScores
    from telltune.study.recommend import Recommendation
    from telltune.study.statistics.summary import Summary


def print_json(value: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Print one JSON value on one line."""
    typer.echo(json_text(value))


def print_plan(plan: Plan) -> None:
    """Print the result of `telltune.plan`."""
    print_tables(plan)
    if plan.get("before_training"):
        first = "; ".join(plan["before_training"])
        print_note(f"Before training, and not counted above: {first}.")
    if plan.get("truncated"):
        shown = ", ".join(plan["truncated"][:5])
        print_note(f"{len(plan['truncated'])} examples will be truncated: {shown} …")
    print_warnings(plan["warnings"])


def print_examples(shown: Sequence[ExamplePreview]) -> None:
    """Print examples as the model sees them.

    The text that carries loss is green. If the output is not a terminal, it is between [[ and ]].
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True)
    opening, closing = ("", "") if console.is_terminal else ("[[", "]]")
    for i, one in enumerate(shown):
        tokens = f"{len(one.input_ids)} tokens, {sum(one.loss_mask)} with loss"
        where = one.origin or one.source
        console.print(Text(f"{i + 1}. {where}: {tokens}", "bold"))
        response = Text(f"{opening}{one.response}{closing}", "green")
        console.print(Text(one.prompt) + response, end="\n\n")


def print_warnings(warnings: Iterable[str]) -> None:
    """Print each warning on one line of standard error, unless `-q` is given."""
    for warning in warnings:
        print_note(f"Warning: {warning}")


def print_note(text: str) -> None:
    """Print a remark on standard error, unless `-q` is given."""
    if verbosity() >= 0:
        typer.echo(text, err=True)


def print_warnings_of(rows: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Print each warning once on standard error, with the names of all rows that have it."""
    told: dict[str, list[str]] = {}
    for name, warnings in rows:
        for warning in warnings:
            told.setdefault(warning, []).append(name)
    print_warnings(f"{', '.join(names)}: {warning}" for warning, names in told.items())


def print_study_plan(values: dict[str, Any]) -> None:
    """Print the result of `telltune.plan_study`."""

    def hours(seconds: float | None) -> str:
        if seconds is None:
            return "not known before a first run on this machine"
        return (
            f"about {seconds / 3600:,.1f} hours" if seconds > 5400 else f"{seconds / 60:,.1f} min"
        )

    rows = [
        ("cells", f"{values['cells']:,}, {values['finished']:,} of them finished"),
        ("tokens to train", f"{values['trained_tokens']:,}"),
        ("training", hours(values["training_seconds"])),
        ("answering", hours(values["answering_seconds"])),
    ]
    print_table("Study", ("", ""), rows)
    refused: dict[str, list[str]] = {}
    for problem in values["problems"]:
        refused.setdefault(problem["reason"], []).append(problem["cell"])
    for reason, cells in refused.items():
        more = f", and {len(cells) - 1:,} more," if len(cells) > 1 else ""
        typer.echo(f"{cells[0]}{more} cannot run: {reason}", err=True)
    print_warnings(values["warnings"])


def print_study(summary: Summary) -> None:
    """Print each method at each size, compared with SFT + anchor, or with SFT if it did not run."""
    from telltune.study.report.series import label_series, series_of

    compared = {c.against for c in summary.comparisons}
    reference = "sft" if compared == {"sft"} else "sft_anchor"
    labels = label_series(summary.points)
    against: dict[tuple[Any, ...], str] = {
        (c.task, c.size, c.name, c.leverage_ratio): f"{c.difference:+.1f} (p {c.p_adjusted:.3f})"
        + (" *" if c.seeds < summary.most_seeds(c) else "")
        for c in summary.comparisons
        if c.against == reference
    }
    saved: dict[tuple[Any, ...], str] = {
        (s.task, s.size, s.name, s.leverage_ratio): s.text
        for s in summary.saved
        if s.against == reference
    }
    for task in dict.fromkeys(point.task for point in summary.points):
        scores, beside = [], []
        for p in summary.points:
            if p.task != task:
                continue
            cell = (p.task, p.size, p.name, p.leverage_ratio)
            name = labels[series_of(p)]
            tokens = f"{p.task_tokens:,.0f}"
            scores.append((name, tokens, f"{p.score:.1f}", between(p.low, p.high), f"{p.seeds}"))
            general = f"{p.general_tokens:,.0f}"
            beside.append((name, tokens, general, against.get(cell, ""), saved.get(cell, "")))
        # Each of the two tables fits a terminal of 80 columns.
        print_table(task, ("method", "task tokens", "score", "interval", "seeds"), scores)
        heads = ["method", "task\ntokens", "general\ntokens"]
        title = f"{task}: cost"
        if compared:
            heads += [f"against\n{reference}", "data saved"]
            title += f", and comparison with {reference}"
        print_table(title, heads, [row[: len(heads)] for row in beside])
    if any(text.endswith("*") for text in against.values()):
        typer.echo("* Compared only over the seeds that both methods have.")
    if summary.left_out:
        typer.echo(f"Left out: {summary.left_out} rows of cells that the study no longer has.")


def print_recommendation(found: Recommendation) -> None:
    """Print the recommended recipe, its expected score, and comparisons with other methods."""
    rows = [
        ("run", found.name),
        *(
            []
            if found.trains
            else [("training", "not needed: no trained method is clearly better")]
        ),
        ("expected", f"{found.metric} {found.expected}, 95% interval, on items like the dev items"),
    ]
    rows += [
        (f"against {name}", f"{by.value:+.1f} ({by.low:+.1f} to {by.high:+.1f})")
        for name, by in found.rivals.items()
    ]
    tied = [name for name, by in found.rivals.items() if by.low <= 0]
    if tied:
        rows.append(("not clearly worse", "; ".join(tied)))
    rows += [(f"{name}: forgetting", _beside(told)) for name, told in found.beside.items() if told]
    if found.more_examples is not None:
        gain = found.more_examples
        rows.append(
            ("100 more examples", f"{gain.value:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})")
        )
    title = (
        f"Recommended after {found.tried} settings and {found.seconds / 60:,.0f} minutes, by "
        f"{found.items} dev items"
    )
    print_table(title, ("", ""), rows)
    for sentence in found.advice:
        typer.echo(sentence)
    print_warnings(found.warnings)


def _beside(told: dict[str, float]) -> str:
    before, after = told["general_nll_before"], told["general_nll_after"]
    leaks = "leakage_after" in told
    leakage = f", {told['leakage_after']:.0%} of general prompts answered in the task's format"
    return f"general loss {before:.2f} to {after:.2f}{leakage if leaks else ''}"


def print_scores(scores: ExampleScores) -> None:
    """Print a summary of example scores and the examples with the lowest scores."""
    column, title = {
        "pvi": ("pvi", "Lowest PVI: hard or mislabeled examples"),
        "memory": ("recall", "Lowest recall: examples the model knows least"),
    }[scores.by]
    rows = [
        (
            row["origin"],
            one_line(row["prompt"], 60),
            one_line(row["completion"], 60),
            f"{row[column]:.2f}",
        )
        for row in scores.hardest
    ]
    print_table(title, ("where", "prompt", "completion", column), rows)
    told = scores.told
    if scores.by == "pvi":
        said = (
            f"{told['information']:.2f} bits of information per example "
            f"({told['information_per_token']:.2f} per token), {told['negative']:.0f} below zero"
        )
    else:
        levels = [f"{n:.0f} at level {name[-1]}" for name, n in told.items() if "level" in name]
        said = f"answer in {told['recall']:.0%} of the completions: {', '.join(levels)}"
    typer.echo(f"{scores.examples} examples, {said}.")


def print_stream(report: StreamReport) -> None:
    """Print which levels answered a stream, and at what cost."""
    rows = [
        (level, f"{count:,}", f"{count / max(report.inputs, 1):.1%}")
        for level, count in sorted(report.by.items(), key=lambda pair: -pair[1])
    ]
    print_table("Answered by", ("level", "inputs", "share"), rows)
    right = "" if report.accuracy is None else f", {report.accuracy:.1f}% correct"
    typer.echo(
        f"{report.inputs:,} inputs{right}; {report.top_calls:,} calls of the top model "
        f"({report.saved:.1%} saved, {report.tokens:,} tokens), {report.seconds:,.1f} s in total."
    )
    for what, counts in (
        ("without a label from the top model", report.failures),
        ("refused", report.refused),
    ):
        if counts:
            told = "; ".join(f"{count}x {reason}" for reason, count in counts.items())
            typer.echo(f"{sum(counts.values())} {what}: {told}.", err=True)


def print_diagnosis(found: list[dict[str, Any]]) -> None:
    """Print for each log the cause, who can fix it and how, and the evidence."""
    for told in found:
        typer.echo(f"{told['log']}: {told['cause'].replace('_', ' ')} ({told['side']})")
        typer.echo(f"  {told['says']} {told['mend']}")
        if told["by"] != "nothing":
            restart = "may succeed" if told["restart"] else "will most likely fail again"
            typer.echo(f"  After a restart, the run {restart}. Diagnosed by: {told['by']}.")
        for line in told["evidence"]:
            typer.echo(f"  {line['line']:>6}: {one_line(line['text'], 120)}")


def print_continual(report: ContinualReport) -> None:
    """Print the results of each strategy and its matrix of scores."""
    rows = [
        (
            row["strategy"],
            str(row["seeds"]),
            f"{row['overall']:.1f}",
            f"{row['backward']:+.1f} ({row['backward_by_tasks']:+.1f})",
            f"{row['valid']:.0%}",
            "-" if row["general"] is None else f"{row['general']:+.0f}%",
            *(f"{row['abilities'][ability]:+.1f}" for ability in report.abilities),
            "-" if row["leakage"] is None else f"{row['leakage']:.0%}",
            f"{row['seconds']:.0f}",
        )
        for row in report.rows
    ]
    measured = ("strategy", "seeds", "OP", "BWT (by T)", "valid", "general loss")
    columns = (*measured, *report.abilities.values(), "leakage", "s")
    print_table(f"{len(report.tasks)} tasks, one after another", columns, rows)
    for row in report.rows:
        matrix = [
            (f"{t + 1}. {task}", *("-" if value is None else f"{value:.1f}" for value in line))
            for t, (task, line) in enumerate(zip(report.tasks, row["matrix"], strict=True))
        ]
        names = [f"{i + 1}." for i in range(len(report.tasks))]
        print_table(f"{row['strategy']}: scores after each task", ("after", *names), matrix)
    print_warnings_of((row["strategy"], row["warnings"]) for row in report.rows)


def print_quanta(report: QuantaReport) -> None:
    """Print the quanta of a task, and how well each method follows the reference's order."""
    quanta = [
        (
            str(q.tokens),
            str(q.items),
            ", ".join(f"{text!r} {count}" for text, count in q.texts.items()),
            f"{q.start:.2f}",
            f"{q.end:.2f}",
            f"{q.learned:.1f}",
        )
        for q in report.quanta
    ]
    print_table("Quanta", ("tokens", "items", "texts", "start", "end", "learned at step"), quanta)

    def said(value: float | None, low: float | None, high: float | None) -> str:
        if value is None or low is None or high is None:
            return "no order"
        return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"

    methods = [
        (
            m.method,
            f"{sum(step is not None for step in m.learned)} of {len(m.learned)}",
            said(m.tau, m.low, m.high),
            said(m.difference, m.difference_low, m.difference_high),
        )
        for m in report.methods
    ]
    heads = ("method", "learned", "tau", "against the first")
    print_table("Agreement with the reference's order", heads, methods)


def print_tables(result: InNotebooks) -> None:
    """Print the tables of a result."""
    for table in result.tables():
        print_table(table.title, table.heads, table.rows)


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns of numbers are right-aligned."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=any(heads), title_justify="left")
    longest = max((len(row[0]) for row in rows), default=0)
    for place, head in enumerate(heads):
        # Part of a name or of a location is useless, so these columns are folded, not cut, and the
        # first column, which names the row, only beyond 30 characters.
        table.add_column(
            head,
            justify="right" if head.replace("\n", " ") in NUMBERS else "left",
            overflow="fold" if head in _NAMES else "ellipsis",
            no_wrap=place == 0 and longest <= 30,
        )
    for row in rows:
        table.add_row(*row)
    Console().print(table)


_NAMES = {"where", "method", "metric", "strategy", "level"}
