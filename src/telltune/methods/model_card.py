"""The README.md of an adapter's or a baseline's folder: a model card with metadata for the hub.

What `tell evaluate` and `tell compare` find is kept in scores.json and shown in one part of the
card, between two comments; people may edit all the rest.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import yaml

from telltune.errors import StorageError
from telltune.storage import read_cached_json, write_json, write_text
from telltune.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.models import Origin

__all__ = ["CARD", "SCORES", "baseline_card", "model_card", "record_scores"]

CARD = "README.md"
SCORES = "scores.json"
_BEGIN, _END = "<!-- scores: written by `tell evaluate` -->", "<!-- end of scores -->"
_TELL = "https://arxiv.org/abs/2404.00914"


def model_card(record: dict[str, Any], origin: Origin) -> str:
    """A model card.

    Args:
        record: What tell.json holds.
        origin: Of the base model.
    """
    counts, general = record["counts"], record["data"]["general"]
    mixed = (
        f", mixed into {counts['general_examples']:,} general examples "
        f"({counts['general_tokens']:,} tokens, leverage ratio {counts['leverage_ratio']:g}) of "
        f"{general['name']}"
        if general
        else ""
    )
    name = origin.hub_id or origin.described
    return f"""---
{_metadata(record, origin)}---

# {record["data"]["task"]["name"]}: {record["method"]} on {name}

- Base model: {origin.described}.{_held(record)}
- Trained on: {counts["task_examples"]:,} task examples ({counts["task_tokens"]:,} tokens,
  {counts["passes"]} passes){mixed}.
- Training: method `{record["method"]}`, {counts["optimizer_steps"]:,} optimizer steps, seed
  {record["seed"]}, {record["seconds"]:,.0f} seconds.{_classifier(record)}
- Made with telltune {VERSION}, which implements [TELL]({_TELL}). `tell.json` has the whole recipe,
  the versions, and the hashes of the data.

{_anchor(record)}
## Scores and limits

{_BEGIN}
{_score_table([])}
{_END}
{_dev_look(record)}
The adapter was trained once, with one seed, on {counts["task_examples"]:,} examples: other examples
or another seed give other scores, and no interval here covers that. What it does with inputs unlike
these examples, and what it costs the base model elsewhere, was not measured unless a table says so.

## Use

{_snippet(record, origin)}
`generation_config.json` holds the tokens that end an answer. Neither PEFT nor transformers reads it
from an adapter folder of its own accord, so it is passed here.
"""


def baseline_card(record: dict[str, Any]) -> str:
    """A model card of a baseline.

    Args:
        record: What tell.json holds.
    """
    counts, told = record["counts"], record["baseline"]
    labels = f" with {len(record['labels'])} labels" if record["labels"] else ""
    head = yaml.safe_dump(
        {"library_name": "telltune", "tags": ["telltune", record["method"]]}, sort_keys=False
    )
    return f"""---
{head}---

# {record["data"]["task"]["name"]}: {record["method"]}

- A baseline: a linear scorer on vectors of the prompt (`{told["features"]["kind"]}`) chooses among
  the answers of the training data. No language model answers.
- Fitted on: {counts["task_examples"]:,} task examples ({counts["task_tokens"]:,} tokens){labels}.
- Fitted by: method `{record["method"]}`, seed {record["seed"]}, {record["seconds"]:,.1f} seconds.
- Made with telltune {VERSION}. `tell.json` has the whole recipe, the versions, and the hash of the
  data. It also has the answers of the training data, and with TF-IDF the words of their prompts:
  do not share it where these are private.

## Scores and limits

{_BEGIN}
{_score_table([])}
{_END}

The baseline was fitted on {counts["task_examples"]:,} examples. Other examples give other scores,
and no interval here covers that.

## Use

```
tell predict . --file inputs.jsonl
tell evaluate .
```

In Python, `telltune.predict(".", ["..."])` answers prompts. Only telltune reads this folder.
"""


def record_scores(folder: Path, found: dict[str, Any]) -> None:
    """Keep what an evaluation found in an adapter folder, in place of the last one of its kind.

    A folder that cannot be written to stays as it is, and a warning says so. So does a card without
    the two comments.

    Args:
        folder: The adapter's.
        found: `task`, `split`, `sha256` of the items, `items`, `of` (how many there are),
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
        logging.getLogger(__name__).warning("The scores are not kept in %s: %s", folder, error)


