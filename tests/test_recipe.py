"""Recipes are read, and mistakes in them are explained."""

import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError, model_validator

from telltune.errors import RecipeError
from telltune.recipe import Recipe, load_recipe, recipe_from_dict
from telltune.recipe.validation_messages import OTHER_NAMES, _parts_in, explain
from telltune.research.continual.spec import load_continual
from telltune.research.streams.spec import load_cascade
from telltune.study.spec import load_study

SHIPPED = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def overridden(values, *overrides):
    return recipe_from_dict(values, overrides=list(overrides))


def mistakes(values, **more):
    with pytest.raises(RecipeError) as error:
        recipe_from_dict(values, **more)
    return str(error.value)


# Shorthand forms


def test_strings_stand_for_the_mappings_they_name():
    short = recipe_from_dict(
        {"model": "org/name", "task": "answer_kind", "general": "embedded", "anchor": "Say it."}
    )
    long = recipe_from_dict(
        {
            "model": {"name": "org/name"},
            "task": {"embedded": "answer_kind"},
            "general": {"sources": [{"path": "embedded"}]},
            "anchor": {"prompt": "Say it."},
        }
    )
    assert short == long


@pytest.mark.parametrize(
    "train",
    ["a.jsonl", ["a.jsonl"], {"path": "a.jsonl"}, [{"path": "a.jsonl"}]],
    ids=["string", "list of strings", "mapping", "list of mappings"],
)
def test_data_can_be_named_in_four_ways(train):
    recipe = recipe_from_dict({"task": {"train": train}, "general": {"sources": train}})
    assert [spec.path for spec in recipe.task.train] == ["a.jsonl"]
    assert recipe.general is not None
    assert [spec.path for spec in recipe.general.sources] == ["a.jsonl"]


def test_defaults_are_the_methods_own():
    recipe = recipe_from_dict({"task": "answer_kind"})
    assert (recipe.method, recipe.model.name, recipe.seed) == ("tell", "embedded", 0)
    assert (recipe.mixture.passes, recipe.mixture.order) == ("auto", "shuffled")
    assert recipe.training.learning_rate == recipe.training.batch_size == "auto"
    assert recipe.general is None
    assert recipe.anchor is None


def test_values_given_are_not_changed():
    values = {"task": "answer_kind", "mixture": {"passes": 3}}
    recipe_from_dict(values, overrides=["mixture.passes=5", "task.max_examples=4"])
    assert values == {"task": "answer_kind", "mixture": {"passes": 3}}


def test_a_recipe_cannot_be_changed():
    recipe = recipe_from_dict({"task": "answer_kind"})
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1


# Refused recipes


@pytest.mark.parametrize(
    ("values", "key", "near"),
    [
        ({"anker": "Say it."}, "anker", "anchor"),
        ({"mixture": {"pases": 2}}, "mixture.pases", "passes"),
        ({"training": {"learningrate": 1}}, "training.learningrate", "learning_rate"),
        ({"lora": {"rnk": 8}}, "lora.rnk", "rank"),
        (
            {"general": {"sources": [{"path": "a.jsonl", "colums": {}}]}},
            "general.sources.0.colums",
            "columns",
        ),
    ],
)
def test_unknown_key_suggests_the_nearest(values, key, near):
    message = mistakes({"task": "answer_kind"} | values)
    assert message == f"recipe: `{key}` is not a key of this recipe (did you mean `{near}`?)."


@pytest.mark.parametrize(
    ("values", "key", "meant"),
    [
        ({"training": {"num_train_epochs": 3}}, "training.num_train_epochs", "mixture.passes"),
        ({"training": {"passes": 3}}, "training.passes", "mixture.passes"),
        ({"learning_rate": 2e-4}, "learning_rate", "training.learning_rate"),
        ({"mixture": {"batch_size": 8}}, "mixture.batch_size", "training.batch_size"),
        ({"lora_r": 16}, "lora_r", "lora.rank"),
        ({"base_model": "embedded"}, "base_model", "model"),
    ],
)
def test_key_of_another_section_or_tool_is_told_by_its_full_name(values, key, meant):
    message = mistakes({"task": "answer_kind"} | values)
    assert message == f"recipe: `{key}` is not a key of this recipe (did you mean `{meant}`?)."


