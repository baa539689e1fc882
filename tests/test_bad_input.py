"""Mistakes of users give exit code 2 and one line that helps, and leave no files."""

import errno
import os
import shutil
import sys

import pytest
import yaml
from victim import fill

from telltune import storage
from telltune.cli import main

SHORT = {"method": "sft", "mixture": {"passes": 1}}


@pytest.fixture
def refused(monkeypatch, capsys):
    """Return a function that calls a verb, which must refuse, and returns its one-line error."""

    def call(*args):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["tell", *map(str, args), "--json"])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        assert (exit_.value.code, printed.out) == (2, "")
        assert printed.err.startswith("error: ")
        assert printed.err.endswith("\n")
        assert printed.err.count("\n") == 1, printed.err
        return printed.err.removeprefix("error: ").rstrip("\n")

    return call


@pytest.fixture
def refused_fit(refused, tmp_path, toy_recipe):
    """Return a function like `refused` for a changed toy recipe and every verb that runs it."""

    def call(*sets, verbs=("plan", "fit", "compare"), **changes):
        path = tmp_path / "r.yaml"
        path.write_text(yaml.safe_dump(toy_recipe | changes), encoding="utf-8")
        out = tmp_path / "out"
        options = [word for override in sets for word in ("--set", override)]
        said = set()
        for verb in verbs:
            args = (verb, path, *options)
            said.add(refused(*args) if verb == "plan" else refused(*args, "--out", out))
            assert not out.exists()
        [message] = said
        return message

    return call


# Data


def test_missing_file_suggests_the_near_name(refused_fit, toy_task):
    path = toy_task["train"].with_name("trian.jsonl")
    message = refused_fit(f"task.train={path}")
    assert message == (
        f"no file or folder {path} (did you mean {toy_task['train']}?): check the path."
    )


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty_data_is_named(refused_fit, toy_task, text):
    toy_task["train"].write_text(text)
    assert f"{toy_task['train']}:1: contains no rows" in refused_fit()


def test_row_without_response_is_named_with_its_line(refused_fit, toy_task, write_jsonl):
    write_jsonl(toy_task["train"], [{"prompt": "a", "completion": "b"}, {"prompt": "c"}])
    message = refused_fit()
    assert f"{toy_task['train']}:2: no response: key `completion` is missing" in message
    assert f"`tell check {toy_task['train']}`" in message


def test_schema_that_fits_none_shows_how_to_name_columns(refused_fit, toy_task, write_jsonl):
    write_jsonl(toy_task["train"], [{"ticket": "a", "team": "b"}])
    message = refused_fit()
    assert f"{toy_task['train']}:1: the keys `ticket`, `team` match no supported schema" in message
    assert "columns: {prompt: ..., completion: ...}" in message


def test_general_data_too_small_says_what_is_short_and_the_largest_ratio(refused_fit, toy_recipe):
    import telltune

    message = refused_fit("mixture.leverage_ratio=1000")
    plan = telltune.plan(toy_recipe, measure=False)
    asked = 1000 * plan["task_tokens"]
    all_of_it = toy_recipe | {"mixture": {"general_examples": 200, "passes": 2}}
    everything = telltune.plan(all_of_it, measure=False)["general_tokens"]
    assert f"requires {asked} general tokens" in message
    assert f"{asked - everything} are missing" in message
    largest = message.partition("`mixture.leverage_ratio` to ")[2].split()[0]
    assert float(largest) == pytest.approx(everything / plan["task_tokens"], abs=0.01)
    # The ratio in the message works.
    toy_recipe["mixture"]["leverage_ratio"] = float(largest)
    assert telltune.plan(toy_recipe, measure=False)["general_examples"] > 190


def test_more_general_examples_than_there_are(refused_fit):
    message = refused_fit("mixture.general_examples=250")
    assert "the general data has 200 examples, 50 short" in message


