"""Model card (README.md) of an adapter or baseline folder, with metadata for the hub.

`tell evaluate` and `tell compare` store scores in scores.json and show them in the card between two
comments. The rest of the card may be edited by hand.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import yaml

from telltune.errors import StorageError
from telltune.levers.protocol import yield_text
from telltune.storage import read_cached_json, write_json, write_text
from telltune.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from telltune.models import Origin

CARD = "README.md"
SCORES = "scores.json"
_BEGIN, _END = "<!-- scores: written by `tell evaluate` -->", "<!-- end of scores -->"
_TELL = "https://arxiv.org/abs/2404.00914"


def is_whole_model(record: dict[str, Any]) -> bool:
    """Return whether a folder holds all weights of a model, given the contents of its tell.json.

    Such a model was trained with `training.full_parameters`, or merged from a base and an adapter.
    """
    return bool(record["recipe"]["training"]["full_parameters"]) or "merged" in record


def model_card(record: dict[str, Any], origin: Origin) -> str:
    """Return the model card of an adapter or of a merged model.

    Args:
        record: Contents of tell.json.
        origin: Origin of the base model.
    """
    counts, general = record["counts"], record["data"]["general"]
    mixed = (
        f", mixed with {counts['general_examples']:,} general examples "
        f"({counts['general_tokens']:,} tokens, leverage ratio {counts['leverage_ratio']:g}) from "
        f"{general['name']}"
        if general
        else ""
    )
    name, examples = origin.hub_id or origin.described, _labeled(record)["task_examples"]
    return f"""---
{_metadata(record, origin)}---

# {record["data"]["task"]["name"]}: {record["method"]} on {name}

- Base model: {origin.described}.{_held(record)}{_merged(record)}
- Trained on: {_task_data(record)}{mixed}.{_levers(record)}
- Training: method `{record["method"]}`, {counts["optimizer_steps"]:,} optimizer steps, seed
  {record["seed"]}, {record["seconds"]:,.0f} seconds.{_classifier(record)}
- Made with telltune {VERSION}, which implements [TELL]({_TELL}). `tell.json` contains the full
  recipe, the library versions and the data hashes.

{_anchor(record)}
## Scores and limits

{_BEGIN}
{_score_table([])}
{_END}
{_dev_look(record)}
The model was trained once, with one seed, on {examples:,} examples. Scores vary
with the examples and the seed, and the intervals do not cover this variation. Performance on other
kinds of input, and forgetting of the base model's other abilities, were not measured unless a table
reports them.

## Use

{_snippet(record, origin)}
`generation_config.json` contains the end-of-answer tokens.{_loaded(record)}
"""


def baseline_card(record: dict[str, Any]) -> str:
    """Return the model card of a baseline.

    Args:
        record: Contents of tell.json.
    """
    counts, told = record["counts"], record["baseline"]
    labels = f" with {len(record['labels'])} labels" if record["labels"] else ""
    head = yaml.safe_dump(
        {"library_name": "telltune", "tags": ["telltune", record["method"]]}, sort_keys=False
    )
    return f"""---
{head}---

# {record["data"]["task"]["name"]}: {record["method"]}

- A baseline: a linear scorer on prompt vectors (`{told["features"]["kind"]}`) chooses one of the
  answers in the training data. No language model generates answers.
- Fitted on: {counts["task_examples"]:,} task examples ({counts["task_tokens"]:,} tokens){labels}.
- Fitted by: method `{record["method"]}`, seed {record["seed"]}, {record["seconds"]:,.1f} seconds.
- Made with telltune {VERSION}. `tell.json` contains the full recipe, the library versions and the
  data hash. It also contains the training answers and, with TF-IDF, the words of the training
  prompts. Do not share it if these are private.

## Scores and limits

{_BEGIN}
{_score_table([])}
{_END}

The baseline was fitted on {counts["task_examples"]:,} examples. Scores vary with the examples, and
the intervals do not cover this variation.

## Use

```
tell predict . --file inputs.jsonl
tell evaluate .
```

