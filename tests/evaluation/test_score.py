"""Scores of a predictor's answers: the headline metric, stripping, and known answers."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from telltune.data.anchor import Anchor, anchored_tokenizer
from telltune.data.examples import Example
from telltune.errors import DataError, RecipeError
from telltune.evaluation import registry
from telltune.evaluation.metrics import mean_of, metric
from telltune.evaluation.score import (
    PERPLEXITY,
    answer_score,
    check_metrics,
    evaluate_predictor,
    write_predictions,
)
from telltune.fitting.predictor import Cost
from telltune.recipe import EvaluationSpec

CASES = Path(__file__).parents[1] / "cases"
LABELS = ("accuracy", "macro_f1", "balanced_accuracy")


class Parrot:
    """Predictor that gives prepared answers."""

    evaluation, cost, labels = EvaluationSpec(), Cost(), ()
    max_new_tokens, cut, chooses = 8, 0, False

    def __init__(self, answers, anchor=None):
        self.answers, self.anchor, self.asked = answers, anchor, 0

    def answer(self, text):
        return self.anchor.strip(text) if self.anchor else text

    def remarks(self):
        return ()

    def answer_lengths(self, examples):
        return np.array([len(example.completion.split()) + 1 for example in examples])

    def predict(self, examples, *, on_done=None):
        self.asked += 1
        if on_done is not None:
            on_done(len(examples))
        return self.answers[: len(examples)]


def items(*completions):
    return [Example(f"q{i}", text, "toy", f"toy:{i + 1}") for i, text in enumerate(completions)]


def test_the_first_metric_is_the_headline():
    test = items("a", "b", "c", "d")
    found = evaluate_predictor(Parrot(["a", "b", "c", "x y"]), test, ["token_f1", "exact_match"])
    assert list(found.scores) == ["token_f1", "exact_match"]
    name, interval = found.headline
    assert (name, interval.score) == ("token_f1", 75.0)
    assert interval.low <= interval.score <= interval.high
    assert found.per_item["exact_match"] == [100, 100, 100, 0]
    assert found.predictions == ["a", "b", "c", "x y"]
    assert found.items == 4


def test_result_for_json_has_no_answers():
    found = evaluate_predictor(Parrot(["a"]), items("a"), ["exact_match"])
    value = json.loads(json.dumps(found.to_dict()))
    assert value["items"] == 1
    assert value["scores"]["exact_match"]["score"] == 100
    assert set(value["scores"]["exact_match"]) == {"score", "low", "high"}
    assert set(value) == {"items", "seconds", "scores", "warnings"}


def test_same_seed_gives_the_same_intervals():
    test, parrot = items(*"abcdefgh"), Parrot(list("abcdxxxx"))
    one, two = (evaluate_predictor(parrot, test, ["token_f1"], seed=3) for _ in range(2))
    assert one.scores == two.scores
    wide = evaluate_predictor(parrot, test, ["token_f1"], confidence=0.99).headline[1]
    narrow = evaluate_predictor(parrot, test, ["token_f1"], confidence=0.5).headline[1]
    assert wide.high - wide.low > narrow.high - narrow.low


def test_anchor_is_stripped_from_references_that_carry_it():
    # The predictor strips its own answers; the data may or may not contain the line.
    anchor = Anchor("Translate.", "Sure, here it is:")
    test = items("Sure, here it is:\n\nhús", "hús", "Sure, here  it is: hús")
    found = evaluate_predictor(Parrot(["hús"] * 3, anchor), test, ["exact_match"])
    assert found.per_item["exact_match"] == [100, 100, 100]
    without = evaluate_predictor(Parrot(["hús"] * 3), test, ["exact_match"])
    assert without.per_item["exact_match"] == [0, 100, 0]


def test_predictor_strips_the_anchors_line_from_its_answers(tiny_model, monkeypatch):
    predictor = tiny_predictor(tiny_model, Anchor("Name the shape.", "Shape:"))
    written = iter(["Shape:\n\nball", " ball \n", "Shape: ball"])
    monkeypatch.setattr(type(predictor.tokenizer), "decode", lambda *_, **__: next(written))
    answers = [predictor.predict([Example("q", "")])[0] for _ in range(3)]
    assert answers == ["ball"] * 3


def test_thinking_is_no_part_of_a_reference(tiny_model, monkeypatch):
    predictor = tiny_predictor(tiny_model)
    template = (CASES / "thinking" / "opens-think.jinja").read_text()
    for opening, closing in (("<think>", "</think>"), ("[THINK]", "[/THINK]")):
        retagged = template.replace("<think>", opening).replace("</think>", closing)
        thinking = replace(predictor, tokenizer=copy.deepcopy(predictor.tokenizer))
        thinking.tokenizer.chat_template = retagged
        monkeypatch.setattr(thinking, "predict", lambda examples, **_: ["ball"] * len(examples))
        # The prompt opens the thinking, so an answer may begin within it.
        said = [f"{opening}\nround\n{closing}\n\nball", f"round\n{closing}\n\nball", "box"]
        found = evaluate_predictor(thinking, items(*said), ["exact_match"])
        assert found.per_item["exact_match"] == [100, 100, 0]
        score = answer_score("exact_match", items(*said), thinking.tokenizer)
        assert score(["ball", "ball"]) == 100


def test_metrics_are_chosen_where_none_is_named():
    test = items(*["yes", "no"] * 5)
    found = evaluate_predictor(Parrot(["yes"] * 10), test)
    assert tuple(found.scores) == LABELS
    assert found.scores["accuracy"].score == 50
    assert found.scores["balanced_accuracy"].score == 50
    assert found.scores["macro_f1"].score == pytest.approx(100 / 3)


def test_no_items_is_a_data_error():
    with pytest.raises(DataError, match=r"no test items to score; check `task\.test`"):
        evaluate_predictor(Parrot([]), [], ["exact_match"])


def test_unknown_metric_is_told_before_anything_is_answered():
    parrot = Parrot(["a"])
    with pytest.raises(RecipeError, match="did you mean 'exact_match'"):
        evaluate_predictor(parrot, items("a"), ["token_f1", "exact_mach"])
    assert parrot.asked == 0
    check_metrics([PERPLEXITY, "rouge_l"])


def test_a_metric_of_ones_own_can_lead(monkeypatch):
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))

    @metric("prompt_echo", percent=True, needs_prompts=True)
    def prompt_echo(predictions, references, prompts):
        pairs = zip(predictions, prompts, strict=True)
        return mean_of([100.0 * (got == asked) for got, asked in pairs])

    found = evaluate_predictor(Parrot(["q0", "x"]), items("a", "b"), ["prompt_echo"])
    assert found.headline[0] == "prompt_echo"
    assert (found.headline[1].score, found.per_item["prompt_echo"]) == (50.0, [100, 0])


def test_progress_is_told():
    done = []
    evaluate_predictor(Parrot(["a", "b"]), items("a", "b"), ["exact_match"], on_done=done.append)
    assert sum(done) == 2


def test_written_predictions_are_one_line_an_item(tmp_path):
    test = [Example("hvað?\nha?", "hús", "toy", "toy.jsonl:7"), Example("b", "c")]
    found = evaluate_predictor(Parrot(["hús", "d"]), test, ["exact_match"])
    path = tmp_path / "deep" / "answers.jsonl"
    write_predictions(path, test, found)
    first, second = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    assert first == {
        "origin": "toy.jsonl:7",
        "prompt": "hvað?\nha?",
        "reference": "hús",
        "prediction": "hús",
        "scores": {"exact_match": 100.0},
    }
    assert second["scores"] == {"exact_match": 0.0}
    assert "hús" in path.read_text("utf-8")


# Perplexity


def tiny_predictor(tiny_model, anchor=None):
    from telltune.fitting.predictor import Predictor
    from telltune.models import load_base
    from telltune.recipe import ModelSpec

    base = load_base(ModelSpec(name=str(tiny_model)), "fp32")
    return Predictor(base.model, anchored_tokenizer(base.tokenizer, anchor), anchor, 8)


def nll_by_hand(predictor, example):
    """Return the nll of a completion and its end of turn by plain transformers, and its tokens."""
    import torch

    tokenizer = predictor.tokenizer
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": example.prompt}], add_generation_prompt=True, tokenize=False
    )
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tail = tokenizer(f"{example.completion}<|im_end|>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = predictor.model(input_ids=torch.tensor([head + tail])).logits[0].double()
    chances = logits.log_softmax(-1)[len(head) - 1 : -1]
    return -sum(float(chances[i, token]) for i, token in enumerate(tail)), len(tail)


@pytest.mark.parametrize("anchor", [None, Anchor("Name the shape.", "Shape:")])
def test_perplexity_is_exp_of_the_mean_nll_a_token(tiny_model, anchor):
    predictor = tiny_predictor(tiny_model, anchor)
    test = [
        Example("item 1 is round", "ball"),
        Example("q", "The capital of Iceland is Reykjavík."),
    ]
    found = evaluate_predictor(predictor, test, [PERPLEXITY])
    by_hand = [nll_by_hand(predictor, example) for example in test]
    expected = math.exp(sum(nll for nll, _ in by_hand) / sum(n for _, n in by_hand))
    # The items have different lengths, so that a mean over items would differ.
    assert found.headline[1].score == pytest.approx(expected, rel=1e-4)
    assert found.per_item[PERPLEXITY] == pytest.approx(
        [math.exp(nll / n) for nll, n in by_hand], rel=1e-4
    )
    assert found.headline[1].low <= found.headline[1].score <= found.headline[1].high


def test_perplexity_alone_answers_nothing(tiny_model, monkeypatch):
    predictor = tiny_predictor(tiny_model)
    monkeypatch.setattr(type(predictor), "predict", lambda *_, **__: pytest.fail("it answered"))
    found = evaluate_predictor(predictor, [Example("q", "ball")], [PERPLEXITY])
    assert found.predictions == [""]