def test_long_examples_are_listed_with_their_lengths(refused_fit, toy_task, write_jsonl):
    row = {"prompt": "item 1 is round", "completion": "ball"}
    long = row | {"prompt": "a long story " * 400}
    write_jsonl(toy_task["train"], [row, long, row, long])
    message = refused_fit("training.max_length=100000")
    # The tiny model's context, not what the recipe asks for.
    assert "longer than the model's context of 512 tokens: " in message
    assert f"{toy_task['train']}:2 (" in message
    assert f"{toy_task['train']}:4 (" in message
    assert "training.too_long: truncate" in message


def test_task_budget_below_one_example(refused_fit):
    assert "task.max_tokens = 3 is too low" in refused_fit("task.max_tokens=3")


def test_unreadable_files_are_named(refused_fit, toy_task):
    toy_task["train"].write_bytes(b'{"prompt": "\xff", "completion": "b"}\n')
    assert f"{toy_task['train']}:1: not UTF-8: 0xff at byte 13" in refused_fit()
    toy_task["train"].unlink()
    toy_task["train"].mkdir()
    assert "contains no data files" in refused_fit()


def test_missing_general_data_names_the_method(refused_fit):
    message = refused_fit("general=null", verbs=("plan", "fit"))
    assert message.startswith("method `tell` needs general data")


def test_missing_anchor_names_the_method(refused_fit):
    message = refused_fit("anchor=null", verbs=("plan", "fit"))
    assert message.startswith("method `tell` needs an anchor")


def test_predict_file_that_is_missing_empty_or_has_no_prompt(
    refused, tiny_adapter, tmp_path, write_jsonl
):
    out = tmp_path / "out.jsonl"
    missing = refused("predict", tiny_adapter, "--file", tmp_path / "no.jsonl", "--out", out)
    assert missing == f"no file {tmp_path / 'no.jsonl'}: check the path."
    empty = write_jsonl(tmp_path / "empty.jsonl", [])
    assert "contains no rows" in refused("predict", tiny_adapter, "--file", empty, "--out", out)
    other = write_jsonl(tmp_path / "other.jsonl", [{"prompt": "a"}, {"utterance": "b"}])
    message = refused("predict", tiny_adapter, "--file", other, "--out", out)
    assert message.startswith(f"{other}:2: the keys `utterance` match no supported schema")
    assert not out.exists()


# Recipes and names


def test_unknown_recipe_key_suggests_the_nearest(refused_fit):
    message = refused_fit(mixtrue={"passes": 2})
    assert "`mixtrue` is not a key of this recipe (did you mean `mixture`?)" in message


def test_recipe_that_is_missing_or_a_folder(refused, tmp_path):
    assert "no such recipe" in refused("plan", tmp_path / "nowhere.yaml")
    assert "cannot be read" in refused("plan", tmp_path)


def test_unknown_method_suggests_the_nearest(refused_fit, refused, tmp_path):
    assert refused_fit("method=tel", verbs=["plan", "fit"]) == (
        "there is no method `tel`; did you mean `tell`?"
    )
    path = tmp_path / "r.yaml"
    out = tmp_path / "out"
    message = refused("compare", path, "--out", out, "--method", "sft,sft_ankor")
    assert message == "there is no method `sft_ankor`; did you mean `sft_anchor`?"
    assert not out.exists()


def test_no_method_at_all(refused, refused_fit, tmp_path, toy_recipe):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(toy_recipe))
    message = refused("compare", path, "--out", tmp_path / "out", "--method", " , ")
    assert message.startswith("no method is named")


def test_unknown_metric_suggests_the_nearest(refused_fit, refused, tiny_adapter):
    message = refused_fit("evaluation.metrics=[acuracy]")
    assert "there is no metric 'acuracy'; did you mean 'accuracy'?" in message
    message = refused("evaluate", tiny_adapter, "--metric", "rouge_k")
    assert "did you mean 'rouge_l'?" in message


def test_unknown_embedded_task_suggests_the_nearest(refused_fit):
    message = refused_fit(task="anser_kind")
    assert "'anser_kind'" in message
    assert "did you mean 'answer_kind'?" in message


def test_no_test_data_names_the_key(refused_fit, refused, tmp_path, toy_recipe, tiny_adapter):
    message = refused_fit("task.test=null", verbs=["compare"])
    assert message == "the recipe has no `task.test`; add it to use this command."
    path = tmp_path / "r.yaml"
    again = refused("evaluate", tiny_adapter, "--recipe", path, "--set", "task.test=null")
    assert again == message


