"""Verbs as a user calls them: output, files and exit codes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from telltune.cli import main
from telltune.data.formats import read_rows

CASES = Path(__file__).parent / "cases"
VERBS = (
    *("plan", "show", "fit", "evaluate", "predict", "check", "anchor", "compare"),
    *("verify", "export", "init", "serve"),
    *("study", "report", "recommend", "quanta"),
)
ADAPTER_FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "generation_config.json",
    "recipe.yaml",
    "tell.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "training_log.jsonl",
}


@pytest.fixture
def tell(monkeypatch, capsys):
    """Return a function that calls a verb in this process, and returns exit code and outputs."""

    def call(*args):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["tell", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture
def tell_json(tell):
    """Return a function that calls a verb with --json, and returns its only JSON object."""

    def call(*args, code=0):
        got, out, err = tell(*args, "--json")
        assert (got, err) == (code, "")
        value = json.loads(out)
        assert isinstance(value, dict)
        assert out.count("\n") == 1
        return value

    return call


@pytest.fixture
def recipe(tmp_path, toy_recipe):
    path = tmp_path / "recipe-of-mine.yaml"
    path.write_text(yaml.safe_dump(toy_recipe), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def fitted_once(tmp_path_factory):
    return tmp_path_factory.mktemp("fitted") / "adapter", {}


@pytest.fixture
def fitted(fitted_once, recipe, tell_json):
    """Return an adapter that is fitted once, for tests that only read it, and what was said."""
    folder, printed = fitted_once
    if not printed:
        printed |= tell_json("fit", recipe, "--out", folder)
    return folder, printed


@pytest.fixture
def adapter(fitted, tmp_path):
    """Return a copy of the adapter, since `tell evaluate` writes to its folder."""
    return shutil.copytree(fitted[0], tmp_path / "adapter")


# plan


def test_a_baseline_is_planned_fitted_and_asked_like_an_adapter(
    tell, tell_json, recipe, tmp_path, write_jsonl
):
    asked, out = ("--set", "method=tfidf_linear"), tmp_path / "baseline"
    plan = tell_json("plan", recipe, *asked)
    code, told, _ = tell("fit", recipe, *asked, "--out", out)
    assert code == 0
    assert "none: a baseline only fits a small classifier" in told
    assert f"24 examples, {plan['task_tokens']:,} tokens" in told
    assert re.search(rf"Baseline in {re.escape(str(out))} after [\d.]+ s\.", told)
    rows = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "item 7 is flat"}])
    found = tell_json("predict", out, "--file", rows)
    assert found["predictions"] == ["sheet"]
    assert tell_json("evaluate", out)["scores"]["accuracy"]["score"] == 100
    assert tell_json("verify", out)["held"] is True


def test_what_held_out_labels_chose_is_said_and_kept(tell, recipe, tmp_path):
    asked, out = ("--set", "method=chosen_em", "--set", "task.unlabeled=rest"), tmp_path / "out"
    code, told, _ = tell("fit", recipe, *asked, "--set", "task.max_examples=18", "--out", out)
    assert code == 0
    kept = (out / "README.md").read_text()
    (line,) = (line for line in told.splitlines() if line.startswith("chosen_em: "))
    assert re.search(r"TF-IDF \d+%.* Chosen: .* with EM over the unlabeled inputs", line)
    assert f"- {line.removeprefix('chosen_em: ')}" in kept


def test_plan_json_says_what_a_run_will_do(tell_json, recipe):
    plan = tell_json("plan", recipe)
    assert plan["task_examples"] == 24
    assert plan["passes"] == 2
    assert plan["task_tokens"] > 24 * 10
    assert plan["general_examples"] > 0
    # The number of examples whose ratio is nearest to the wanted ratio of 1.
    assert plan["leverage_ratio"] == pytest.approx(1, abs=0.05)
    assert plan["general_tokens"] == pytest.approx(
        plan["leverage_ratio"] * plan["task_tokens"], rel=1e-3
    )
    assert plan["optimizer_steps"] == -(-(24 * 2 + plan["general_examples"]) // 8)
    assert plan["trained_tokens"] > 2 * plan["task_tokens"] + plan["general_tokens"]
    assert plan["estimated_seconds"] > 0
    assert 0 < plan["estimated_memory_gib"] < 4


def test_plan_for_people_names_the_numbers_and_measures_once(
    tell, tell_json, recipe, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))
    code, out, _ = tell("plan", recipe)
    assert tell("plan", recipe)[:2] == (code, out) == (0, out)
    # A warning, which Python writes to standard error.
    [measuring] = [record for record in caplog.records if "Measuring" in record.msg]
    assert measuring.levelname == "WARNING"
    plan = tell_json("plan", recipe)
    assert f"24 examples, {plan['task_tokens']:,} tokens" in out
    assert f"{plan['optimizer_steps']}" in out
    assert re.search(r"time .*about [\d.]+ minutes", out)


def test_set_changes_the_plan(tell_json, recipe):
    plan = tell_json("plan", recipe, "--set", "mixture.passes=4", "--set", "task.max_examples=8")
    assert (plan["passes"], plan["task_examples"]) == (4, 8)


def test_plan_names_what_will_be_cut(tell, tell_json, recipe, tmp_path, write_jsonl):
    long = write_jsonl(
        tmp_path / "long.jsonl",
        [{"prompt": "item 1 is round", "completion": "ball " * n} for n in (1, 300)],
    )
    args = ("plan", recipe, "--set", f"task.train={long}", "--set", "training.too_long=truncate")
    assert tell_json(*args)["truncated"] == [f"{long}:2"]
    code, out, err = tell(*args)
    assert (code, "Plan" in out) == (0, True)
    assert err.startswith(f"1 examples will be truncated: {long}:2 …\n")


# show


def test_show_json_lists_examples_as_the_trainer_gets_them(tell, recipe, toy_recipe):
    from transformers import AutoTokenizer

    code, out, err = tell("show", recipe, "-n", "12", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert len(rows) == 12
    assert set(rows[0]) == {"source", "origin", "text", "input_ids", "loss_mask"}
    assert {row["source"] for row in rows} == {"train", "general"}
    tokenizer = AutoTokenizer.from_pretrained(toy_recipe["model"])
    for row in rows:
        learned = [i for i, on in zip(row["input_ids"], row["loss_mask"], strict=True) if on]
        file, line = row["origin"].rsplit(":", 1)
        read = json.loads(Path(file).read_text().splitlines()[int(line) - 1])
        assert tokenizer.decode(learned) == read["completion"] + "<|im_end|>"
        assert tokenizer.decode(row["input_ids"]) == row["text"]
        assert read["prompt"] in row["text"]
        # Only task examples have the anchor.
        assert ("Name the shape, nothing else." in row["text"]) == (row["source"] == "train")
    # The first examples are those that training sees first.
    assert json.loads(tell("show", recipe, "-n", "2", "--json")[1]) == rows[:2]


def test_show_for_people_marks_what_carries_loss(tell, recipe):
    code, out, err = tell(
        "show", recipe, "--split", "test", "-n", "1", "--set", "method=sft_anchor"
    )
    assert (code, err) == (0, "")
    assert re.search(r"^1\. .*test\.jsonl:1: \d+ tokens, \d+ with loss$", out, re.MULTILINE)
    assert "Name the shape, nothing else.\n\nitem 36 is round<|im_end|>" in out
    assert out.endswith("<|im_start|>assistant\n[[ball<|im_end|>]]\n\n")
    plain = tell("show", recipe, "--split", "dev", "--set", "method=sft")[1]
    assert plain.count("[[") == 3
    assert "Name the shape" not in plain


def test_show_refuses_what_it_cannot_show(tell, recipe):
    code, _, err = tell("show", recipe, "--split", "exam")
    assert code == 2
    assert err == "error: --split exam: give `train`, `dev` or `test`.\n"


# fit


def test_fit_leaves_an_ordinary_adapter_and_what_it_was_made_of(fitted):
    out, printed = fitted
    assert {path.name for path in out.iterdir()} == ADAPTER_FILES
    record = json.loads((out / "tell.json").read_text())
    assert printed["warnings"]
    assert printed == {"out": str(out), "warnings": printed["warnings"]} | record
    assert record["method"] == "tell"
    assert record["anchor"]["prompt"] == "Name the shape, nothing else."
    assert record["counts"]["task_examples"] == 24
    assert set(record["versions"]) >= {"python", "telltune", "torch", "transformers", "peft"}
    assert record["data"]["task"]["sha256"] != record["data"]["general"]["sha256"]
    assert "Name the shape, nothing else." in (out / "chat_template.jinja").read_text()
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 4
    steps = [json.loads(line)["step"] for line in (out / "training_log.jsonl").open()]
    assert steps == list(range(1, record["counts"]["optimizer_steps"] + 1))
    card = (out / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft")
    assert "24 task examples" in card


def test_fit_measures_nothing_beforehand_and_leaves_the_next_plan_its_time(
    tell, tell_json, recipe, tmp_path, monkeypatch
):
    monkeypatch.setenv("TELLTUNE_CACHE", str(tmp_path / "cache"))
    code, out, _ = tell("fit", recipe, "--out", tmp_path / "run")
    assert code == 0
    assert "not known yet" in out
    monkeypatch.setattr("telltune.fitting.forecast.load_base_of", lambda *_, **__: 1 / 0)
    assert tell_json("plan", recipe)["estimated_seconds"] > 0


def test_finished_folder_is_refused_until_overwrite_by_a_run_that_can_start(
    tell, tell_json, recipe, tmp_path
):
    out = tmp_path / "run"
    short = ("--set", "method=sft", "--set", "mixture.passes=1", "--set", "task.max_examples=4")
    fit = ("fit", recipe, "--out", out, *short)
    first = tell_json(*fit)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    code, _, err = tell(*fit, "--json")
    assert code == 2
    assert err == (
        f"error: {out} contains a finished run; choose another --out, or pass --overwrite.\n"
    )
    assert tell(*fit, "--overwrite", "--set", "task.train=nowhere.jsonl")[0] == 2
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    again = tell_json(*fit, "--overwrite", "--set", "seed=3")
    assert (first["seed"], again["seed"]) == (0, 3)
    # An unfinished run can only be completed by the same recipe.
    (out / "tell.json").unlink()
    code, _, err = tell(*fit)
    assert code == 2
    assert "unfinished run of another recipe" in err
    assert tell(*fit, "--set", "seed=3")[0] == 0


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)], ids=["plain", "overwrite"])
@pytest.mark.parametrize("name", ["thesis.txt", "recipe.yaml"])
@pytest.mark.parametrize("verb", ["fit", "compare"])
def test_foreign_folder_is_never_touched(tell, recipe, tmp_path, verb, name, overwrite):
    out = tmp_path / "mine"
    (out / "figures").mkdir(parents=True)
    (out / name).write_text("task: answer_kind\n")
    code, _, err = tell(verb, recipe, "--out", out, "--json", *overwrite)
    assert code == 2
    assert err.startswith(f"error: {out} contains files that telltune did not write")
    assert sorted(path.name for path in out.iterdir()) == sorted([name, "figures"])
    assert (out / name).read_text() == "task: answer_kind\n"


# evaluate


def test_evaluate_prints_scores_with_intervals(tell_json, adapter, recipe, tmp_path):
    answers = tmp_path / "answers.jsonl"
    result = tell_json(
        *("evaluate", adapter, "--recipe", recipe, "--max-items", 5),
        *("--metric", "exact_match", "--metric", "token_f1", "--predictions", answers),
    )
    assert (result["adapter"], result["split"], result["items"]) == (str(adapter), "test", 5)
    assert list(result["scores"]) == ["exact_match", "token_f1"]
    for interval in result["scores"].values():
        assert 0 <= interval["low"] <= interval["score"] <= interval["high"] <= 100
    rows = [json.loads(line) for line in answers.open(encoding="utf-8")]
    assert [row["prompt"] for row in rows] == [
        f"item {n} is {kind}"
        for n, kind in zip(range(36, 41), ["round", "square", "flat"] * 2, strict=False)
    ]
    assert all(row["origin"].rpartition(":")[2].isdecimal() for row in rows)
    mean = sum(row["scores"]["exact_match"] for row in rows) / 5
    assert mean == pytest.approx(result["scores"]["exact_match"]["score"])


def test_evaluate_uses_the_adapters_own_recipe(tell_json, adapter):
    assert tell_json("evaluate", adapter, "--split", "dev")["items"] == 12


def test_evaluate_for_people_is_a_table(tell, adapter):
    code, out, _ = tell("evaluate", adapter, "--metric", "exact_match", "--max-items", 2)
    assert code == 0
    assert "exact_match" in out
    assert "95% interval" in out


# predict


def test_predict_answers_one_prompt(tell, tell_json, adapter):
    value = tell_json("predict", adapter, "item 3 is round")
    assert value["prompt"] == "item 3 is round"
    code, out, err = tell("predict", adapter, "item 3 is round")
    assert (code, err) == (0, "")
    assert out == value["prediction"] + "\n"


def test_predict_answers_a_file_into_a_file(tell_json, adapter, tmp_path, write_jsonl):
    rows = [{"prompt": f"item {n} is flat", "id": n} for n in range(3)]
    file, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "deep" / "out.jsonl"
    value = tell_json("predict", adapter, "--file", file, "--out", out)
    assert value == {"file": str(file), "out": str(out), "rows": 3}
    answered = [json.loads(line) for line in out.open(encoding="utf-8")]
    assert [row["prompt"] for row in answered] == [row["prompt"] for row in rows]
    assert all(set(row) == {"prompt", "id", "prediction"} for row in answered)
    alone = tell_json("predict", adapter, rows[1]["prompt"])
    assert answered[1]["prediction"] == alone["prediction"]


def test_predict_prints_rows_where_no_file_is_given(tell, tell_json, adapter, tmp_path):
    file = tmp_path / "in.csv"
    file.write_text("question,other\nitem 3 is round,x\nitem 4 is square,y\n")
    code, out, err = tell("predict", adapter, "--file", file)
    assert code == 0
    assert f"{file}: not read: `other`." in err
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["other"] for row in rows] == ["x", "y"]
    value = tell_json("predict", adapter, "--file", file)
    assert value["predictions"] == [row["prediction"] for row in rows]


def test_predict_writes_the_format_that_the_name_says(tell_json, adapter, tmp_path, write_jsonl):
    file = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "item, 1", "n": 7}, {"prompt": "b"}])
    answers = tell_json("predict", adapter, "--file", file)["predictions"]
    for suffix in (".csv", ".tsv", ".json", ".jsonl", ".parquet"):
        out = tmp_path / f"out{suffix}"
        tell_json("predict", adapter, "--file", file, "--out", out)
        rows = [row.values for row in read_rows(out)]
        assert [(row["prompt"], row["prediction"] or "") for row in rows] == [
            ("item, 1", answers[0]),
            ("b", answers[1]),
        ]
        assert rows[0]["n"] == "7"


def test_predict_reads_a_file_by_the_columns_of_the_adapter_or_of_the_command(
    tell_json, tell, adapter, tmp_path
):
    named = tmp_path / "named"
    shutil.copytree(adapter, named)
    record = json.loads((named / "tell.json").read_text())
    record["recipe"]["task"]["train"][0]["columns"] = {"prompt": "text", "completion": "team"}
    (named / "tell.json").write_text(json.dumps(record))
    new = CASES / "columns" / "new.csv"
    told = tell_json("predict", named, "--file", new)["predictions"]
    given = tell_json("predict", adapter, "--file", new, "--columns", "prompt=text")["predictions"]
    alone = tell_json("predict", adapter, "parcel 30 late")["prediction"]
    assert told == given == [alone]
    other = tmp_path / "other.csv"
    other.write_text("ticket\n" + "parcel\n" * 60)
    code, _, err = tell("predict", named, "--file", other)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {other}:2: no column `text`, as set in the recipe")


def test_predict_answers_conversations(tell_json, adapter, tmp_path, write_jsonl):
    asked = {"messages": [{"role": "user", "content": "item 3 is round"}]}
    answered = {"messages": [*asked["messages"], {"role": "assistant", "content": "ball"}]}
    later = {"messages": [*answered["messages"], {"role": "user", "content": "item 3 is round"}]}
    file = write_jsonl(tmp_path / "in.jsonl", [asked, answered, later])
    first, second, third = tell_json("predict", adapter, "--file", file)["predictions"]
    assert first == second == tell_json("predict", adapter, "item 3 is round")["prediction"]
    assert isinstance(third, str)


def test_predict_takes_the_anchor_off_prompts_that_carry_it(tell_json, adapter):
    plain = tell_json("predict", adapter, "item 3 is round")
    carrying = tell_json("predict", adapter, "Name the shape, nothing else.\n\nitem 3 is round")
    assert carrying["prediction"] == plain["prediction"]


def test_predict_stops_at_the_longest_answer(tell_json, adapter):
    def length(n):
        args = ("predict", adapter, "item 3 is round", "--max-new-tokens", n)
        return len(tell_json(*args)["prediction"].encode())

    # A token of the tiny tokenizer is at most one word.
    assert length(1) < 20


@pytest.mark.parametrize("args", [(), ("a prompt", "--file", "in.jsonl")])
def test_predict_wants_a_prompt_or_a_file(tell, adapter, args):
    code, out, err = tell("predict", adapter, *args)
    assert (code, out, err) == (2, "", "error: give either a prompt or --file.\n")


# check


def test_check_passes_good_data(tell_json, tell, toy_task, tiny_model):
    args = ("check", toy_task["train"], "--test", toy_task["test"], "--model", tiny_model)
    value = tell_json(*args)
    assert value == {"examples": {"train": 24, "test": 12}, "refused": 0, "findings": []}
    assert tell(*args) == (0, "24 train, 12 test examples; 0 refused, 0 warnings.\n", "")


def test_check_exits_with_1_and_names_file_line_and_reason(
    tell, tell_json, tmp_path, tiny_model, write_jsonl
):
    good = {"prompt": "item 1 is round", "completion": "ball"}
    train = write_jsonl(
        tmp_path / "train.jsonl",
        [good, good, {"prompt": "item 2 is flat"}, {"prompt": "long " * 99, "completion": "x"}],
    )
    test = write_jsonl(tmp_path / "test.jsonl", [good])
    args = ("check", train, "--test", test, "--model", tiny_model, "--max-length", 64)
    value = tell_json(*args, code=1)
    kinds = {(f["line"], f["kind"]) for f in value["findings"]}
    assert kinds == {
        (1, "leak_exact"),
        (2, "leak_exact"),
        (2, "duplicate"),
        (3, "malformed"),
        (4, "over_long"),
    }
    assert value["refused"] == 4
    code, out, err = tell(*args)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert f"{train}:3: no response: key `completion` is missing [malformed]" in lines
    assert f"{train}:1: same prompt as {test}:1 (and 1 more, at line 2) [leak_exact]" in lines
    assert lines[-1] == "3 train, 1 test examples; 4 refused, 1 warnings."


def test_warnings_alone_exit_with_0(tell_json, tmp_path, tiny_model, write_jsonl):
    good = {"prompt": "item 1 is round", "completion": "ball"}
    train = write_jsonl(tmp_path / "train.jsonl", [good, good])
    value = tell_json("check", train, "--model", tiny_model)
    assert (value["refused"], [f["kind"] for f in value["findings"]]) == (0, ["duplicate"])


def test_check_takes_columns(tell, tell_json, tiny_model):
    args = ("check", CASES / "columns" / "t.csv", "--model", tiny_model)
    code, out, _ = tell(*args)
    guessed = f"The columns text → team of {args[1]} are guessed."
    assert (code, out.splitlines()[-1]) == (
        0,
        f"20 train examples; 0 refused, 0 warnings. {guessed}",
    )
    assert tell_json(*args)["guessed"] == guessed
    value = tell_json(*args, "--columns", "prompt=text,completion=team")
    assert (value["examples"], value["refused"]) == ({"train": 20}, 0)
    assert "guessed" not in value


def test_check_lists_rows_whose_columns_cannot_be_guessed(tell, tmp_path, tiny_model, write_jsonl):
    rows = [{"red": "a b c", "blue": "d e f", "green": f"g h {n}"} for n in range(20)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    code, out, _ = tell("check", path, "--model", tiny_model)
    assert code == 1
    first, last = out.splitlines()  # one line for all that fails for one reason
    assert first.startswith(f"{path}:1: the keys `red`, `blue`, `green` match no supported schema")
    assert "19 more" in first
    assert last == (
        f"0 train examples; 20 refused, 0 warnings. {path}: the columns with prompt and answer "
        "cannot be told from `red`, `blue`, `green`; name them: --columns "
        "prompt=...,completion=..., or `columns` in Python."
    )


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("text", "write it as prompt=text,completion=team."),
        ("prompt=text,", "write it as prompt=text,completion=team."),
        ("prompt=text", "`completion` is missing."),
        ("promt=text,completion=team", "did you mean `prompt`?"),
    ],
)
def test_columns_that_say_nothing_are_refused(tell, columns, said):
    code, _, err = tell("check", CASES / "columns" / "t.csv", "--columns", columns)
    assert code == 2
    assert err.startswith(f"error: --columns {columns}: ")
    assert said in err


def test_check_of_a_folder_names_what_it_leaves_out(tell, tell_json, tiny_model):
    proj = CASES / "folder" / "proj"
    args = ("check", proj, "--model", tiny_model)
    code, out, _ = tell(*args)
    assert (code, out.splitlines()) == (
        0,
        [
            f"{proj}:1: not read: test.jsonl (test) [left_out]",
            "20 train examples; 0 refused, 1 warnings.",
        ],
    )
    value = tell_json(*args, "--test", proj)
    assert (value["examples"], value["findings"]) == ({"train": 20, "test": 10}, [])


def test_check_takes_a_recipe_with_all_that_it_names(
    tell, tell_json, tmp_path, tiny_model, write_jsonl
):
    general = [{"prompt": f"question {n}", "completion": "a" * n} for n in range(1, 9)]
    test = [{"text": "question 3", "team": "x"}, {"text": "parcel 3 late", "team": "y"}]
    write_jsonl(tmp_path / "general.jsonl", [*general, general[0], {"prompt": "no answer"}])
    write_jsonl(tmp_path / "test.jsonl", [{"text": "not of the stretch", "team": "z"}, *test])
    shutil.copy(CASES / "columns" / "t.csv", tmp_path)
    named = {"columns": {"prompt": "text", "completion": "team"}}
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "model": str(tiny_model),
                "task": {
                    "train": {"path": "t.csv", **named},
                    "test": {"path": "test.jsonl", "rows": [1, 3], **named},
                },
                "general": "general.jsonl",
            }
        )
    )
    value = tell_json("check", recipe, code=1)
    assert value["examples"] == {"train": 20, "test": 2, "general": 9}
    found = {
        (Path(f["file"]).name, f["line"], f["kind"]) for f in value["findings"] if f["refused"]
    }
    assert found == {
        ("t.csv", 5, "leak_exact"),
        ("general.jsonl", 3, "leak_exact"),
        ("general.jsonl", 10, "malformed"),
    }
    assert "duplicate" not in {f["kind"] for f in value["findings"]}
    shorter = tell_json("check", recipe, "--set", "training.max_length=12", code=1)
    assert "over_long" in {f["kind"] for f in shorter["findings"]}
    code, _, err = tell("check", recipe, "--test", tmp_path / "test.jsonl")
    assert (code, err) == (2, f"error: {recipe} names its own data and columns; give it alone.\n")


def test_check_lists_all_that_a_chat_template_drops_or_refuses(
    tell, tell_json, tmp_path, tiny_model
):
    no_end = "{% for m in messages %}{% if 'parcel 4' in m['content'] %}"
    no_end += "{{ raise_exception('no parcel 4') }}{% endif %}{% endfor %}"
    template = tmp_path / "t.jinja"
    template.write_text(no_end + (CASES / "template" / "drops-system.jinja").read_text())
    rows = (CASES / "template" / "sys.jsonl").read_text()
    (tmp_path / "sys.jsonl").write_text('{"prompt": "hi", "completion": "ship"}\n' + rows)
    recipe = tmp_path / "r.yaml"
    model = {"name": str(tiny_model), "chat_template": "t.jinja"}
    recipe.write_text(yaml.safe_dump({"model": model, "task": {"train": "sys.jsonl"}}))
    value = tell_json("check", recipe, code=1)
    found = {f["line"]: f["reason"] for f in value["findings"] if f["kind"] == "template"}
    assert (value["examples"], value["refused"]) == ({"train": 9}, 8)
    assert sorted(found) == list(range(2, 10))
    assert found.pop(6).endswith("t.jinja refuses this example: no parcel 4")
    # The texts differ, but the problem is the same.
    assert len(set(found.values())) == 1
    code, out, _ = tell("check", recipe)
    assert code == 1
    grouped = " ".join(out.split())
    assert (
        f"{tmp_path / 'sys.jsonl'}:2: the chat template {template} drops the system turn" in grouped
    )
    assert "(and 6 more, at lines 3, 4, 5, 7, 8, ...) [template]" in grouped
    assert "9 train examples; 8 refused, 0 warnings." in grouped
    # Examples that the template accepts are also compared with the limit.
    short = tell_json("check", recipe, "--set", "training.max_length=4", code=1)
    assert [f["line"] for f in short["findings"] if f["kind"] == "over_long"] == [1]


def test_check_refuses_what_the_model_cannot_read_as_plan_does(tell, tell_json, recipe, toy_task):
    with toy_task["train"].open("a", encoding="utf-8") as file:
        file.write(json.dumps({"prompt": "item " * 600, "completion": "ball"}) + "\n")
    sets = ("--set", "training.max_length=4096")
    [long] = [f for f in tell_json("check", recipe, *sets, code=1)["findings"] if f["refused"]]
    assert (Path(long["file"]), long["line"]) == (toy_task["train"], 25)
    assert "exceed the model's context of 512: shorten the example" in long["reason"]
    code, _, err = tell("plan", recipe, *sets)
    assert code == 2
    assert f"longer than the model's context of 512 tokens: {toy_task['train']}:25 (" in err


def test_check_takes_a_recipe_of_an_embedded_task(tell_json, tmp_path, tiny_model):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(yaml.safe_dump({"model": str(tiny_model), "task": "answer_kind"}))
    assert tell_json("check", recipe)["examples"] == {"train": 1255, "dev": 150, "test": 300}


def test_plan_of_a_folder_names_what_it_leaves_out(tell_json, recipe):
    task = {"train": str(CASES / "folder" / "proj")}
    sets = ("--set", f"task={task}", "--set", "training.max_length=128")
    value = tell_json("plan", recipe, *sets)
    assert value["task_examples"] == 20
    assert f"{CASES / 'folder' / 'proj'}: not read: test.jsonl (test)." in value["warnings"]


# anchor


def test_anchor_ranks_the_recipes_own_and_none(tell, tell_json, recipe):
    rows = tell_json("anchor", recipe, "--candidates", 2)["candidates"]
    assert {row["origin"] for row in rows} >= {"recipe", "none"}
    assert [row["loss"] for row in rows] == sorted(row["loss"] for row in rows)
    [own] = [row for row in rows if row["origin"] == "recipe"]
    assert own["anchor"]["prompt"] == "Name the shape, nothing else."
    [none] = [row for row in rows if row["origin"] == "none"]
    assert (none["anchor"], none["tokens"]) == (None, 0)
    code, out, _ = tell("anchor", recipe, "--candidates", 1)
    assert code == 0
    assert "anchor.prompt" in out


# compare


def test_compare_writes_a_row_a_method(tell_json, recipe, tmp_path):
    out = tmp_path / "study"
    printed = tell_json(
        *("compare", recipe, "--out", out, "--method", "base, sft"),
        *("--set", "general=null", "--set", "mixture.passes=1", "--set", "evaluation.max_items=4"),
    )
    rows = json.loads((out / "summary.json").read_text())
    assert isinstance(rows, list)
    assert printed == {"out": str(out), "rows": rows}
    assert [row["method"] for row in rows] == ["base", "sft"]
    for row in rows:
        assert set(row) >= {
            *("method", "score", "low", "high", "metric"),
            *("task_tokens", "general_tokens", "seconds"),
        }
        assert row["low"] <= row["score"] <= row["high"]
        assert (out / "predictions" / f"{row['method']}.jsonl").is_file()
    assert (out / "sft" / "adapter_config.json").is_file()
    assert not (out / "base").exists()


def test_compare_names_the_method_that_failed_and_shows_the_others(
    tell, recipe, tmp_path, monkeypatch
):
    def breaks(*_):
        raise MemoryError("no room")

    monkeypatch.setattr("telltune.methods.few_shot.FewShot.run", breaks)
    args = ("compare", recipe, "--out", tmp_path / "study", "--set", "evaluation.max_items=2")
    args += ("--set", "general=null")
    code, out, told = tell(*args, "--method", "few_shot,base")
    assert code == 1
    assert "2 test items" in out
    assert told.splitlines()[-1].startswith("error: few_shot failed: MemoryError: no room; see ")
    code, out, _ = tell(*args, "--method", "few_shot")
    assert (code, "2 test items" in out) == (1, True)  # the row of the first call


def test_compare_for_people_needs_no_general_data_where_no_method_mixes(tell, recipe, tmp_path):
    code, out, told = tell(
        *("compare", recipe, "--out", tmp_path / "study", "--method", "base,sft"),
        *("--set", "general=null", "--set", "anchor=null"),
        *("--set", "mixture.passes=1", "--set", "evaluation.max_items=2"),
    )
    assert code == 0
    assert "task tokens" in out
    assert "No other trained method scores higher than sft" in out
    assert f"Next: `tell predict {tmp_path / 'study' / 'sft'} --file" in out
    # The random base gives answers that are no labels and do not end.
    rows = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert "2 of 2 answers are none of the 3 labels" in " ".join(rows[0]["warnings"])
    for row in rows:
        for warning in row["warnings"]:
            assert any(
                line.startswith("Warning: ") and row["method"] in line and line.endswith(warning)
                for line in told.splitlines()
            )


# Help and the cost of starting


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_an_example(tell, verb):
    code, out, _ = tell(verb, "--help")
    assert code == 0
    assert f"Example: tell {verb} " in out
    assert "--json" in out


def test_help_lists_every_verb(tell):
    code, out, _ = tell("--help")
    assert code == 0
    assert all(verb in out for verb in (*VERBS, "chat"))


def _calling(*args):
    return (
        f"import sys; sys.argv = ['tell', *{args}]\n"
        "from telltune.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
    )


# Modules are counted instead of seconds, which depend on the load of the machine.
HEAVY = {
    *("torch", "transformers", "peft", "accelerate", "datasets", "sklearn", "scipy"),
    *("numpy", "pyarrow", "rich", "jinja2"),
}


@pytest.mark.parametrize(
    ("statement", "more", "modules"),
    [
        ("import telltune; telltune.__version__", {"pydantic", "yaml", "typer"}, 120),
        ("import telltune; telltune.load_recipe", {"typer"}, 400),
        (_calling("--help"), {"pydantic", "yaml"}, 250),
        # Typer asks pydantic about options that are lists.
        (_calling("fit", "--help"), {"yaml"}, 400),
    ],
    ids=["import", "load_recipe", "tell --help", "tell fit --help"],
)
def test_start_imports_little(statement, more, modules):
    loaded = _modules_after(statement)
    assert not (HEAVY | more) & loaded
    assert len(loaded) < modules


def test_misspelt_keys_are_refused_before_pytorch_is_imported(tmp_path):
    recipe, study = tmp_path / "recipe.yaml", tmp_path / "study.yaml"
    order, levels = tmp_path / "order.yaml", tmp_path / "cascade.yaml"
    recipe.write_text("task: equation\nmixtur: {passes: 1}\n")
    order.write_text("recipe: {task: equation}\ntaks: [equation]\n")
    levels.write_text("levls: [linear]\n")
    study.write_text("recipe: {task: equation}\nmethods: [sft]\nsizs: [1]\n")
    out = ("--out", str(tmp_path / "out"))
    calls = [
        *(("plan", recipe), ("plan", study), ("study", study, *out), ("check", recipe)),
        *(("check", "data.jsonl", "--columns", "text=a"), ("init", "a.csv", "--columns", "text=a")),
        ("fit", "data.jsonl", *out, "--set", "mixtur.passes=1"),
        *(("evaluate", "runs/mine", "--recipe", recipe), ("predict", "runs/mine")),
        ("pick", "data.jsonl", *out, "--columns", "text=a"),
        *(("continual", order, *out), ("cascade", levels, "--stream", "a", *out)),
        ("recommend", "medical", *out),
    ]
    statements = [_calling(*map(str, words)) for words in calls]
    assert "torch" not in _modules_after("\n".join(statements), errors=len(calls))


def test_a_plan_of_what_is_known_imports_no_transformers_and_none_a_training_loop(recipe):
    from telltune.api import plan

    first = plan(recipe, measure=False)
    heavy = {"transformers", "tokenizers", "peft", "accelerate", "datasets", "sklearn", "scipy"}
    heavy |= {"huggingface_hub", "pandas", "pyarrow", "torch._dynamo"}
    loaded = _modules_after(
        "import sys\nfrom telltune.api import plan\n"
        f"assert plan({str(recipe)!r}, measure=False) == {first!r}\n"
        f"assert not {heavy!r} & set(sys.modules)\n"
        "import telltune.study.compare"
    )
    assert not {"transformers.trainer", "peft", "accelerate"} & loaded


def _modules_after(statement, errors=0):
    code = f"{statement}\nimport sys\nprint(*sys.modules, file=sys.stderr)"
    # The same number of threads as here: speeds are cached by number of threads.
    environment = _with_src() | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert sum(line.startswith("error: ") for line in done.stderr.splitlines()) == errors
    return set(done.stderr.split())


def test_module_runs_as_the_command_does():
    done = subprocess.run(
        [sys.executable, "-m", "telltune", "--help"],
        capture_output=True,
        text=True,
        env=_with_src(),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "compare" in done.stdout


def _with_src():
    # Source folder of the telltune under test, installed or not.
    import telltune

    source = str(Path(telltune.__file__).parents[1])
    return os.environ | {"PYTHONPATH": source}


@pytest.fixture
def study_file(toy_recipe, tmp_path):
    """Write a study of two cells."""
    values = {"recipe": toy_recipe, "methods": ["sft_anchor", "tell"], "sizes": [300]}
    values["forgetting"] = {"examples": 4, "prompts": 0}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_options_of_another_kind_of_work_are_refused(tell, study_file, recipe, tmp_path):
    for words, said in (
        (("plan", study_file, "--set", "seed=1"), "but this is a study"),
        (("plan", recipe, "--out", tmp_path / "out"), "but this is a recipe"),
        (("study", study_file, "--out", tmp_path / "out", "--gpus", 1), "name it with --ray"),
    ):
        code, _, err = tell(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err
    assert not (tmp_path / "out").exists()


def test_study_is_planned_run_and_told_on_one_page(tell_json, study_file, tmp_path):
    out = tmp_path / "out"
    planned = tell_json("plan", study_file)
    assert (planned["cells"], planned["finished"], planned["problems"]) == (2, 0, [])
    told = tell_json("study", study_file, "--out", out)
    assert told["cells"] == 2
    assert [point["name"] for point in told["points"]] == ["sft_anchor", "tell"]
    assert [row["against"] for row in told["saved"]] == ["sft_anchor"]
    assert told == {"out": str(out), "cells": 2} | json.loads((out / "summary.json").read_text())
    assert tell_json("plan", study_file, "--out", out)["finished"] == 2
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert tell_json("report", out)["report"] == str(out / "report.html")
    assert (out / "report.html").read_text() == page
    # The folder is sufficient to run the study again.
    again = tell_json("study", out / "study.yaml", "--out", out)
    assert again == told
    assert len((out / "results.jsonl").read_text().splitlines()) == 2


def test_study_prints_a_table_and_fails_where_a_cell_does(tell, study_file, tmp_path):
    values = yaml.safe_load(study_file.read_text())
    greedy = {"method": "tell", "name": "greedy", "set": {"mixture.leverage_ratio": 10_000}}
    values["methods"] = ["sft_anchor", greedy]
    study_file.write_text(yaml.safe_dump(values))
    code, out, err = tell("study", study_file, "--out", tmp_path / "out")
    assert code == 1
    assert "sft_anchor" in out
    assert "report.html" in out
    assert re.search(r"failed: .*greedy, seed 0: A leverage ratio of 10000 requires", err)


def test_study_names_a_cluster_that_is_none(tell, study_file, tmp_path):
    pytest.importorskip("ray")
    code, _, err = tell("study", study_file, "--out", tmp_path / "out", "--ray", "somewhere")
    assert code == 2
    assert "`somewhere` is not a cluster address; use `auto` or HOST:PORT." in err
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_recommend_prints_what_to_run_and_leaves_a_recipe_that_fits(
    tell, tell_json, toy_recipe, tmp_path
):
    values = toy_recipe | {"general": None, "anchor": None, "mixture": {"passes": 1}}
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(yaml.safe_dump(values))
    code, out, _ = tell("recommend", recipe, "--out", tmp_path / "out", "--minutes", 0)
    assert code == 0
    assert re.search(r"Recommended after 2 settings .* by 12 dev items", out)
    assert "accuracy" in out
    told = tell_json("recommend", recipe, "--out", tmp_path / "out", "--minutes", 0)
    assert told["name"] in out
    assert tell_json("plan", tmp_path / "out" / "recipe.yaml")["method"] == told["method"]


def test_recommend_of_a_task_that_is_not_there_names_those_that_are(tell, tmp_path):
    code, _, err = tell("recommend", "medical", "--out", tmp_path / "out")
    assert code == 2
    assert "medical_specialty" in err


def test_only_fit_is_for_several_processes(tell, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    # Pods of a cluster have this variable, and a user may call `tell report` in one.
    assert "no such recipe" in tell("plan", tmp_path / "none.yaml")[2]
    monkeypatch.setenv("LOCAL_RANK", "1")
    code, _, err = tell("study", tmp_path / "none.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert "`tell study` runs in one process" in err
    assert "no such recipe" in tell("fit", tmp_path / "none.yaml", "--out", tmp_path / "out")[2]
