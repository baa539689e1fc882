"""Model card (README.md) of an adapter or baseline folder, with metadata for the hub.

`tell evaluate` and `tell compare` store scores in scores.json and show them in the card between two
comments. The rest of the card may be edited by hand.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import yaml

from telltune.errors import StorageError
from telltune.levers.protocol import yield_text
from telltune.result_table import between
from telltune.storage import read_cached_json, write_json, write_text
from telltune.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment

    from telltune.models import Origin

CARD = "README.md"
SCORES = "scores.json"
_BEGIN, _END = "<!-- scores: written by `tell evaluate` -->", "<!-- end of scores -->"


def is_whole_model(record: dict[str, Any]) -> bool:
    """Return whether a folder holds all weights of a model, given the contents of its tell.json.

    Such a model was trained with `training.full_parameters`, or merged from a base and an adapter.
    """
    return bool(record["recipe"]["training"]["full_parameters"]) or "merged" in record


def model_card(record: dict[str, Any], origin: Origin) -> str:
    """Return the model card of an adapter or of a merged model, given the contents of tell.json."""
    whole = is_whole_model(record)
    head: dict[str, Any] = {
        "library_name": "transformers" if whole else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["telltune", record["method"]],
    }
    if origin.hub_id is not None:  # `base_model` must be an id on the hub
        relation = "finetune" if whole else "adapter"
        head = {"base_model": origin.hub_id, "base_model_relation": relation} | head
    stopping = record["early_stopping"]
    kept = stopping and next(x for x in stopping["looks"] if x["step"] == stopping["kept_step"])
    # The counts of training may include examples without labels.
    labeled = record["counts"] | record["labeled"]
    made = sum(got["made"] for got in record["levers"])
    told = record | {"labeled": labeled, "made": made, "look": kept}
    return _filled("adapter.md", told, head, origin=origin, whole=whole, yield_text=yield_text)


def baseline_card(record: dict[str, Any]) -> str:
    """Return the model card of a baseline, given the contents of tell.json."""
    head = {"library_name": "telltune", "tags": ["telltune", record["method"]]}
    return _filled("baseline.md", record, head)


def _filled(card: str, record: dict[str, Any], head: dict[str, Any], **values: Any) -> str:
    values |= {"version": VERSION, "scores": f"{_BEGIN}\n{_score_table([])}\n{_END}"}
    head_text = yaml.safe_dump(head, sort_keys=False)
    return _cards().get_template(card).render(record, head=head_text, **values)


@cache
def _cards() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("telltune", "fitting/cards"),
        autoescape=False,  # noqa: S701 - the cards are Markdown
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )


def record_scores(folder: Path, found: dict[str, Any]) -> None:
    """Save the result of an evaluation in an adapter folder.

    The result replaces the previous one with the same task, split and items. If the folder is not
    writable, it is left unchanged and a warning is logged. A card without the two comments is left
    unchanged.

    Args:
        folder: The adapter folder.
        found: `task`, `split`, `sha256` of the items, `items`, `of` (total number of items),
            `confidence`, `scores` (by metric: score, low, high) and `warnings`.
    """
    kept = read_cached_json(folder / SCORES)
    kind = ("task", "split", "sha256")
    rows = [
        row
        for row in (kept if isinstance(kept, list) else [])
        if any(row.get(key) != found[key] for key in kind)
    ]
    rows.append(found)
    try:
        write_json(folder / SCORES, rows)
        card = folder / CARD
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        begin, end = text.find(_BEGIN), text.find(_END)
        if 0 <= begin < end:
            table = f"{_BEGIN}\n{_score_table(rows)}\n"
            write_text(card, text[:begin] + table + text[end:])
    except (StorageError, OSError, UnicodeDecodeError) as error:
        logging.getLogger(__name__).warning("The scores cannot be saved in %s: %s", folder, error)


def _score_table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "Not scored yet: run `tell evaluate` on this folder."
    lines = ["| data | items | metric | score | interval |", "|---|---:|---|---:|---|"]
    for row in rows:
        items = f"{row['items']:,}"
        if row["of"] > row["items"]:
            items += f" (the first of {row['of']:,})"
        for metric, found in row["scores"].items():
            data = re.sub(r"([|\\])", r"\\\1", f"{row['task']}, {row['split']}")
            lines.append(
                f"| {data} | {items} | {metric} | {found['score']:.1f} | "
                f"{between(found['low'], found['high'])} ({row['confidence']:.0%}) |"
            )
    told = ["", "The intervals cover the sampling of the items only."]
    told += [f"- {row['task']}, {row['split']}: {w}" for row in rows for w in row["warnings"]]
    return "\n".join(lines + told)