def test_unknown_split(refused, tiny_adapter):
    assert "give `test` or `dev`" in refused("evaluate", tiny_adapter, "--split", "train")


# Models and adapters


def test_model_folder_that_is_missing(refused_fit, tmp_path):
    message = refused_fit(model=str(tmp_path / "no-model"))
    assert message == f"model `{tmp_path / 'no-model'}`: no such folder."


def test_model_folder_without_a_model(refused_fit, tmp_path):
    (tmp_path / "hollow").mkdir()
    message = refused_fit(model=str(tmp_path / "hollow"), verbs=["fit", "compare"])
    assert message.startswith(f"model `{tmp_path / 'hollow'}` cannot be loaded: ")


@pytest.mark.parametrize("kind", ["BertModel", "T5ForConditionalGeneration"])
def test_model_that_is_no_causal_language_model(refused_fit, tmp_path, tiny_model, kind):
    from transformers import BertConfig, T5Config

    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    config = BertConfig() if kind == "BertModel" else T5Config()
    config.architectures = [kind]
    config.save_pretrained(folder)
    message = refused_fit(model=str(folder))
    assert f"is a {kind}, not a causal language model" in message


def test_model_weights_that_are_damaged(refused_fit, tmp_path, tiny_model):
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model, folder)
    os.truncate(folder / "model.safetensors", 1000)
    message = refused_fit(model=str(folder), verbs=["fit"])
    assert message.startswith(f"model `{folder}` cannot be loaded: ")


def test_model_files_that_are_damaged(refused_fit, tmp_path, tiny_model):
    for name in ("config.json", "tokenizer.json"):
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        (folder / name).write_text('{"model_type": "lla')
        message = refused_fit(model=str(folder), verbs=["fit"])
        assert message.startswith(f"model `{folder}` cannot be loaded: ")


def test_model_file_that_is_no_gguf(refused_fit, tmp_path):
    assert "no such file" in refused_fit(model="nowhere.gguf")
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF?" * 100)
    assert refused_fit(model=str(path)).startswith(f"model `{path}` cannot be loaded: ")


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory):
    return tmp_path_factory.mktemp("fitted") / "adapter"


@pytest.fixture
def tiny_adapter(fitted_once, toy_recipe, tmp_path):
    """Return a copy of an adapter folder, which the test may change."""
    import telltune

    if not fitted_once.exists():
        changes = SHORT | {"task": toy_recipe["task"] | {"max_examples": 4}}
        telltune.fit(toy_recipe | changes, fitted_once, progress=False)
    return shutil.copytree(fitted_once, tmp_path / "adapter")


@pytest.mark.parametrize("verb", [("predict", "a prompt"), ("evaluate",)])
def test_folder_that_is_no_adapter(refused, tmp_path, tiny_adapter, verb):
    name, *rest = verb
    nowhere = tmp_path / "nowhere"
    assert f"{nowhere}/tell.json is missing" in refused(name, nowhere, *rest)
    assert "tell.json cannot be read" in refused(name, tmp_path / "train.jsonl", *rest)
    (tiny_adapter / "tell.json").write_text("{")
    assert "tell.json cannot be read" in refused(name, tiny_adapter, *rest)
    (tiny_adapter / "tell.json").write_text("{}")
    assert "tell.json cannot be read" in refused(name, tiny_adapter, *rest)


def test_adapter_weights_that_are_damaged_or_missing(refused, tiny_adapter):
    os.truncate(tiny_adapter / "adapter_model.safetensors", 100)
    message = refused("predict", tiny_adapter, "a prompt")
    assert message.startswith(f"{tiny_adapter / 'adapter_model.safetensors'} is damaged: ")
    (tiny_adapter / "adapter_config.json").unlink()
    assert "adapter_config.json is missing" in refused("predict", tiny_adapter, "a prompt")


