"""telltune works from Python as in the README, and its import is cheap."""

import json
import shutil

import pytest
import yaml

import telltune
from telltune.data import task as data_task
from telltune.data.loaders import read_examples
from telltune.errors import DataError, ModelError, RecipeError
from telltune.recipe import recipe_from_dict
from telltune.study.cell_data import CellData
from telltune.study.spec import ForgettingSpec


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory):
    return tmp_path_factory.mktemp("fitted") / "run"


@pytest.fixture
def fitted(fitted_once, toy_recipe, tmp_path):
    """Return a copy of an adapter folder."""
    if not fitted_once.exists():
        short = {"mixture": {"leverage_ratio": 1.0, "passes": 1}}
        telltune.fit(toy_recipe | short, fitted_once, progress=False)
    return shutil.copytree(fitted_once, tmp_path / "fitted")


def test_the_readmes_five_lines(toy_recipe, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(toy_recipe), encoding="utf-8")

    recipe = telltune.load_recipe(path)
    plan = telltune.plan(recipe)
    adapter = telltune.fit(recipe, str(tmp_path / "run"), progress=False)
    evaluation = telltune.evaluate(str(tmp_path / "run"), progress=False)
    answers = telltune.predict(str(tmp_path / "run"), ["item 3 is round", "item 4 is square"])

    assert adapter.folder == tmp_path / "run"
    assert adapter.record == json.loads((tmp_path / "run" / "tell.json").read_text())
    assert adapter.record["counts"]["task_tokens"] == plan["task_tokens"]
    assert adapter.record["counts"]["optimizer_steps"] == plan["optimizer_steps"]
    assert list(evaluation.scores) == ["accuracy", "macro_f1", "balanced_accuracy"]
    assert len(evaluation.predictions) == evaluation.items == 12
    assert len(answers) == 2
    assert all(isinstance(answer, str) for answer in answers)


@pytest.fixture
def reads(monkeypatch):
    """Return a list that gets the name of each split that is read."""
    found = []

    def recorded(specs, report=None, *, split):
        found.append(split)
        return read_examples(specs, report, split=split)

    monkeypatch.setattr(data_task, "read_examples", recorded)
    return found


def test_test_data_are_read_once_by_what_answers_them(fitted, toy_recipe, tmp_path, reads):
    reads.clear()
    telltune.evaluate(fitted, progress=False)
    assert reads.count("test") == 1
    reads.clear()
    toy_recipe["general"] = None
    telltune.compare(toy_recipe, ["base"], out=tmp_path / "compared", progress=False)
    assert reads.count("test") == 1
    reads.clear()
    data = CellData(ForgettingSpec(), "test", None)
    loaded = data.task(recipe_from_dict(toy_recipe))
    assert len(loaded.items) == len(loaded.answers.test) == 12
    assert reads.count("test") == 1


def test_a_dictionary_is_a_recipe_everywhere(toy_recipe, tmp_path):
    toy_recipe["method"] = "sft"
    toy_recipe["mixture"]["passes"] = 1
    assert telltune.plan(toy_recipe)["method"] == "sft"
    fitted = telltune.fit(toy_recipe, tmp_path / "run", progress=False)
    assert fitted.record["method"] == "sft"
    toy_recipe["evaluation"] = {"max_items": 3, "metrics": ["exact_match"]}
    evaluation = telltune.evaluate(fitted.folder, toy_recipe, progress=False)
    assert (evaluation.items, evaluation.headline[0]) == (3, "exact_match")


def test_fit_learns_the_toy_task(toy_recipe, tmp_path):
    toy_recipe["mixture"] = {"leverage_ratio": 0.25, "passes": 8}
    fitted = telltune.fit(toy_recipe, tmp_path / "run", progress=False)
    rows = [json.loads(line) for line in (fitted.folder / "training_log.jsonl").open()]
    first, last = (
        [row["loss_task"] for row in part if "loss_task" in row] for part in (rows[:8], rows[-8:])
    )
    assert sum(last) / len(last) < 0.5 * sum(first) / len(first)
    # Answers to training prompts are words of the training data.
    answers = telltune.predict(fitted.folder, ["item 3 is round", "item 4 is square"])
    assert set(answers) <= {"ball", "box", "sheet"}


