"""The order of a recipe's levers, and levers of plugins in recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from telltune.errors import RecipeError
from telltune.fitting.pre_training import describe_pre_training
from telltune.levers.protocol import Yield
from telltune.levers.registry import PluginLever, levers_of, register_lever
from telltune.methods.registry import get_method
from telltune.recipe import Recipe, recipe_from_dict
from telltune.recipe.lever_sections import LEVER_SECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from telltune.data.task import TaskData
    from telltune.levers.protocol import Resources, UseAs


class Repeat(PluginLever):
    """Every labeled example some more times."""

    name = "repeat"
    times: int = 1

    def apply(self, task: TaskData, resources: Resources) -> Yield:
        made = task.train * self.times
        return Yield(self.name, made, len(made), {})


class Early(Repeat):
    """The same, as task data."""

    name = "early"
    use_as: ClassVar[UseAs] = "task"


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The levers above are there during a test only."""
    for lever in (Repeat, Early):
        monkeypatch.setitem(LEVER_SECTIONS, lever.name, lever)
    return


def recipe(**keys: Any) -> Recipe:
    return recipe_from_dict({"task": "answer_kind", **keys})


def test_what_is_made_once_comes_last_and_the_recipes_order_decides_between_plugins() -> None:
    whole = recipe(
        pseudo_label="auto", synthesis="task", levers={"repeat": {"times": 3}, "early": None}
    )
    assert [lever.name for lever in levers_of(whole)] == [
        "synthesis",
        "early",
        "pseudo_label",
        "repeat",
    ]
    assert levers_of(recipe()) == ()


def test_a_plan_names_every_lever() -> None:
    whole = recipe(pseudo_label="tfidf", levers={"repeat": None})
    assert describe_pre_training(get_method("sft"), whole) == [  # type: ignore[arg-type]
        "up to 400 unlabeled inputs are labeled and added to the task",
        "the lever `repeat` makes training examples",
    ]


def test_a_section_is_read_with_its_defaults_and_written_out_whole() -> None:
    read = recipe(levers={"repeat": None, "early": {"times": 2}})
    assert read.model_dump()["levers"] == {"repeat": {"times": 1}, "early": {"times": 2}}
    assert recipe_from_dict(read.model_dump(mode="json")) == read
    changed = recipe_from_dict({"task": "answer_kind"}, overrides=["levers.repeat.times=4"])
    assert levers_of(changed) == (Repeat(times=4),)
    assert recipe().with_keys([("levers.repeat", {"times": 4})]) == changed


@pytest.mark.parametrize(
    ("levers", "message"),
    [
        (
            {"repaet": None},
            (
                r"^recipe: `levers`: there is no lever `repaet` \(known levers: .*repeat, early\); "
                r"install the package that adds it, or name its module with --plugin\.$"
            ),
        ),
        (
            {"repeat": {"tmes": 2}},
            r"`levers`: `tmes` is not a key of this lever `repeat` \(did you mean `times`\?\)\.$",
        ),
        ({"repeat": {"times": "many"}}, r"`levers`: `times`: must be a whole number"),
        (["repeat"], r"`levers`: must be a mapping"),
    ],
)
def test_a_mistake_is_one_sentence(levers: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(levers=levers)


def test_a_name_that_exists_is_refused() -> None:
    class Other(Repeat):
        name = "repeat"

    class Key(Repeat):
        name = "pseudo_label"

    assert register_lever(Repeat) is Repeat
    for lever in (Other, Key):
        with pytest.raises(RecipeError, match=f"lever `{lever.name}` is already registered"):
            register_lever(lever)