def test_base_that_is_not_the_one_trained_on(refused, tiny_adapter, tiny_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    moved = tmp_path / "moved"
    shutil.copytree(tiny_model, moved)
    record = (tiny_adapter / "tell.json").read_text()
    (tiny_adapter / "tell.json").write_text(record.replace(str(tiny_model), str(moved)))
    model = AutoModelForCausalLM.from_pretrained(moved)
    with torch.no_grad():
        model.lm_head.weight.add_(1)
    model.save_pretrained(moved)
    assert "but found" in refused("predict", tiny_adapter, "a prompt")
    shutil.rmtree(moved)
    assert f"model `{moved}`: no such folder." in refused("predict", tiny_adapter, "a prompt")


# Folders that cannot be written to


def test_out_that_is_a_file(refused, tmp_path, toy_recipe):
    path, out = tmp_path / "r.yaml", tmp_path / "a-file"
    path.write_text(yaml.safe_dump(toy_recipe | SHORT))
    out.write_text("mine")
    for verb in ("fit", "compare"):
        assert refused(verb, path, "--out", out) == f"{out} is a file; choose a folder."
        assert f"{out / 'below'}" in refused(verb, path, "--out", out / "below")
    assert out.read_text() == "mine"


def test_files_that_cannot_be_written(refused, tiny_adapter, tmp_path, write_jsonl):
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    file = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "a"}])
    message = refused("predict", tiny_adapter, "--file", file, "--out", tmp_path / "out.txt")
    assert message.startswith(f"{tmp_path / 'out.txt'}: rows cannot be written in this format")
    message = refused("predict", tiny_adapter, "--file", file, "--out", folder)
    assert message.startswith(f"{folder}: cannot be written to")
    message = refused("evaluate", tiny_adapter, "--max-items", 1, "--predictions", folder)
    assert message.startswith(f"{folder}: cannot be written to")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "no space left on the disk; free some or choose another folder."),
        (errno.EDQUOT, "no space left on the disk; free some or choose another folder."),
        (errno.EROFS, "cannot be written to (Read-only file system); choose another folder."),
        (errno.EACCES, "cannot be written to (Permission denied); choose another folder."),
    ],
)
def test_what_the_disk_refuses_is_one_sentence(
    refused, tmp_path, toy_recipe, monkeypatch, code, said
):
    path, out = tmp_path / "r.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(toy_recipe | SHORT))

    def full(*_, **__):
        raise OSError(code, os.strerror(code))

    import telltune

    telltune.plan(
        toy_recipe | SHORT, measure=False
    )  # fills the cache, which the disk would refuse as well
    monkeypatch.setattr(storage.tempfile, "mkstemp", full)
    message = refused("fit", path, "--out", out)
    assert message.startswith(f"{out}{os.sep}")
    assert said in message
    assert not out.exists()


@pytest.mark.parametrize("kib", [0, 16, 180])
def test_disk_that_is_full_wherever_the_run_has_got_to(
    refused, tmp_path, toy_recipe, small_disk, kib
):
    import telltune

    toy_recipe |= SHORT
    toy_recipe["training"]["save_steps"] = 2
    toy_recipe["lora"]["rank"] = 16
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(toy_recipe))
    telltune.plan(toy_recipe, measure=False)
    fill(small_disk, kib)
    out = small_disk / "out"
    message = refused("fit", path, "--out", out)
    assert "no space left on the disk; free some or choose another folder." in message
    assert message.startswith(str(out))
    assert not (out / "tell.json").exists()
    # After space is freed, the same command completes the run.
    (out.parent / "filler").unlink()
    assert telltune.fit(path, out, progress=False).folder == out


@pytest.mark.parametrize("kib", [0, 4])
def test_cache_on_a_full_disk(refused, tmp_path, toy_recipe, small_disk, monkeypatch, kib):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(toy_recipe | SHORT))
    fill(small_disk, kib)
    monkeypatch.setenv("TELLTUNE_CACHE", str(small_disk / "cache"))
    message = refused("fit", path, "--out", tmp_path / "out")
    assert "no space left on the disk" in message
    assert not (tmp_path / "out").exists()
    # No incomplete file is left for the next run.
    encoded = small_disk / "cache" / "encoded"
    assert not encoded.exists() or list(encoded.iterdir()) == []