def test_same_seed_gives_the_same_adapter(toy_recipe, tmp_path):
    toy_recipe["task"]["max_examples"] = 6
    toy_recipe["lora"]["dropout"] = 0.1
    weights = []
    for name in ("a", "b"):
        out = telltune.fit(toy_recipe, tmp_path / name, progress=False).folder
        weights.append((out / "adapter_model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_predictions_of_prompts_do_not_depend_on_their_company(fitted):
    prompts = ["item 3 is round", "What is the capital of Iceland?", "item 4 is square"]
    together = telltune.predict(fitted, prompts)
    assert together == [telltune.predict(fitted, [prompt])[0] for prompt in prompts]


def test_a_prompt_with_half_of_an_emoji_is_refused_by_its_number(fitted):
    with pytest.raises(DataError, match="prompt 2 contains an unpaired surrogate at character 4"):
        telltune.predict(fitted, ["item 3", "box\ud83d"])


def test_full_parameters_leave_a_model_that_predicts(toy_recipe, tmp_path):
    toy_recipe["training"] |= {"full_parameters": True, "learning_rate": 1e-3}
    toy_recipe["task"]["max_examples"] = 6
    out = telltune.fit(toy_recipe, tmp_path / "run", progress=False).folder
    assert (out / "model.safetensors").is_file()
    assert len(telltune.predict(out, ["item 3 is round"])) == 1


def test_a_run_cut_short_goes_on_from_its_last_whole_checkpoint(toy_recipe, tmp_path, monkeypatch):
    from telltune.training.callbacks import LogCallback

    toy_recipe["training"]["save_steps"] = 2
    toy_recipe["lora"]["dropout"] = 0.1
    whole = telltune.fit(toy_recipe, tmp_path / "whole", progress=False).folder

    class PowerCutError(Exception):
        pass

    written = LogCallback.on_log

    def cut(self, args, state, control, **more):
        written(self, args, state, control, **more)
        if state.global_step == 7:
            raise PowerCutError

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(LogCallback, "on_log", cut)
        with pytest.raises(PowerCutError):
            telltune.fit(toy_recipe, out, progress=False)
    assert not (out / "tell.json").exists()
    # A kill while a checkpoint is written leaves no state, which is written last.
    torn = out / "checkpoints" / "checkpoint-6"
    assert torn.is_dir()
    (torn / "trainer_state.json").unlink()

    telltune.fit(toy_recipe, out, progress=False)
    steps = [json.loads(line)["step"] for line in (out / "training_log.jsonl").open()]
    assert steps == list(range(1, len(steps) + 1))
    assert not (out / "checkpoints").exists()
    name = "adapter_model.safetensors"
    assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("name", sorted(telltune.__all__))
def test_public_names_are_found_when_first_used(name):
    assert getattr(telltune, name).__name__ == name


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'telltune' has no attribute 'train'"):
        _ = telltune.train


def test_errors_are_of_one_family(tmp_path):
    with pytest.raises(telltune.TellError):
        telltune.load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(ModelError, match=r"tell\.json is missing: the folder is not a finished"):
        telltune.predict(tmp_path, ["a"])


@pytest.mark.parametrize(
    ("name", "argument", "value", "least"),
    [
        ("evaluate", "max_items", 0, 1),
        ("evaluate", "max_items", -1, 1),
        ("predict", "max_new_tokens", 0, 1),
        ("pick", "number", 0, 1),
        ("pick", "number", 2.5, 1),
        ("pick", "seed", -1, 0),
        ("check", "max_length", 0, 1),
        ("show", "n", -1, 1),
        ("anchor", "candidates", 0, 1),
    ],
)
def test_wrong_counts_are_refused(name, argument, value, least, tmp_path):
    given = {"predict": ["a"], "pick": 8}.get(name) if argument != "number" else None
    arguments = [tmp_path] if given is None else [tmp_path, given]
    told = f"^{argument} is {value}; give a whole number of at least {least}.$"
    with pytest.raises(RecipeError, match=told):
        getattr(telltune, name)(*arguments, **{argument: value})


def test_methods_that_train_nothing_are_not_fitted(toy_recipe, tmp_path):
    toy_recipe["method"] = "base"
    with pytest.raises(RecipeError, match="trains nothing"):
        telltune.fit(toy_recipe, tmp_path / "run")
    with pytest.raises(RecipeError, match="trains nothing"):
        telltune.plan(toy_recipe)
    assert not (tmp_path / "run").exists()


def test_plan_and_fit_say_what_of_the_data_is_not_read(toy_recipe, tmp_path, write_jsonl):
    for split, path in dict(toy_recipe["task"]).items():
        rows = [json.loads(line) for line in open(path)]  # noqa: PTH123, SIM115
        extra = [row | {f"{split}_mood": "x"} for row in rows]
        if split == "train":
            extra.append(rows[0] | {"weight": 0})
        toy_recipe["task"][split] = str(write_jsonl(tmp_path / f"{split}.jsonl", extra))
    said = []
    toy_recipe["mixture"]["passes"] = 1
    telltune.fit(toy_recipe, tmp_path / "run", progress=False, on_plan=said.append)
    (plan,) = said
    warnings = telltune.plan(toy_recipe, measure=False)["warnings"]
    assert plan["warnings"] == warnings
    text = "\n".join(warnings)
    assert "task.train: not read: `train_mood` (24 of 25 rows)" in text
    assert "task.train: 1 left out: " in text
    assert "task.test: not read: `test_mood` (12 of 12 rows)" in text
    evaluation = telltune.evaluate(tmp_path / "run", progress=False)
    assert any("`test_mood` (12 of 12 rows)" in warning for warning in evaluation.warnings)


def test_check_lists_what_is_not_read(tmp_path, write_jsonl):
    rows = [{"prompt": f"p{n}", "completion": "c", "mood": "x", "id": n} for n in range(3)]
    rows.append({"prompt": "bad", "completion": "c", "label": False})
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    counts, findings = telltune.check({"train": [str(path)]})
    assert counts == {"train": 3}
    assert [(finding.kind, finding.line, finding.refused) for finding in findings] == [
        ("unread", 1, False),
        ("unread", 1, False),
        ("left_out", 4, False),
    ]


def test_check_says_which_unlabeled_inputs_are_asked_in_the_test(tiny_model, tmp_path, write_jsonl):
    def path(name, prompts, **answer):
        rows = [{"prompt": prompt, **answer} for prompt in prompts]
        return str(write_jsonl(tmp_path / f"{name}.jsonl", rows))

    task = {
        "train": path("train", ["one", "two"], completion="c"),
        "test": path("test", ["three"], completion="c"),
        "unlabeled": path("more", ["four", "three", ""]),
    }
    counts, findings = telltune.check(recipe_from_dict({"model": str(tiny_model), "task": task}))
    assert counts == {"train": 2, "test": 1, "unlabeled": 2}
    (bad, leak) = (finding for finding in findings if "more.jsonl" in finding.file)
    assert (bad.kind, bad.line, bad.refused) == ("malformed", 3, True)
    assert (leak.kind, leak.line, leak.refused) == ("leak_exact", 2, False)
    assert "this input is left out" in leak.reason