@pytest.mark.parametrize("key", OTHER_NAMES)
def test_names_of_other_tools_lead_to_a_key_that_exists(key):
    found = recipe_from_dict({"task": "answer_kind"}).model_dump()
    for name in key.split("."):
        found = found[name]


def test_unknown_key_in_a_list_of_data_is_named_with_its_place():
    message = mistakes({"task": {"train": [{"path": "a.jsonl", "splitt": "train"}]}})
    assert "`task.train.0.splitt` is not a key of this recipe (did you mean `split`?)" in message


def test_key_near_to_none_lists_those_that_are_known():
    message = mistakes({"task": "answer_kind", "mixture": {"zzzz": 1}})
    assert "known keys: leverage_ratio, general_examples, passes, order" in message


def test_several_mistakes_stand_in_one_message():
    message = mistakes(
        {"mixture": {"passes": 0, "order": "random"}, "seeds": 1, "lora": {"dropout": 2}}
    )
    assert "\n" not in message
    for said in ("`task` is missing", "`mixture.passes`", "`mixture.order`", "`lora.dropout`"):
        assert said in message
    assert "did you mean `seed`?" in message


@pytest.mark.parametrize("task", [{}, {"train": "a.jsonl", "embedded": "answer_kind"}])
def test_task_needs_either_data_or_an_embedded_task(task):
    assert "`task.train`: give either `train`" in mistakes({"task": task})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("mixture", "leverage_ratio", -1),
        ("mixture", "leverage_ratio", "many"),
        ("mixture", "passes", 1.5),
        ("mixture", "general_examples", -1),
        ("training", "learning_rate", 0),
        ("training", "batch_size", 0),
        ("training", "precision", "fp16"),
        ("evaluation", "confidence", 1),
        ("lora", "rank", 0),
        ("anchor", "place", "assistant"),
    ],
)
def test_value_out_of_range_is_named(section, key, value):
    rest = {"prompt": "Say it."} if section == "anchor" else {}
    assert f"`{section}.{key}`: " in mistakes(
        {"task": "answer_kind", section: {key: value, **rest}}
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", True),
        ("training.learning_rate", True),
        ("training.save_steps", False),
        ("mixture.passes", True),
        ("mixture.leverage_ratio", False),
        ("lora.rank", True),
        ("lora.layers", [0, True]),
        ("lora.rank_pattern", {"down_proj": True}),
        ("task.dev_share", True),
        ("task.train", {"path": "a.jsonl", "rows": [False, True]}),
    ],
)
def test_truth_values_are_no_numbers(key, value):
    part, _, name = key.partition(".")
    values = {"task": {"train": "a.jsonl"}}
    values[part] = values.get(part, {}) | {name: value} if name else value
    assert re.search(r"must be a number, and `(true|false)` is none", mistakes(values))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"anchor": 12}, "`anchor`: must be text (put it in quotes) or a mapping with `prompt`"),
        ({"anchor": {"prompt": False}}, "`anchor.prompt`: must be text; put it in quotes"),
        ({"training": None}, "`training`: must be a mapping of keys, such as `full_parameters`"),
        ({"evaluation": {"metrics": "accuracy"}}, "must be a list; write `[accuracy]`"),
        ({"lora": {"layers": []}}, "`lora.layers`: must list at least 1, but lists 0"),
        ({"lora": {"target_modules": 5}}, "`lora.target_modules`: must be the name of a layer"),
        ({"lora": {"rank_pattern": 8}}, "must be a mapping, such as `{key: value}`"),
        ({"training": {"torch_compile": "maybe"}}, "must be `true` or `false`"),
        ({"teacher": {"url": "http://a", "model": ""}}, "`teacher.model`: must not be empty"),
    ],
)
def test_a_wrong_type_is_told_with_what_to_write(values, told):
    assert told in mistakes({"task": "answer_kind"} | values)


def every_key(model, prefix=()):
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        for part in _parts_in(field.annotation):
            yield from every_key(part, (*prefix, name))


