"""Every row of the TELL paper's data is read, and its recipe's anchor is detached from it."""

from pathlib import Path

import pytest

from telltune.data.anchor import Anchor
from telltune.data.loaders import read_examples
from telltune.data.task import load_split, load_task
from telltune.recipe import DataSpec, load_recipe

REPOSITORY = Path(__file__).parents[2]
OFFICIAL = REPOSITORY.parent / "shared/data/tell-official"

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"{OFFICIAL} is not here"),
]

COUNTS = {
    "dev-en-is.jsonl": 71,
    "dev-is-en.jsonl": 56,
    "test-en-is.jsonl": 65,
    "test-is-en.jsonl": 47,
    "test_Halu_CoT_JSON.jsonl": 1506,
}
RECIPES = {
    "tell-en-is.yaml": ("dev-en-is.jsonl", "test-en-is.jsonl"),
    "tell-is-en.yaml": ("dev-is-en.jsonl", "test-is-en.jsonl"),
    "tell-halu.yaml": ("test_Halu_CoT_JSON.jsonl",),
}


def official(name):
    return read_examples([DataSpec(path=str(OFFICIAL / name))])


def recipe_named(name):
    return load_recipe(REPOSITORY / "recipes" / name)


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_every_published_row_is_an_example(name, count):
    examples = official(name)
    assert len(examples) == count
    assert all(example.prompt.strip() and example.completion.strip() for example in examples)
    assert examples[-1].origin == f"{OFFICIAL / name}:{count}"


@pytest.mark.parametrize("name", RECIPES)
def test_the_anchor_comes_off_every_published_row(name):
    spec = recipe_named(name).anchor
    assert spec is not None
    anchor = Anchor.from_spec(spec)
    opening = " ".join(anchor.prompt.split())
    line = " ".join(anchor.response.split())
    for file in RECIPES[name]:
        for example in official(file):
            bare = anchor.detach(example)
            before, after = " ".join(example.prompt.split()), " ".join(bare.prompt.split())
            # The whole anchor is removed, nothing else, and only once.
            assert before == f"{opening} {after}", example.origin
            assert opening not in after, example.origin
            before, after = (" ".join(e.completion.split()) for e in (example, bare))
            assert before == f"{line} {after}".strip(), example.origin
            assert bare.completion.strip(), example.origin


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_read_disjoint_training_and_test_data(name):
    recipe = recipe_named(name)
    train, test = load_split(recipe, "train"), load_split(recipe, "test")
    assert not {e.origin for e in train} & {e.origin for e in test}
    task = load_task(recipe)
    assert len(task.train) == len(train) > 0
    assert task.metrics[0] == recipe.evaluation.metrics[0]
