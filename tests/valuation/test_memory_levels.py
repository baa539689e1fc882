"""Memory levels of a model that knows half of the facts by construction."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.data.encoding import Encoder
from telltune.data.examples import Example
from telltune.data.mixture import Mixture
from telltune.errors import DataError
from telltune.recipe import recipe_from_dict
from telltune.training.run import TrainingOptions, train
from telltune.training.training_data import LossWeights, TrainingData
from telltune.valuation.memory import (
    Memory,
    memory_of,
    propose_templates,
    read_aliases,
    says,
)

if TYPE_CHECKING:
    from pathlib import Path

FACTS = [
    Example(f"Capital of {place}?", city)
    for place, city in (
        ("Aa", "Reykjavik"),
        ("Bb", "Lisbon"),
        ("Cc", "Quito"),
        ("Dd", "Hanoi"),
        ("Ee", "Oslo"),
        ("Ff", "Rome"),
        ("Gg", "Cairo"),
        ("Hh", "Lima"),
    )
]
KNOWN = FACTS[:4]


@pytest.mark.parametrize(
    ("hits", "level"), [(0, 0), (1, 1), (5, 1), (6, 2), (10, 2), (15, 3), (16, 4), (20, 4)]
)
def test_levels_are_quarters_of_the_completions_and_none_is_level_0(hits: int, level: int) -> None:
    memory = Memory(np.array([[hits // 2, hits - hits // 2]]), samples=10, seconds=0)
    assert memory.level.tolist() == [level]
    assert memory.recall[0] == hits / 20


def test_an_answer_counts_as_whole_words_under_any_of_its_names() -> None:
    assert says("It is New  York, of course.", ["new york"])
    assert not says("He often came.", ["ten"])
    assert says("The USA did.", ["United States", "USA"])
    assert not says("Nothing.", ["?!"])


def test_what_a_model_was_taught_is_known_and_the_rest_is_not(tiny_base: Any) -> None:
    recipe = recipe_from_dict(
        {
            "task": "medical_specialty",
            "training": {"full_parameters": True, "learning_rate": 5e-3, "precision": "fp32"},
        }
    )
    encoded = Encoder(tiny_base.tokenizer).encode(KNOWN)
    mixture = Mixture(len(KNOWN), 0, 0, 1, "shuffled", 0, 4)
    data = TrainingData(encoded, None, mixture, 100, LossWeights("example"))
    train(tiny_base, recipe, data, TrainingOptions())
    memory = memory_of(tiny_base, FACTS, ["{prompt}"], samples=4)
    assert memory.level[:4].min() >= 3
    assert memory.level[4:].max() == 0
    # The second time, the model is not asked.
    again = memory_of(tiny_base, FACTS, ["{prompt}"], samples=4)
    assert again.seconds == pytest.approx(memory.seconds, rel=0.2)


def test_a_bar_shows_how_many_completions_there_are(tiny_base: Any, capfd: Any) -> None:
    for shown in (True, False):
        memory_of(tiny_base, FACTS[:2], ["{prompt}", "Q: {prompt}"], samples=3, progress=shown)
        said = capfd.readouterr()
        assert said.out == ""
        assert ("12/12" in said.err) == shown


def test_a_model_may_propose_templates_and_each_puts_the_question_last(tiny_base: Any) -> None:
    found = propose_templates(tiny_base, 6, seed=0)
    assert 1 <= len(found) == len(set(found)) <= 6
    for template in found:
        line, prompt = template.split("\n\n")
        assert prompt == "{prompt}"
        assert len(line.split()) >= 3
    assert propose_templates(tiny_base, 6, seed=0) == found


def test_an_alias_table_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "aliases.json"
    with pytest.raises(DataError, match="cannot be read"):
        read_aliases(str(path))
    path.write_text("[1]")
    with pytest.raises(DataError, match="must map each answer"):
        read_aliases(str(path))
    path.write_text(json.dumps({"a": "b"}))
    with pytest.raises(DataError, match="aliases of `a`"):
        read_aliases(str(path))
    path.write_text(json.dumps({"a": ["b"]}))
    assert read_aliases(str(path)) == {"a": ["b"]}