@pytest.mark.parametrize("key", sorted(set(every_key(Recipe))), ids=".".join)
def test_no_mistake_is_told_in_the_words_of_python(key):
    for value in (None, True, 5, -1, 1.5, 10**5000, float("nan"), "x", "", [], [5], ["x"], {}):
        nested = value
        for name in reversed(key):
            nested = {name: nested}
        try:
            recipe_from_dict({"task": "answer_kind"} | nested)
        except RecipeError as error:
            message = str(error).lower()
            words = ("input should", "valid ", "instance", "dictionary", "spec`", "parse", "tuple")
            assert not [word for word in words if word in message], message


# --set


def test_set_reaches_nested_keys_and_makes_their_parents():
    recipe = overridden(
        {"task": "answer_kind", "mixture": {"order": "stratified"}},
        "mixture.passes=5",
        "training.learning_rate=1e-3",
        "seed=7",
    )
    assert (recipe.mixture.passes, recipe.mixture.order) == (5, "stratified")
    assert recipe.training.learning_rate == pytest.approx(1e-3)
    assert recipe.seed == 7


def test_set_turns_shorthand_strings_into_mappings():
    recipe = overridden(
        {"model": "org/name", "task": "answer_kind", "anchor": "Say it."},
        "model.revision='1234567'",
        "task.max_examples=16",
        "anchor.place=system",
    )
    assert (recipe.model.name, recipe.model.revision) == ("org/name", "1234567")
    assert (recipe.task.embedded, recipe.task.max_examples) == ("answer_kind", 16)
    assert recipe.anchor is not None
    assert (recipe.anchor.prompt, recipe.anchor.place) == ("Say it.", "system")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("Team:", "Team:"),
        ("Answer: yes", "Answer: yes"),
        ("a=b", "a=b"),
        ("'quoted: text'", "quoted: text"),
        ("Þýddu þetta.", "Þýddu þetta."),
        ("#1 rule: name the team", "#1 rule: name the team"),
        ("Name the team # only", "Name the team # only"),
        ("# x", "# x"),
        ("&a", "&a"),
        ("*a", "*a"),
        ("!x y", "!x y"),
        ("- x", "- x"),
        ("> x", "> x"),
        ("2024-01-01", "2024-01-01"),
        ("'null'", "null"),
    ],
)
def test_set_takes_signs_of_yaml_as_text(text, meant):
    recipe = overridden({"task": "answer_kind", "anchor": "Say it."}, f"anchor.response={text}")
    assert recipe.anchor is not None
    assert recipe.anchor.response == meant


@pytest.mark.parametrize("text", ["", " ", "null", "~"])
def test_set_of_nothing_unsets(text):
    recipe = overridden({"task": "answer_kind", "anchor": "Say it."}, f"anchor={text}")
    assert recipe.anchor is None


def test_set_reads_flow_yaml():
    recipe = overridden(
        {"task": "answer_kind"},
        "mixture={passes: 4, order: task_first}",
        "general=[a.jsonl, b.jsonl]",
        "evaluation.metrics=[accuracy, macro_f1]",
        "anchor=null",
    )
    assert (recipe.mixture.passes, recipe.mixture.order) == (4, "task_first")
    assert recipe.general is not None
    assert [spec.path for spec in recipe.general.sources] == ["a.jsonl", "b.jsonl"]
    assert recipe.evaluation.metrics == ["accuracy", "macro_f1"]
    assert recipe.anchor is None


def test_the_last_set_wins():
    recipe = overridden({"task": "answer_kind"}, "seed=1", "seed=2")
    assert recipe.seed == 2


@pytest.mark.parametrize("override", ["mixture.passes", "=5", ""])
def test_set_without_key_or_value_says_how(override):
    message = mistakes({"task": "answer_kind"}, overrides=[override])
    assert message == f"--set {override}: write it as key=value, such as mixture.passes=5."


@pytest.mark.parametrize("text", ["[unclosed", "'unclosed", "{a: b", "[2024-99-99]"])
def test_set_with_broken_yaml_says_so(text):
    message = mistakes({"task": "answer_kind"}, overrides=[f"anchor.prompt={text}"])
    assert message == "--set anchor.prompt: the value is not valid YAML; quote it."


def test_set_below_a_plain_value_says_so():
    message = mistakes({"task": "answer_kind", "seed": 1}, overrides=["seed.x=2"])
    assert message == "--set seed.x: `seed` has no keys."


