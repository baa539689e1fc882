"""Checks of `tell check` on the data of a recipe, or on files, with a model's tokenizer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.checks import TRAIN, Finding, Kind, check_examples, finding_of, grouped
from telltune.data.embedded import embedded_task
from telltune.data.encoding import Encoder
from telltune.data.examples import Example, Problem
from telltune.data.files import Split, left_out
from telltune.data.general import scan_general
from telltune.data.loaders import scan
from telltune.data.prompts import scan_unlabeled
from telltune.data.report import ReadReport
from telltune.data.task import REST, anchor_of, load_general, named_data, unlisted
from telltune.errors import DataError
from telltune.models import context_length, load_config, load_tokenizer
from telltune.result_table import InNotebooks, ResultTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from telltune.recipe import DataSpec, ModelSpec, Recipe

GENERAL_AT_ONCE = 20_000
# General data may be of any size and are read in parts. Repeated rows can only be found among all
# of them at once.
_NOT_OF_GENERAL: frozenset[Kind] = frozenset({"duplicate", "conflict"})


class _Found(NamedTuple):
    counts: dict[str, int]
    findings: list[Finding]


class Checked(_Found, InNotebooks):
    """Result of `telltune.check`: a pair, which notebooks show as a table.

    Attributes:
        counts: Number of examples by split and of general data.
        findings: Rows that would be refused, and rows that are suspicious.
        guessed: Sentences about columns that were guessed, or could not be; "" if none had to be.
    """

    guessed = ""

    def tables(self) -> list[ResultTable]:
        """Return the findings as one table; those that differ only in numbers share a row."""
        counted = ", ".join(f"{n:,} {split}" for split, n in self.counts.items())
        guessed = f" {self.guessed}" if self.guessed else ""
        refused = sum(finding.refused for finding in self.findings)
        warned = len(self.findings) - refused
        return [
            ResultTable(
                f"{counted} examples; {refused} refused, {warned} warnings.{guessed}",
                ("where", "finding", "kind"),
                [
                    (f"{group.first.file}:{group.first.line}", group.reason, group.first.kind)
                    for group in grouped(self.findings)
                ],
            )
        ]


def check_files(
    specs: Mapping[Split, Sequence[DataSpec]], *, model: ModelSpec | None, max_length: int | None
) -> Checked:
    """Check data sets by split; `train` is compared with every other split.

    Without a model, tokens are not counted and control tokens not found.

    Raises:
        TellError: A file or the model does not exist.
    """
    findings: list[Finding] = []
    groups = _read(specs, findings)
    findings += _checks(model, max_length)(groups)
    named = [(spec, split) for split, given in specs.items() for spec in given]
    return Checked(_counts(groups), findings + _left_out(named))


def check_recipe_data(
    recipe: Recipe, *, model: ModelSpec, max_length: int, anchored: bool
) -> Checked:
    """Check the task data and general data of a recipe, with the tokenizer of a model.

    Only the task data are searched for repeated rows. If they are `anchored`, the recipe's anchor
    counts in their lengths, as in a run.

    Raises:
        TellError: A file or the model does not exist, or the model cannot have the anchor.
    """
    splits: tuple[Split, ...] = ("train", "dev", "test")
    findings: list[Finding] = []
    if recipe.task.embedded:
        task = embedded_task(recipe.task.embedded)
        groups: dict[str, list[Example]] = {s: list(getattr(task, s)) for s in splits}
    else:
        groups = _read({s: getattr(recipe.task, s) or () for s in splits}, findings)
    anchor = anchor_of(recipe)
    if anchor is not None:
        groups = {split: [anchor.detach(e) for e in group] for split, group in groups.items()}
    truncates = recipe.training.too_long == "truncate"
    check = _checks(model, max_length, anchor if anchored else None, truncates=truncates)
    findings += check(groups)
    for group in groups.values():
        findings += map(finding_of, unlisted(recipe, group))
    counts = _counts(groups)
    tested = {split: group for split, group in groups.items() if split != TRAIN}
    unlabeled = [spec for spec in recipe.task.unlabeled or () if spec.path != REST]
    if unlabeled:
        reader = partial(scan_unlabeled, trained_on=recipe.task.train or ())
        inputs = list(_examples(unlabeled, reader, findings))
        counts["unlabeled"] = len(inputs)
        shared = check_examples({TRAIN: inputs, **tested})
        findings += [_left_out_input(f) for f in shared if f.kind in ("leak_exact", "leak_near")]
    sources = recipe.general.sources if recipe.general else []
    unsized = [spec.path for spec in sources if spec.take == "auto"]
    if unsized and any(finding.refused for finding in findings):
        reason = "not checked: how much is read depends on the task data, which have problems"
        findings += [Finding(path, 1, reason, "left_out", refused=False) for path in unsized]
    elif (general := load_general(recipe)) is not None:
        known = set(findings)
        counts["general"] = 0
        examples = _examples(general.sources, scan_general, findings)
        while part := list(islice(examples, GENERAL_AT_ONCE)):
            counts["general"] += len(part)
            found = check({TRAIN: part, **tested}, plain=TRAIN)
            findings += [f for f in found if f not in known and f.kind not in _NOT_OF_GENERAL]
    return Checked(counts, findings + _left_out(named_data(recipe)))


def _left_out_input(finding: Finding) -> Finding:
    """Return a warning instead of a refusal, because a run excludes such inputs."""
    if finding.kind == "leak_near":
        return finding
    return replace(finding, reason=f"{finding.reason}; this input is left out", refused=False)


def _left_out(named: list[tuple[DataSpec, Split]]) -> list[Finding]:
    found = left_out(named).items()
    return [Finding(folder, 1, told, "left_out", refused=False) for folder, told in found]


def _counts(groups: Mapping[str, Sequence[Example]]) -> dict[str, int]:
    return {split: len(group) for split, group in groups.items()}


def _read(
    specs: Mapping[Split, Sequence[DataSpec]], findings: list[Finding]
) -> dict[str, list[Example]]:
    return {
        split: list(_examples(given, partial(scan, split=split), findings))
        for split, given in specs.items()
        if given
    }


def _examples(
    specs: Sequence[DataSpec],
    reader: Callable[[DataSpec, ReadReport], Iterator[Example | Problem]],
    findings: list[Finding],
) -> Iterator[Example]:
    """Yield examples as they are read, and append problems of their rows to the findings."""
    report = ReadReport()
    for spec in specs:
        start, stop = spec.rows or (0, None)
        for number, item in enumerate(reader(spec, report)):
            if isinstance(item, Problem):
                findings.append(finding_of(item))
            elif start <= number and (stop is None or number < stop):
                yield item
    findings += report.findings()


def _checks(
    model: ModelSpec | None,
    max_length: int | None,
    anchor: Anchor | None = None,
    *,
    truncates: bool = False,
) -> Callable[..., list[Finding]]:
    """Return `check_examples` with token counts and control tokens of a model's tokenizer.

    The function's argument `plain` names a group whose examples have no anchor.
    """
    if model is None:
        return check_examples
    tokenizer = load_tokenizer(model)
    bare, anchored = Encoder(tokenizer), Encoder(anchored_tokenizer(tokenizer, anchor))
    context = context_length(load_config(model))
    limit = min(context, max_length or context)

    def found(groups: Mapping[str, Sequence[Example]], plain: str = "") -> list[Finding]:
        lengths: dict[int, int] = {}
        shortest: dict[int, int] = {}
        refused: dict[int, str] = {}
        others = [e for name, group in groups.items() if name != plain for e in group]
        for encoder, examples in ((bare, list(groups.get(plain, ()))), (anchored, others)):
            # Examples are encoded together, which is many times faster than one by one.
            try:
                encoded = encoder.encode(examples)
            except DataError:
                refused |= {id(examples[i]): why for i, why in encoder.refusals(examples).items()}
                examples = [example for example in examples if id(example) not in refused]
                encoded = encoder.encode(examples)
            lengths |= dict(zip(map(id, examples), encoded.lengths.tolist(), strict=True))
            prompts = encoded.lengths - encoded.response_lengths
            shortest |= dict(zip(map(id, examples), (prompts + 1).tolist(), strict=True))
        return check_examples(
            groups,
            control_tokens=bare.control_tokens,
            count_tokens=lambda example: lengths[id(example)],
            max_length=max_length,
            context=context,
            truncated=lambda example: truncates and shortest[id(example)] <= limit,
            refusal=lambda example: refused.get(id(example)),
        )

    return found
