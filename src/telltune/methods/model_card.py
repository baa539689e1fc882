"""The README.md of an adapter folder, with the metadata that the hub reads."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["model_card"]


def model_card(record: dict[str, Any]) -> str:
    """A model card from what tell.json holds."""
    counts, base, anchor = record["counts"], record["base"], record["anchor"]
    head = yaml.safe_dump(
        {
            "base_model": base["name"],
            "library_name": "peft",
            "pipeline_tag": "text-generation",
            "tags": ["telltune", record["method"]],
        },
        sort_keys=False,
    )
    carried = (
        f"Its chat template carries the anchor, in the {anchor['place']} turn:\n\n"
        + "".join(f"> {line}\n" for line in anchor["prompt"].splitlines())
        + (f"\nAnswers open with: {anchor['response']}\n" if anchor["response"] else "")
        if anchor
        else "It uses no anchor.\n"
    )
    general = record["data"]["general"]
    mixed = (
        f", mixed into {counts['general_examples']:,} general examples "
        f"({counts['general_tokens']:,} tokens, leverage ratio {counts['leverage_ratio']:g}) of "
        f"{general['name']}"
        if general
        else ""
    )
    return f"""---
{head}---

# {record["data"]["task"]["name"]}: {record["method"]} on {base["name"]}

Made by [telltune](https://arxiv.org/abs/2404.00914) from {counts["task_examples"]:,} task examples
({counts["task_tokens"]:,} tokens, {counts["passes"]} passes){mixed}, in
{counts["optimizer_steps"]:,} optimizer steps and {record["seconds"]:,.0f} seconds. `tell.json` has
the whole recipe, the versions and the hashes of the data.

{carried}
## Use

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("THIS FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")
messages = [{{"role": "user", "content": "..."}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
answer = model.generate(**inputs, max_new_tokens={record["answer_tokens"]}, do_sample=False)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```
"""