@pytest.mark.parametrize(
    "text",
    [
        "api_key_env: sk-secret",
        "api_key: sk-secret",
        "api_key_env: 'sk-secret",
        "api_key_env: sk-secret: x",
        "api_key_env: [sk-secret",
    ],
)
def test_a_key_in_place_of_a_variables_name_is_not_repeated(text, tmp_path):
    (tmp_path / "r.yaml").write_text(
        f"task: answer_kind\nteacher:\n  url: http://localhost/v1\n  model: large\n  {text}\n"
    )
    with pytest.raises(RecipeError, match=r"r\.yaml: ") as error:
        load_recipe(tmp_path / "r.yaml")
    assert "sk-" not in str(error.value)
    key, value = text.split(": ", 1)
    teacher = {"url": "http://localhost/v1", "model": "large"}
    for override in (f"teacher.{key}={value}", f"teacher.model.{key}={value}"):
        told = mistakes({"task": "answer_kind", "teacher": teacher}, overrides=[override])
        assert "sk-" not in told


def test_set_of_an_unknown_key_suggests_the_nearest():
    message = mistakes({"task": "answer_kind"}, overrides=["mixture.leverage=2"])
    assert message.startswith("--set `mixture.leverage` is not a key")
    assert "did you mean `leverage_ratio`?" in message


def test_mistakes_of_set_are_not_blamed_on_the_recipe():
    sets = ["training.learning_rate=fast", "lora={rank: 0}", "general=[3]"]
    assert mistakes({"task": "answer_kind"}, overrides=sets) == (
        "--set `general.sources.0`: must be text (put it in quotes) or a mapping with `path`; "
        "--set `lora.rank`: must be greater than 0; "
        "--set `training.learning_rate`: must be a number or `auto`."
    )
    message = mistakes({"task": "answer_kind", "seed": -1}, overrides=sets[:1])
    assert message.endswith("; recipe: `seed`: must be greater than or equal to 0.")


# Files


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_yaml_round_trip(tmp_path):
    recipe = recipe_from_dict(
        {
            "task": {
                "train": {"path": "a.csv", "columns": {"prompt": "q", "completion": "a"}},
                "max_tokens": 100,
            },
            "general": ["b.jsonl", "c.parquet"],
            "anchor": {"prompt": "Þýddu: „þetta“.\n\nOg hitt.", "response": "Svar:"},
            "training": {"learning_rate": 1e-3},
        }
    )
    assert load_recipe(write(tmp_path / "r.yaml", recipe.to_yaml())) == recipe
    assert "Þýddu" in recipe.to_yaml()


def test_to_yaml_writes_every_default_out():
    written = yaml.safe_load(recipe_from_dict({"task": "answer_kind"}).to_yaml())
    assert set(written) == set(Recipe.model_fields)
    assert written["lora"] == {
        "rank": 16,
        "alpha": 16.0,
        "dropout": 0.05,
        "target_modules": "all-linear",
        "layers": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_dora": False,
        "use_rslora": False,
        "init": "default",
        "modules_to_save": None,
    }


