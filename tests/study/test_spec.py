"""A study's file gives its cells in order, and its mistakes are named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from telltune.errors import RecipeError
from telltune.study.spec import Cell, StudySpec, cells_of, load_study

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = {
    "task": "medical_specialty",
    "general": "embedded",
    "anchor": "Name the specialty.",
    "mixture": {"leverage_ratio": 8},
}


PASSES = {"method": "sft", "set": {"mixture.passes": 3}}


def study(**values: Any) -> list[Cell]:
    spec = {"recipe": RECIPE, "methods": ["sft", "tell"], "sizes": [3000, 10000]}
    return cells_of(StudySpec.model_validate(spec | values))


def test_a_grid_is_every_method_at_every_size_and_seed() -> None:
    cells = study(seeds=[0, 1])
    assert len(cells) == 8
    assert {(c.name, c.size, c.seed) for c in cells} == {
        (name, size, seed) for name in ("sft", "tell") for size in (3000, 10000) for seed in (0, 1)
    }
    assert all(c.recipe.task.max_tokens == c.size and c.recipe.seed == c.seed for c in cells)


def test_a_whole_seed_is_there_before_the_next_and_small_cells_come_first() -> None:
    order = [(cell.seed, cell.size) for cell in study(seeds=[1, 0], sizes=[10000, 3000])]
    assert order == sorted(order, key=lambda pair: (pair[0], pair[1] or 0))


def test_what_changes_nothing_makes_no_cell_of_its_own() -> None:
    cells = study(methods=["base", "sft", "tell"], leverage_ratios=[4, 8], seeds=[0, 1])
    by_name = {name: [c for c in cells if c.name == name] for name in ("base", "sft", "tell")}
    assert [(c.size, c.leverage_ratio, c.seed) for c in by_name["base"]] == [(None, None, 0)]
    assert len(by_name["sft"]) == 4
    assert {c.leverage_ratio for c in by_name["sft"]} == {None}
    assert len(by_name["tell"]) == 8
    assert {c.recipe.mixture.leverage_ratio for c in by_name["tell"]} == {4, 8}


def test_more_blocks_add_cells_and_repeat_none() -> None:
    cells = study(more=[{"methods": ["sft"], "sizes": [10000, 100000]}])
    assert sorted(c.size or 0 for c in cells if c.name == "sft") == [3000, 10000, 100000]
    assert sorted(c.size or 0 for c in cells if c.name == "tell") == [3000, 10000]


def test_a_method_may_have_settings_and_a_name_of_its_own() -> None:
    longer = {"method": "sft", "name": "sft, 12 passes", "set": {"mixture.passes": 12}}
    cells = study(methods=["sft", longer], sizes=[3000])
    assert [(c.name, c.recipe.mixture.passes) for c in cells] == [
        ("sft", "auto"),
        (longer["name"], 12),
    ]


def test_a_study_can_be_written_elsewhere(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    data = {"train": "train.jsonl", "test": ["test.jsonl"]}
    task = {"name": "mine", "task": {"train": [{"path": "*ain.jsonl"}], "test": "test.jsonl"}}
    keys = {"methods": ["sft"], "sizes": [100]}
    for number, values in enumerate(
        (keys | {"recipe": {"task": data}}, keys | {"recipe": {"seed": 3}, "tasks": [task]})
    ):
        file = tmp_path / "study.yaml"
        file.write_text(yaml.safe_dump(values))
        spec, cells = load_study(file)
        copy = tmp_path / f"runs{number}" / "study.yaml"
        copy.parent.mkdir()
        copy.write_text(spec.to_yaml())
        assert [cell.recipe for cell in load_study(copy)[1]] == [cell.recipe for cell in cells]


def test_without_seeds_the_recipes_own_is_used() -> None:
    [cell] = study(recipe=RECIPE | {"seed": 7}, methods=["sft"], sizes=[3000])
    assert cell.seed == cell.recipe.seed == 7


@pytest.mark.parametrize(
    "amount",
    [
        {"mixture.general_examples": 10},
        {"mixture": {"general_examples": 10}},
        {"mixture": {"leverage_ratio": 2.5}},
        {"mixture.leverage_ratio": 2.5, "mixture": {"passes": 3}},
    ],
)
def test_a_method_may_have_an_amount_of_general_data_of_its_own(amount: dict[str, Any]) -> None:
    few = {"method": "tell", "name": "few", "set": amount}
    cells = study(methods=[few, "tell"], sizes=[3000], leverage_ratios=[1, 20])
    assert [cell.name for cell in cells] == ["few", "tell", "tell"]
    mixture = cells[0].recipe.mixture
    assert (mixture.general_examples, mixture.leverage_ratio) in ((10, 8), (None, 2.5))


def test_a_task_may_have_an_amount_of_general_data_of_its_own() -> None:
    task = {"name": "a", "task": "equation", "mixture": {"leverage_ratio": 2.5}}
    cells = study(tasks=[task, "mention_json"], methods=["tell"], sizes=[3000], leverage_ratios=[1])
    assert [(cell.task, cell.leverage_ratio) for cell in cells] == [("a", 2.5), ("mention_json", 1)]


def test_a_section_in_set_keeps_the_other_keys_of_the_recipe() -> None:
    [cell] = study(
        recipe=RECIPE | {"lora": {"rank": 4}},
        methods=[{"method": "tell", "set": {"mixture": {"passes": 3}, "product_of_experts": {}}}],
        sizes=[3000],
    )
    assert (cell.recipe.mixture.passes, cell.recipe.mixture.leverage_ratio) == (3, 8)
    assert cell.recipe.product_of_experts is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task.labels", {"anatomy": "parts: of the body", "no": "yes"}),
        ("mixture", {"passes": 3, "leverage_ratio": 2.5}),
        ("anchor.prompt", "Team: which, {now}?" + " Be brief." * 20),
        ("evaluation.metrics", ["accuracy", "macro_f1"]),
        ("general", None),
    ],
)
def test_a_setting_may_be_any_value(key: str, value: Any) -> None:
    [cell] = study(methods=[{"method": "tell", "set": {key: value}}], sizes=[3000])
    section, _, name = key.partition(".")
    found = getattr(cell.recipe, section)
    if name:
        found = getattr(found, name)
    if isinstance(value, dict) and not isinstance(found, dict):
        found = {one: getattr(found, one) for one in value}
    assert found == value


def test_tasks_are_embedded_names_or_recipe_keys() -> None:
    own = {"name": "mine", "task": {"embedded": "equation"}, "evaluation": {"max_items": 7}}
    cells = study(tasks=["mention_json", own], methods=["sft"], sizes=[3000])
    assert [c.task for c in cells] == ["mention_json", "mine"]
    assert [c.recipe.task.embedded for c in cells] == ["mention_json", "equation"]
    assert cells[1].recipe.evaluation.max_items == 7
    # The recipe's anchor is for the recipe's task.
    assert [c.recipe.anchor for c in cells] == [None, None]


def test_without_tasks_the_recipes_own_is_studied() -> None:
    [cell] = study(methods=["sft"], sizes=[3000])
    assert cell.task == "medical_specialty"
    assert cell.recipe.anchor is not None


def test_a_study_may_name_a_recipe_beside_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    recipe = {"task": {"train": "train.jsonl"}, "anchor": "Answer."}
    (tmp_path / "data" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    study_file = tmp_path / "study.yaml"
    values = {"recipe": "data/recipe.yaml", "methods": ["sft_anchor"], "sizes": [100]}
    study_file.write_text(yaml.safe_dump(values))
    _, [cell] = load_study(study_file)
    assert cell.recipe.task.train is not None
    assert cell.recipe.task.train[0].path == str(tmp_path / "data" / "train.jsonl")
    assert cell.recipe.anchor is not None


def test_the_same_method_may_be_in_two_blocks_and_have_settings_of_its_own_at_another_size() -> (
    None
):
    more = [
        {"methods": ["sft"], "seeds": [0, 1]},
        {"methods": [PASSES], "sizes": [30000]},
    ]
    cells = study(methods=["sft"], sizes=[3000], more=more)
    assert [(c.size, c.seed, c.recipe.mixture.passes == 3) for c in cells] == [
        (3000, 0, False),
        (30000, 0, True),
        (3000, 1, False),
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ["tel"]}, "there is no method `tel`; did you mean `tell`"),
        ({"size": [3]}, r"`size` is not a key of this study \(did you mean `sizes`"),
        ({"sizes": []}, "`sizes`"),
        ({"more": [{"tasks": ["other"]}]}, "`more` names the task `other`"),
        ({"tasks": ["equation", "equation"]}, "two tasks have the same name"),
        ({"methods": [{"method": "sft", "set": {"mixture.pases": 3}}]}, "`mixture.pases`"),
        ({"methods": ["sft", PASSES]}, "two methods are named `sft` but differ"),
        ({"methods": [PASSES], "more": [{"methods": ["sft"], "seeds": [1]}]}, "named `sft`"),
        (
            {"methods": [{"method": name, "name": "x"} for name in ("sft", "sft_anchor")]},
            "two methods are named `x`",
        ),
        (
            {"methods": [{"method": "sft", "set": {"task.max_tokens": 50}}]},
            "`sizes` sets `task.max",
        ),
        ({"methods": [{"method": "sft", "set": {"seed": 5}}]}, "`seeds` sets `seed`"),
        (
            {"methods": [{"method": "sft", "set": {"task": {"max_tokens": 50}}}]},
            "`sizes` sets `task.max_tokens`; remove it from `set`",
        ),
        (
            {
                "methods": [
                    {"method": "sft", "set": {"mixture.passes": 2, "mixture": {"passes": 3}}}
                ]
            },
            "`mixture.passes` is given twice",
        ),
        (
            {"tasks": [{"name": "a", "task": {"embedded": "equation", "max_tokens": 50}}]},
            "`sizes` sets `task.max_tokens`; remove it from the task",
        ),
        (
            {"tasks": [{"name": "a", "task": "equation", "seed": 5}], "seeds": [0, 1]},
            "`seeds` sets `seed`; remove it from the task",
        ),
        (
            {"tasks": [{"name": "a", "task": "equation", "method": "tell"}]},
            "`methods` sets `method`; remove it from the task",
        ),
        ({"methods": [{"method": "sft", "set": {"method": "tell"}}]}, "`methods` sets `method`"),
        ({"seeds": []}, "`seeds`"),
        ({"leverage_ratios": []}, "`leverage_ratios`"),
        ({"more": [{"tasks": []}]}, "`more.0.tasks`"),
        ({"more": [{"methods": []}]}, "`more.0.methods`"),
        (
            {
                "recipe": RECIPE | {"mixture": {"general_examples": 10}},
                "methods": ["tell"],
                "leverage_ratios": [1, 20],
            },
            "`mixture.general_examples` stands in place of a leverage ratio",
        ),
        (
            {"recipe": RECIPE | {"evaluation": {"confidence": 0.5}}},
            "all intervals of a study are of 95%; remove `evaluation.confidence`",
        ),
        *(
            (
                {
                    "tasks": ["medical_specialty"],
                    "methods": ["sft", {"method": "sft", "name": "b", "set": {key: value}}],
                },
                f"`{key}` differs between sft and b, so their scores cannot be compared",
            )
            for key, value in (
                ("evaluation.metrics", ["exact_match"]),
                ("evaluation.max_items", 5),
                ("task.embedded", "equation"),
            )
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    file = tmp_path / "study.yaml"
    whole = {"recipe": RECIPE, "methods": ["sft"], "sizes": [3000]}
    file.write_text(yaml.safe_dump(whole | values))
    with pytest.raises(RecipeError, match=message):
        load_study(file)