def _metadata(record: dict[str, Any], origin: Origin) -> str:
    """The card's YAML head; `base_model` must be an id on the hub, so it may be missing."""
    whole = record["recipe"]["training"]["full_parameters"]
    base = (
        {}
        if origin.hub_id is None
        else {
            "base_model": origin.hub_id,
            "base_model_relation": "finetune" if whole else "adapter",
        }
    )
    head: str = yaml.safe_dump(
        {
            **base,
            "library_name": "transformers" if whole else "peft",
            "pipeline_tag": "text-generation",
            "tags": ["telltune", record["method"]],
        },
        sort_keys=False,
    )
    return head


def _held(record: dict[str, Any]) -> str:
    quantization = record["recipe"]["model"]["quantization"]
    return f" It was held as {quantization} in training." if quantization else ""


def _classifier(record: dict[str, Any]) -> str:
    """Tell of the classifier that has a say in the answers; "" where there is none."""
    told = record["classifier"]
    if told is None or "answers" not in told:
        return ""
    return f"""
- Answers: one of {len(record["labels"])} labels. With telltune a small classifier
  (`{told["features"]["kind"]}`) has a say in which; PEFT alone writes the adapter's own answer."""


def _dev_look(record: dict[str, Any]) -> str:
    """Tell of the look at dev data that chose the weights; "" for a run without early stopping."""
    found = record["early_stopping"]
    if found is None:
        return ""
    look = next(look for look in found["looks"] if look["step"] == found["kept_step"])
    loss = f"{look['loss']:.3f} nats a token"
    told = (
        f"the loss was {loss}"
        if look["score"] is None
        else f"the score was {look['score']:.1f} by the headline metric, and the loss {loss}"
    )
    return f"""
On {record["counts"]["dev_examples"]:,} dev examples {told}.
These dev examples chose the weights: those of step {look["step"]:,}, the best of
{len(found["looks"])} looks. So these numbers are likely better than those of other examples.
"""


def _anchor(record: dict[str, Any]) -> str:
    anchor = record["anchor"]
    told = []
    if anchor is None:
        told.append("It uses no anchor.\n")
    else:
        told.append(
            f"Its chat template carries the anchor, in the {anchor['place']} turn:\n\n"
            + "".join(f"> {line}\n" for line in anchor["prompt"].splitlines())
        )
        if anchor["response"]:
            told.append(f"Answers open with: {anchor['response']}\n")
    if record["shots"]:
        told.append(
            f"telltune puts {len(record['shots'])} example turns (`shots` in tell.json) before "
            "each prompt. The chat template does not: send them along.\n"
        )
    if record["answer_after"]:
        told.append(
            f"The answer is what follows the last {record['answer_after']!r} in the output.\n"
        )
    return "\n".join(told)


def _snippet(record: dict[str, Any], origin: Origin) -> str:
    """Python that answers one prompt, run in the folder itself; telltune is not needed."""
    if record["recipe"]["training"]["full_parameters"]:
        imports, load = "", "model = AutoModelForCausalLM.from_pretrained(adapter)"
    else:
        imports = "from peft import PeftModel\n"
        load = f"{origin.load}\nmodel = PeftModel.from_pretrained(base, adapter)"
    return f"""```python
{imports}from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

adapter = "."  # this folder, or its id on the hub
{load}
tokenizer = AutoTokenizer.from_pretrained(adapter)
generation = GenerationConfig.from_pretrained(adapter)

messages = [{{"role": "user", "content": "..."}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**inputs, generation_config=generation)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""


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
                f"{found['low']:.1f} to {found['high']:.1f} ({row['confidence']:.0%}) |"
            )
    told = ["", "The intervals cover the draw of the items only."]
    told += [f"- {row['task']}, {row['split']}: {w}" for row in rows for w in row["warnings"]]
    return "\n".join(lines + told)
