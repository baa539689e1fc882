"""Pseudo-labels help where they must, and are refused where they would harm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.data.examples import Example
from telltune.data.task import TaskData
from telltune.errors import RecipeError
from telltune.levers.protocol import Resources
from telltune.levers.pseudo_label import PseudoLabel
from telltune.recipe import PseudoLabelSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from telltune.levers.protocol import Yield

KINDS = {"person": "who saw the {}?", "place": "where is the {}?", "order": "look at the {}!"}
MARKS = [("quickly", "fast"), ("slowly", "slow"), ("loudly", "loud")]
NOUNS = [f"{a}{b}" for a in ("ka", "lo", "mi", "su", "te") for b in ("ran", "dol", "vet", "pim")]


def asked(nouns: Sequence[str]) -> list[tuple[str, str]]:
    return [(form.format(noun), kind) for noun in nouns for kind, form in KINDS.items()]


def nobody(examples: Sequence[Example], seed: int) -> tuple[list[str], float]:
    raise AssertionError("no adapter is needed")


def applied(
    rows: Sequence[tuple[str, str]],
    inputs: Sequence[Example],
    answer: Any = nobody,
    seed: int = 0,
    labels: Sequence[str] = (),
    **keys: object,
) -> Yield:
    """Label the inputs from the rows; no base model is needed."""
    labeled = tuple(Example(prompt, completion) for prompt, completion in rows)
    listed = dict(zip(labels, labels, strict=True))
    task = TaskData("toy", labeled, (), None, (), unlabeled=tuple(inputs), labels=listed)
    resources = Resources(None, answer, seed)  # type: ignore[arg-type]
    return PseudoLabel(PseudoLabelSpec(**keys)).apply(task, resources)  # type: ignore[arg-type]


@pytest.mark.parametrize("ends", [("", " ", ""), ("\n", "\n", "")])
def test_white_space_around_a_label_makes_no_other(ends: tuple[str, ...]) -> None:
    rows = [(prompt, kind + ends[i // 3 % 3]) for i, (prompt, kind) in enumerate(asked(NOUNS[:6]))]
    truth = dict(asked(NOUNS[6:]))
    got = applied(rows, [Example(prompt, "") for prompt in truth], by="tfidf")
    assert len(got.examples) == len(truth)
    # Adapters learn the spelling of most labeled examples.
    usual = {kind: max(ends, key=ends.count) for kind in KINDS}
    for example in got.examples:
        kind = truth[example.prompt]
        assert example.completion == kind + usual[kind]


def test_words_that_decide_label_the_inputs() -> None:
    truth = dict(asked(NOUNS[5:]))
    inputs = [Example(prompt, "", origin=f"more.jsonl:{i}") for i, prompt in enumerate(truth)]
    got = applied(asked(NOUNS[:5]), inputs, by="tfidf")
    assert len(got.examples) == got.asked == 45
    assert all(truth[example.prompt] == example.completion for example in got.examples)
    assert all(0.5 < example.confidence <= 1 for example in got.examples)
    assert {example.origin for example in got.examples} == {example.origin for example in inputs}


TOPICS = {
    "animals": ["the dog barks", "a cat sleeps", "two horses run", "a cow eats", "sheep bleat"],
    "money": ["pay the invoice", "rates rose", "send a refund", "taxes due", "a loan offer"],
}


def test_folds_choose_the_classifier_that_knows_the_labels() -> None:
    texts = [text for topic in TOPICS.values() for text in topic]
    # The topic of a text is unrelated to these labels, and one word determines them.
    rows = [(f"{text} {word} again", label) for text in texts for word, label in MARKS]
    inputs = [Example(f"the storm {word} came", "") for word, _ in MARKS]
    got = applied(rows, inputs)
    assert got.notes[-1].startswith("Chosen: TF-IDF")
    assert [example.completion for example in got.examples] == [label for _, label in MARKS]
    rows = [(text, label) for label, texts in TOPICS.items() for text in texts]
    got = applied(rows, [Example("a puppy", ""), Example("my bank", "")])
    # Ten examples do not show that the sentence encoder alone is better than both.
    assert got.notes[-1].startswith("Chosen: encoder and TF-IDF")
    assert [example.completion for example in got.examples] == ["animals", "money"]


def test_labels_that_nothing_explains_are_refused() -> None:
    rng = np.random.default_rng(0)
    rows = [(prompt, str(rng.choice(["a", "b", "c"]))) for prompt, _ in asked(NOUNS[:10])]
    inputs = [Example(prompt, "") for prompt, _ in asked(NOUNS[10:])]
    got = applied(rows, inputs, by="tfidf")
    assert not got.examples
    assert got.refused == {"no classifier makes held-out labels significantly likelier": 30}


def test_the_most_confident_of_each_label_are_kept_by_its_share() -> None:
    inputs = [Example(prompt, "") for prompt, _ in asked(NOUNS[5:])]
    few = applied(asked(NOUNS[:5]), inputs, by="tfidf", examples=12)
    every = applied(asked(NOUNS[:5]), inputs, by="tfidf")
    assert few.refused == {"less confident than those kept": 33}
    for kind in KINDS:
        kept, all_of_it = (
            sorted(e.confidence for e in got.examples if e.completion == kind)
            for got in (few, every)
        )
        assert kept == all_of_it[-4:]


def test_what_adapters_agree_on_is_kept() -> None:
    answers = {1: ["x", "y", "", "w"], 2: ["x", "z", "", "w"]}
    seeds = []

    def answer(examples: Sequence[Example], seed: int) -> tuple[list[str], float]:
        seeds.append(seed)
        return answers[seed][: len(examples)], 2.0

    inputs = [Example(f"input {i}", "") for i in range(4)]
    rows = [(f"item {i}", f"answer {i}") for i in range(8)]
    got = applied(rows, inputs, answer)
    assert seeds == [1, 2]
    assert [(e.prompt, e.completion) for e in got.examples] == [("input 0", "x"), ("input 3", "w")]
    assert got.refused == {"the adapters gave different answers": 2}
    assert got.seconds == 4.0
    got = applied(rows, inputs, answer, examples=2)
    assert got.refused == {"the adapters gave different answers": 1, "not asked": 2}


def test_the_model_labels_what_classifiers_cannot_only_if_asked() -> None:
    rng = np.random.default_rng(0)
    rows = [(prompt, str(rng.choice(["a", "b", "c"]))) for prompt, _ in asked(NOUNS[:10])]
    assert not applied(rows, [Example("new", "")]).examples
    got = applied(rows, [Example("new", "")], lambda asked, seed: (["b"], 1.0), by="model")
    assert [example.completion for example in got.examples] == ["b"]


@pytest.mark.parametrize("by", ["encoder", "tfidf"])
def test_classifiers_need_labels(by: str) -> None:
    rows = [(f"item {i}", f"answer {i}") for i in range(8)]
    with pytest.raises(RecipeError, match=rf"pseudo_label\.by: {by}.*use `model`"):
        applied(rows, [Example("new", "")], by=by)


def test_without_unlabeled_inputs_it_is_refused() -> None:
    with pytest.raises(RecipeError, match="`pseudo_label` needs unlabeled inputs"):
        applied(asked(NOUNS[:5]), [])


def test_the_same_arguments_give_the_same_examples() -> None:
    inputs = [Example(prompt, "") for prompt, _ in asked(NOUNS[5:])]
    one, two = (applied(asked(NOUNS[:5]), inputs, seed=3, by="tfidf") for _ in range(2))
    assert one == two


def test_inputs_of_a_listed_label_without_examples_are_found() -> None:
    rows = [(text, "animals") for text in TOPICS["animals"]]
    rows += [(text, "money") for text in TOPICS["money"]]
    rain = ("it rains all day", "heavy snow tonight", "a sunny morning")
    inputs = [Example(text, "") for text in (*rain, "a puppy", "my bank")]
    got = applied(rows, inputs, labels=["animals", "money", "weather"], by="encoder")
    assert [one.completion for one in got.examples] == [*["weather"] * 3, "animals", "money"]
    # The label has a share of its own, by which its inputs take turns with those of the others.
    more = [*inputs, Example("a kitten", "")]
    three = applied(rows, more, labels=["animals", "money", "weather"], by="encoder", examples=3)
    assert {one.completion for one in three.examples} == {"animals", "money", "weather"}
    # One example of each label is no closed set, but a list of labels is.
    with pytest.raises(RecipeError, match="closed set"):
        applied(rows[4:6], inputs, by="encoder")
    assert applied(rows[4:6], inputs, labels=["animals", "money"], by="encoder").asked == 5