def test_relative_paths_are_taken_beside_the_recipe(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    (folder / "model").mkdir(parents=True)
    for name in ("train.jsonl", "test.jsonl", "general.jsonl"):
        write(folder / name, "{}\n")
    path = write(
        folder / "r.yaml",
        "model: model\ntask: {train: train.jsonl, test: [test.jsonl]}\n"
        "general: [general.jsonl, embedded]\n",
    )
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("recipes/r.yaml")
    assert recipe == load_recipe(path)
    assert recipe.model.name == str(folder / "model")
    assert [spec.path for spec in recipe.task.train] == [str(folder / "train.jsonl")]
    assert [spec.path for spec in recipe.task.test] == [str(folder / "test.jsonl")]
    assert recipe.general is not None
    assert [spec.path for spec in recipe.general.sources] == [
        str(folder / "general.jsonl"),
        "embedded",
    ]


def test_names_that_are_not_beside_the_recipe_stay_as_they_are(tmp_path):
    path = write(tmp_path / "r.yaml", "model: org/name\ntask: {train: org/tickets, dev: /d.jsonl}")
    recipe = load_recipe(path)
    assert recipe.model.name == "org/name"
    assert recipe.task.train[0].path == "org/tickets"
    assert recipe.task.dev[0].path == "/d.jsonl"


def test_overrides_work_on_a_file(tmp_path):
    path = write(tmp_path / "r.yaml", "task: answer_kind\n")
    assert load_recipe(path, ["mixture.passes=9"]).mixture.passes == 9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: [answer_kind", "not valid YAML"),
        ("task: a\n\tseed: 1", "not valid YAML"),
        ("seed: 2024-99-99\n", "not valid YAML"),
        ("- task\n- general\n", "the recipe must be a mapping of keys"),
        ("answer_kind\n", "the recipe must be a mapping of keys"),
        ("", "the recipe must be a mapping of keys"),
        ("seed: 1\n", "`task` is missing"),
    ],
)
def test_unusable_yaml_is_one_line_that_names_the_file(tmp_path, text, said):
    path = write(tmp_path / "r.yaml", text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: no such recipe"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_recipe_that_is_a_folder_or_not_text_is_named(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    path = tmp_path / "r.yaml"
    path.write_bytes(b"task: \xff\xfe\n")
    with pytest.raises(RecipeError, match=r"r\.yaml: cannot be read"):
        load_recipe(path)


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
def test_shipped_recipe_loads(path):
    keys = yaml.safe_load(path.read_text())
    if "methods" in keys:
        assert load_study(path)[1]
        return
    if "labels" in keys:
        assert load_cascade(path).levels
        return
    if "tasks" in keys:
        assert load_continual(path).tasks
        return
    recipe = load_recipe(path)
    assert recipe_from_dict(yaml.safe_load(recipe.to_yaml())) == recipe


def test_one_data_set_stands_for_general_sources():
    recipe = recipe_from_dict({"task": "equation", "general": {"path": "g.jsonl"}})
    assert recipe.general is not None
    assert [spec.path for spec in recipe.general.sources] == ["g.jsonl"]


# Secrets and invalid values


def refused(path):
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task: a\nlora: {rank: 8}\nlora: {alpha: 4}\n", "the key `lora` is given twice"),
        ("task: " + "[" * 5000, "nested too deeply"),
        ("task: a\nx: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ("task: a\nx: !!python/name:os.system\n", "not valid YAML"),
        ("task: a\0b\n", "not valid YAML"),
        ('task: {train: "\\ud800"}\n', "contains an unpaired surrogate"),
        ("task: a\n" + "# " + "x" * 2**20, "larger than 1 MiB"),
        ("task: a\nlora: {alpha: .inf}\n", "`lora.alpha`: must be a finite number"),
        ("task: a\nseed: 4294967296\n", "`seed`: must be less than 4294967296"),
    ],
    ids=lambda value: value[:20],
)
def test_yaml_that_is_hostile_or_torn_is_one_line(tmp_path, text, said):
    assert said in refused(write(tmp_path / "r.yaml", text))


@pytest.mark.timeout(20)
def test_merges_of_merges_do_not_swell(tmp_path):
    # Ten keys on the first of nine levels, and ten times as many on each further level.
    levels = ["a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(10)) + "}"]
    levels += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, 10)]
    message = refused(write(tmp_path / "r.yaml", "task: a\n" + "\n".join(levels)))
    # PyYAML 6.0.4 and later merge a key once, so there are only ten.
    assert "too many merged keys" in message or "`a0` is not a key" in message


def test_merging_and_aliases_work_as_ever(tmp_path):
    path = write(
        tmp_path / "r.yaml",
        "task: &t {train: a.jsonl, max_tokens: 9}\nlora: {<<: {rank: 4, alpha: 2}, rank: 8}\n",
    )
    assert (load_recipe(path).lora.rank, load_recipe(path).lora.alpha) == (8, 2)


@pytest.mark.timeout(20)
def test_a_recipe_that_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "r.yaml")
    assert "not a regular file" in refused(tmp_path / "r.yaml")
    assert "not a regular file" in refused(Path("/dev/zero"))


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbftask: answer_kind\n")
    assert load_recipe(tmp_path / "r.yaml").task.embedded == "answer_kind"