In Python, use `telltune.predict(".", ["..."])`. The folder can be loaded with telltune only.
"""


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


def _metadata(record: dict[str, Any], origin: Origin) -> str:
    """Return the YAML metadata. `base_model` must be a hub id, so a local base is omitted."""
    whole = is_whole_model(record)
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
    return f" It was quantized to {quantization} for training." if quantization else ""


def _merged(record: dict[str, Any]) -> str:
    """Return the lines about a merged model; "" for an adapter."""
    merged = record.get("merged")
    if merged is None:
        return ""
    told = (
        "Merged model: `tell export --merge` added a trained adapter to the base in fp32, and "
        f"saved the weights as {merged['precision']}."
    )
    return "".join(f"\n- {line}" for line in (told, *merged["lost"]))


def _labeled(record: dict[str, Any]) -> dict[str, int]:
    """Return the counts of the labeled examples; those of training may include others."""
    counts: dict[str, int] = record["counts"] | record["labeled"]
    return counts


def _task_data(record: dict[str, Any]) -> str:
    labeled = _labeled(record)
    examples, tokens = labeled["task_examples"], labeled["task_tokens"]
    if made := sum(got["made"] for got in record["levers"]):
        return f"{examples:,} labeled examples ({tokens:,} tokens) and {made:,} made ones"
    passes = record["counts"]["passes"]
    return f"{examples:,} task examples ({tokens:,} tokens, {passes} passes)"


def _levers(record: dict[str, Any]) -> str:
    """Return a line for each lever of the run."""
    return "".join(
        f"\n- Lever `{got['lever']}`: {yield_text(got)}. {' '.join(got['notes'])}".rstrip()
        for got in record["levers"]
    )


def _classifier(record: dict[str, Any]) -> str:
    """Return the line about the classifier that is combined with the adapter; "" without one."""
    told = record["classifier"]
    if told is None or "answers" not in told:
        return ""
    return f"""
- Answers: one of {len(record["labels"])} labels. telltune combines the adapter's label scores with
  those of a small classifier (`{told["features"]["kind"]}`). PEFT alone uses the adapter only."""


def _dev_look(record: dict[str, Any]) -> str:
    """Return the dev result that selected the weights; "" for a run without early stopping."""
    found = record["early_stopping"]
    if found is None:
        return ""
    look = next(look for look in found["looks"] if look["step"] == found["kept_step"])
    loss = f"{look['loss']:.3f} nats per token"
    told = (
        f"the loss was {loss}"
        if look["score"] is None
        else f"the headline metric was {look['score']:.1f} and the loss was {loss}"
    )
    return f"""
On {record["counts"]["dev_examples"]:,} dev examples, {told}.
The weights are those of step {look["step"]:,}, the best of {len(found["looks"])} evaluations on
these dev examples. These numbers are therefore likely better than on other examples.
"""


def _anchor(record: dict[str, Any]) -> str:
    anchor = record["anchor"]
    told = []
    if anchor is None:
        told.append("The adapter uses no anchor.\n")
    else:
        told.append(
            f"The chat template adds the anchor to the {anchor['place']} turn:\n\n"
            + "".join(f"> {line}\n" for line in anchor["prompt"].splitlines())
        )
        if anchor["response"]:
            told.append(f"Answers start with: {anchor['response']}\n")
    if record["shots"]:
        told.append(
            f"telltune puts {len(record['shots'])} example turns (`shots` in tell.json) before "
            "each prompt. The chat template does not, so include them in `messages`.\n"
        )
    if record["answer_after"]:
        told.append(
            f"The answer is the text after the last {record['answer_after']!r} in the output.\n"
        )
    return "\n".join(told)


def _loaded(record: dict[str, Any]) -> str:
    """Return how the generation config is loaded, as the end of a sentence or paragraph."""
    if is_whole_model(record):
        return ""
    return (
        " PEFT and transformers do not load it\n"
        "from an adapter folder by default, so the code above passes it explicitly."
    )


def _snippet(record: dict[str, Any], origin: Origin) -> str:
    """Return Python code that answers one prompt without telltune, run inside the folder."""
    if is_whole_model(record):
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
    told = ["", "The intervals cover the sampling of the items only."]
    told += [f"- {row['task']}, {row['split']}: {w}" for row in rows for w in row["warnings"]]
    return "\n".join(lines + told)
