"""The check of a recipe's data counts the tokens that the model will read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import telltune
from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ANCHOR = "Name the shape, nothing else."
PROMPT = f"item 7 is {'very ' * 20}round"


@pytest.mark.parametrize("written", ["", f"{ANCHOR} "])
@pytest.mark.parametrize(("method", "anchor"), [("sft", ""), ("tell", f"{ANCHOR}\n\n")])
def test_the_anchor_of_task_data_counts_once_as_in_a_run(
    toy_recipe: dict[str, Any],
    tiny_tokenizer: Any,
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    written: str,
    method: str,
    anchor: str,
) -> None:
    row = {"prompt": written + PROMPT, "completion": "ball"}
    train, test = (str(write_jsonl(tmp_path / name, [row])) for name in ("a.jsonl", "b.jsonl"))
    toy_recipe |= {"method": method, "task": {"train": train}, "anchor": {"prompt": ANCHOR}}
    whole = Example(anchor + PROMPT, "ball")
    length = int(Encoder(tiny_tokenizer).encode([whole]).lengths[0])
    toy_recipe["mixture"] = {"general_examples": 1}
    toy_recipe["training"]["max_length"] = length
    assert telltune.check(toy_recipe).findings == []
    telltune.plan(toy_recipe, measure=False)
    toy_recipe["training"]["max_length"] = length - 1
    (found,) = telltune.check(toy_recipe).findings
    assert (found.file, found.kind) == (train, "over_long")
    assert found.reason.startswith(f"{length} tokens exceed the maximum of {length - 1}")
    with pytest.raises(DataError, match=rf"a.jsonl:1 \({length} tokens\)"):
        telltune.plan(toy_recipe, measure=False)
    # Test examples have the anchor, too, and are reported once.
    toy_recipe["task"] = {"train": toy_recipe["general"], "test": test}
    assert [f.file for f in telltune.check(toy_recipe).findings if f.refused] == [test]


def test_what_a_run_truncates_is_a_warning_and_a_prompt_without_room_is_refused(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path, write_jsonl: Any
) -> None:
    row = {"prompt": PROMPT, "completion": "ball " * 20}
    toy_recipe |= {"method": "sft", "general": None}
    toy_recipe["task"] = {"train": str(write_jsonl(tmp_path / "train.jsonl", [row]))}
    toy_recipe["training"]["too_long"] = "truncate"
    encoded = Encoder(tiny_tokenizer).encode([Example(**row)])
    room = int(encoded.lengths[0] - encoded.response_lengths[0])
    toy_recipe["training"]["max_length"] = room + 1
    (found,) = telltune.check(toy_recipe).findings
    assert (found.kind, found.refused) == ("over_long", False)
    assert found.reason.endswith(f"the maximum of {room + 1}: the response will be truncated")
    telltune.plan(toy_recipe, measure=False)
    toy_recipe["training"]["max_length"] = room
    (found,) = telltune.check(toy_recipe).findings
    assert (found.kind, found.refused) == ("over_long", True)
    with pytest.raises(DataError, match=f"longer than training.max_length = {room}"):
        telltune.plan(toy_recipe, measure=False)


def test_general_data_have_no_anchor(
    toy_recipe: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path, write_jsonl: Any
) -> None:
    row = {"prompt": PROMPT, "completion": "ball"}
    toy_recipe["general"] = str(write_jsonl(tmp_path / "general.jsonl", [row]))
    toy_recipe["training"]["max_length"] = int(
        Encoder(tiny_tokenizer).encode([Example(**row)]).lengths[0]
    )
    assert not [f for f in telltune.check(toy_recipe).findings if f.kind == "over_long"]