def test_a_path_of_thousands_of_letters_is_left_to_who_reads_it(tmp_path):
    path = write(tmp_path / "r.yaml", f"task: {{train: {'x' * 5000}}}\n")
    assert load_recipe(path).task.train[0].path == "x" * 5000


def test_mistakes_of_values_of_sections_and_of_set_stand_in_one_message():
    message = mistakes(
        {
            "task": {"max_examples": 0, "dev": {"path": "d.jsonl", "rows": [5, 1]}},
            "mixture": {"passes": 0},
            "mixtrue": {},
        },
        overrides=["seed", "anchor.prompt=[open", "lora.rank=8", "lora.rank.x=1"],
    )
    for said in (
        "--set seed: write it as",
        "--set anchor.prompt: the value",
        "--set lora.rank.x: `rank` has no keys",
        "`task.max_examples`",
        "`task.train`: give either",
        "`task.dev.0.rows`: `rows` must",
        "`mixture.passes`",
        "did you mean `mixture`?",
    ):
        assert said in message


def test_many_mistakes_are_counted_not_listed():
    message = mistakes({"task": "a"} | {f"key{i}": 1 for i in range(500)})
    assert "and 480 more mistakes" in message
    assert len(message) < 6000


SECRETS = [
    ("hf_" + "abcDEF0123" * 3 + "wxyz", "a Hugging Face token"),
    ("https://me:s3cret-word@example.com/data.jsonl", "a password or token in an address"),
    ("https://example.com/data.jsonl?token=s3cret-word", "a secret in an address"),
]


@pytest.mark.parametrize(("secret", "kind"), SECRETS)
@pytest.mark.parametrize(
    "values",
    [
        {"model": "SECRET"},
        {"model": {"name": "org/name", "revision": "SECRET"}},
        {"task": {"train": ["SECRET"]}},
        {"anchor": "Say SECRET"},
        {"evaluation": {"metrics": ["accuracy", "SECRET"]}},
    ],
)
def test_a_secret_is_refused_and_not_repeated(values, secret, kind):
    text = yaml.safe_dump({"task": "answer_kind"} | values).replace("SECRET", secret)
    message = mistakes(yaml.safe_load(text))
    assert f"contains {kind}" in message
    assert "s3cret" not in message
    assert secret not in message


def test_an_address_with_a_name_and_no_password_is_no_secret():
    recipe = recipe_from_dict(
        {"task": "answer_kind", "anchor": "See https://example.com/?q=token and mail a@b.example."}
    )
    assert recipe.anchor is not None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["task", "train", "path", "rows", "model", "name", "lora", "general"]
                )
                | st.text(max_size=3),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).filter(lambda values: isinstance(values, dict))
)
@settings(max_examples=60)
def test_any_keys_give_a_recipe_that_can_be_written_or_a_recipe_error(values):
    try:
        recipe = recipe_from_dict(values)
    except RecipeError as error:
        message = str(error)
    else:
        message = ""
        assert recipe_from_dict(yaml.safe_load(recipe.to_yaml())) == recipe
    message.encode()
    assert "\n" not in message


def test_a_mistake_of_a_whole_section_is_told_without_a_key() -> None:
    class Span(BaseModel):
        low: int
        high: int

        @model_validator(mode="after")
        def _is_in_order(self):
            if self.low > self.high:
                raise ValueError("Low is above high")
            return self

    with pytest.raises(ValidationError) as caught:
        Span(low=2, high=1)
    assert explain(caught.value, Span, "section") == ["low is above high"]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["a"], "at least two labels, each once"),
        (["a", " a"], "at least two labels, each once"),
        ([True, False], "put True in quotes"),
        ([1, 2], "put 1 in quotes"),
        (["a", ["b"]], "in quotes"),
        (["a", " "], "a label is empty"),
        ({"a": None, "b": "x"}, "put None in quotes"),
        ("a, b", "a list of labels, or a mapping"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(labels, told):
    with pytest.raises(RecipeError, match=told):
        recipe_from_dict({"task": {"train": "x.jsonl", "labels": labels}})


def test_labels_without_words_need_training_data():
    with pytest.raises(RecipeError, match="give either `train`"):
        recipe_from_dict({"task": {"labels": {"a": "", "b": ""}}})
