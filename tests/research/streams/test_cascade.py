"""Cascades on a stream with a known rule, and a function as the largest model."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.api import fit
from telltune.errors import ModelError, RecipeError, StorageError
from telltune.research.streams.cascade import TOP, Cascade
from telltune.research.streams.levels import LinearLevel
from telltune.research.streams.records import CascadeAnswer, LabeledItem
from telltune.research.streams.spec import CascadeSpec, LevelSpec, TopSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from telltune.research.streams.levels import Level

LABELS = ("fruit", "metal")
WORDS = {"fruit": ("apple", "pear", "fig"), "metal": ("iron", "zinc", "tin")}
POLICIES = ("learned", "threshold", "cost_aware")


def stream(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)
    labels = [LABELS[k] for k in rng.integers(0, 2, count)]
    texts = [
        f"{rng.choice(WORDS[label])} w{rng.integers(0, 50)} n{place}"
        for place, label in enumerate(labels)
    ]
    return texts, labels


class Oracle:
    """Largest model that is always right, except for calls that fail on purpose."""

    threads = False

    def __init__(self, fails: Any = lambda _: False) -> None:
        self.asked: list[str] = []
        self.fails = fails

    def label(self, text: str) -> LabeledItem:
        self.asked.append(text)
        if self.fails(len(self.asked)):
            return LabeledItem(None, 5, 0.01, "it timed out")
        return LabeledItem(
            next(k for k, words in WORDS.items() if text.split()[0] in words), 9, 0.01
        )


class Partial(LinearLevel):
    """Level that knows some words only, and records what it is asked."""

    def __init__(self, name: str, words: Sequence[str]) -> None:
        super().__init__(2)
        self.name = name
        self.words = words
        self.asked: list[str] = []

    def seen(self, texts: Sequence[str]) -> list[str]:
        return [word if (word := text.split()[0]) in self.words else "fog" for text in texts]

    def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
        self.asked += texts
        return super().likelihoods(self.seen(texts))

    def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
        super().learn(self.seen(texts), labels)


def made(
    top: Any, levels: Sequence[Level], each: Sequence[dict[str, Any]], **settings: Any
) -> Cascade:
    """Return a cascade of given models; `each` has the settings of each level."""
    told = [LevelSpec(kind="linear", **own) for own in each]
    spec = CascadeSpec(labels=[*LABELS], levels=told, top=TopSpec(), **settings)
    return Cascade(spec, levels=levels, top=top)


def parts(top: Any, *, levels: int = 1, **settings: Any) -> tuple[Any, ...]:
    """Return the parts of a cascade whose first level knows a third of the words.

    The third one knows them all; a single level is the third one.
    """
    known = [[words[i] for words in WORDS.values() for i in range(n + 1)] for n in range(3)]
    models = [Partial(*one) for one in zip(("first", "second", "third"), known, strict=True)]
    each = [
        {"cache": cache, "decay": 0.9, "cost": cost}
        for cache, cost in zip((8, 16, 24), (0.01, 0.02, 0.03), strict=True)
    ]
    chosen = slice(-1, None) if levels == 1 else slice(levels)
    return top, models[chosen], each[chosen], settings


def cascade(top: Any, **settings: Any) -> Cascade:
    """Return a cascade of `parts`."""
    top, models, each, rest = parts(top, **settings)
    return made(top, models, each, **rest)


def plain(answers: Sequence[CascadeAnswer]) -> list[tuple[str, str]]:
    return [(answer.text, answer.level) for answer in answers]


def test_the_top_labels_all_at_first_and_little_in_the_end() -> None:
    top = Oracle()
    texts, labels = stream(800)
    found = list(made(top, [LinearLevel(2)], [{"decay": 0.9}]).feed(texts))
    assert len(found) == 800
    # Ten updates of eight.
    assert {decision.level for decision in found[:80]} == {TOP}
    last = found[-300:]
    assert Counter(decision.level for decision in last)["linear"] > 200
    right = [d.text == label for d, label in zip(found, labels, strict=True)]
    assert np.mean(right[-300:]) > 0.97
    # The top is not asked about inputs that the linear level answers.
    assert len(top.asked) == sum(decision.level == TOP for decision in found)
    assert sum(decision.tokens for decision in found) == 9 * len(top.asked)


def test_it_hands_on_what_it_cannot_know_and_a_dear_top_is_asked_less() -> None:
    rng = np.random.default_rng(5)
    plain_texts, _ = stream(1200, seed=5)
    # Every other input does not determine its label.
    texts = [text if n % 2 else f"fog w{rng.integers(0, 50)}" for n, text in enumerate(plain_texts)]

    class Knows(Oracle):
        def label(self, text: str) -> LabeledItem:
            self.asked.append(text)
            if text.startswith("fog"):
                return LabeledItem(LABELS[rng.integers(0, 2)], 9, 0.01)
            return super().label(text)

    asked = {}
    for price in (0.3, 5.0):
        top = Knows()
        decisions = list(made(top, [LinearLevel(2)], [{"decay": 0.9}], price=price).feed(texts))
        asked[price] = sum(decision.level == TOP for decision in decisions)
        late = list(zip(texts, decisions, strict=True))[-400:]
        if price < 1:
            foggy = [d.level == TOP for t, d in late if t.startswith("fog")]
            clear = [d.level == TOP for t, d in late if not t.startswith("fog")]
            assert np.mean(foggy) > 0.8
            assert np.mean(clear) < 0.3
    assert asked[5.0] < asked[0.3] / 2


@pytest.mark.parametrize("policy", POLICIES)
def test_answers_do_not_depend_on_how_many_are_fed_at_once(policy: str) -> None:
    texts, _ = stream(600, seed=1)
    together = list(cascade(Oracle(), levels=2, policy=policy).feed(texts))
    one = cascade(Oracle(), levels=2, policy=policy)
    assert plain(together) == plain([d for text in texts for d in one.feed([text])])
    assert {decision.level for decision in together} == {"first", "second", TOP}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_level_is_asked_once_about_each_input_that_reaches_it(policy: str) -> None:
    found = cascade(Oracle(), levels=3, policy=policy)
    texts, _ = stream(600, seed=2)
    decisions = list(found.feed(texts))
    answered = {decision.level for decision in decisions}
    # The cheapest thresholds may skip a level.
    assert answered == {"first", "second", "third", TOP} or policy == "cost_aware"
    reached = list(zip(texts, decisions, strict=True))
    for number, level in enumerate(found.levels):
        assert isinstance(level, Partial)
        needed = [text for text, _ in reached]
        asked = level.asked
        # While a level may not answer, it is asked only about what the top labels anyway.
        spared = set(needed) - set(asked)
        assert len(asked) == len(set(asked)) == len(needed) - len(spared)
        assert found.asked[number] == len(asked)
        if policy == "learned":
            assert not spared
        reached = [(text, decision) for text, decision in reached if decision.level != level.name]
    assert {decision.level for _, decision in reached} == {TOP}


def test_seconds_of_all_levels_and_updates_are_charged() -> None:
    class Slow(Partial):
        def likelihoods(self, texts: Sequence[str]) -> NDArray[np.float64]:
            time.sleep(0.001 * len(texts))
            return super().likelihoods(texts)

        def learn(self, texts: Sequence[str], labels: Sequence[int]) -> None:
            time.sleep(0.01)
            super().learn(texts, labels)

    models = [Slow("slow", ["apple", "iron"]), Partial("second", ["pear"])]
    began = time.perf_counter()
    found = made(Oracle(), models, [{}, {}], policy="threshold")
    answers = list(found.feed(stream(150)[0]))
    spent = time.perf_counter() - began
    charged = sum(answer.seconds for answer in answers)
    told = 0.01 * found.asked[-1]
    assert 0.001 * 150 + 0.01 * (150 // 8) < charged - told <= spent


def test_a_failing_top_costs_an_answer_of_its_own_and_never_the_stream() -> None:
    top = Oracle(fails=lambda number: number % 5 == 0)
    texts, labels = stream(300, seed=3)
    found = list(cascade(top, levels=3).feed(texts))
    assert len(found) == 300
    failed = [place for place, decision in enumerate(found) if decision.failure]
    assert len(failed) == len(top.asked) // 5 > 0
    assert {found[place].failure for place in failed} == {"it timed out"}
    # The third level knows all words, and the others do not.
    late = [place for place in failed if place > 100]
    assert {found[place].level for place in late} == {"third"}
    assert all(found[place].text == labels[place] for place in late)


def test_a_level_that_never_pays_still_answers_if_the_top_fails() -> None:
    top = Oracle(fails=lambda number: number > 300)
    level = Partial("dear", [word for words in WORDS.values() for word in words])
    dear = made(top, [level], [{"cost": 1.0}], policy="cost_aware", agreement=0.9)
    texts, labels = stream(400, seed=7)
    found = list(dear.feed(texts))
    assert {decision.level for decision in found[:300]} == {TOP}
    assert {decision.level for decision in found[300:]} == {"dear"}
    assert [decision.text for decision in found[300:]] == labels[300:]
    # Before, it is asked about the sample only.
    assert len(set(level.asked) & set(texts[100:300])) < 40


def test_an_error_of_the_top_keeps_all_answers_before_it() -> None:
    class Refusing(Oracle):
        def label(self, text: str) -> LabeledItem:
            if len(self.asked) == 150:
                self.asked.append("")
                raise ModelError("the key is not valid.")
            return super().label(text)

    texts, _ = stream(300, seed=6)
    stopped = cascade(Refusing())
    found: list[CascadeAnswer] = []
    with pytest.raises(ModelError, match="key is not valid"):
        found.extend(stopped.feed(texts))
    assert stopped.seen == len(found) >= 150
    found += stopped.feed(texts[len(found) :])
    assert plain(found) == plain(list(cascade(Oracle()).feed(texts)))


def test_another_cascades_state_is_refused() -> None:
    state = cascade(Oracle(), levels=2).state()
    with pytest.raises(RecipeError, match="levels first, second, but this one has third"):
        cascade(Oracle()).restore(state)
    with pytest.raises(RecipeError, match="policy learned, but this one has threshold"):
        cascade(Oracle(), levels=2, policy="threshold").restore(state)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": ["one"]}, "`labels`: must list at least 2, but lists 1"),
        ({"labels": ["one", "one"]}, "`labels`: .*listed once"),
        ({"levels": []}, "`levels`: must list at least 1, but lists 0"),
        ({"policy": "best"}, "`policy`: "),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    right = {"labels": LABELS, "levels": [{"kind": "linear"}], "top": {}}
    with pytest.raises(RecipeError, match=f"cascade: {message}"):
        Cascade(right | wrong, top=Oracle())
    with pytest.raises(RecipeError, match="have 1 levels, but 2 models were given"):
        Cascade(right, levels=[LinearLevel(2), LinearLevel(2)], top=Oracle())


def test_an_answer_says_how_sure_its_level_is_and_what_it_cost() -> None:
    found = cascade(Oracle(), levels=2, policy="threshold")
    answers = [found.answer(text) for text in stream(600)[0]]
    assert {answer.level for answer in answers} == {"first", "second", TOP}
    for answer in answers:
        if answer.level == TOP:
            assert answer.confidence is None
            # Sampled inputs pass through both levels, and others may skip one that cannot answer.
            assert answer.cost in (pytest.approx(n) for n in (1.03, 1.02, 1.01, 1.0))
        else:
            assert 0.5 < answer.confidence <= 1
            assert answer.cost == pytest.approx(0.01 if answer.level == "first" else 0.03)
    assert found.cost == pytest.approx(sum(answer.cost for answer in answers))
    assert found.answered == Counter(answer.level for answer in answers)
    assert found.tokens == 9 * found.asked[-1]
    assert (found.seen, found.failures) == (600, 0)


def test_a_top_that_can_label_nothing_costs_nothing_and_the_best_level_answers() -> None:
    class Closed(Oracle):
        def label(self, text: str) -> LabeledItem:
            if len(self.asked) >= 200:
                raise ModelError("the server takes a rest.")
            return super().label(text)

    found = cascade(Closed(), levels=3)
    texts, labels = stream(400, seed=3)
    answers = [found.answer(text) for text in texts]
    failed = [(a, label) for a, label in zip(answers, labels, strict=True) if a.failure]
    assert len(failed) == found.failures > 20
    assert {answer.failure for answer, _ in failed} == {"the server takes a rest."}
    # The third level knows all words.
    assert {answer.level for answer, _ in failed} == {"third"}
    assert all(answer.text == label for answer, label in failed)
    assert all(answer.cost == pytest.approx(0.06) for answer, _ in failed)
    updates = list(found.updates)
    found.answer(texts[0])
    assert found.updates == updates


@pytest.mark.parametrize("policy", ["threshold", "cost_aware"])
def test_the_estimated_agreement_is_near_the_true_one(policy: str) -> None:
    class Moody(Oracle):
        def label(self, text: str) -> LabeledItem:
            told = super().label(text)
            # No level can know these 2% of the inputs.
            if int(text.rpartition("n")[2]) % 50 == 0:
                return LabeledItem(LABELS[told.label == LABELS[0]], 9, 0.01)
            return told

    texts, _ = stream(2000, seed=8)
    found = cascade(Moody(), policy=policy, agreement=0.95)
    assert found.agreement is None
    answers = list(found.feed(texts))
    wanted = [Moody().label(text).label for text in texts]
    agreed = np.mean([answer.text == label for answer, label in zip(answers, wanted, strict=True)])
    assert found.answered["third"] > 1000
    assert found.agreement is not None
    estimate, least = found.agreement
    assert 0.9 < least < min(estimate, agreed)
    assert abs(estimate - agreed) < 0.02


def test_the_published_policy_has_no_estimate_of_the_agreement() -> None:
    found = cascade(Oracle())
    list(found.feed(stream(100)[0]))
    assert found.agreement is None


def test_levels_of_one_kind_have_names_of_their_own() -> None:
    models = [LinearLevel(2), LinearLevel(2)]
    assert made(Oracle(), models, [{}, {}]).names == ("linear", "linear_2", TOP)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_saved_cascade_goes_on_where_it_was(policy: str, tmp_path: Path) -> None:
    texts, _ = stream(300, seed=9)
    spec = {
        "labels": LABELS,
        "levels": [{"kind": "linear", "cost": 0.01}, {"kind": "tfidf_em", "cost": 0.02}],
        "top": {},
        "policy": policy,
        "inputs": 300,
    }
    whole = Cascade(spec, top=Oracle())
    wanted = plain(list(whole.feed(texts)))
    before = Cascade(spec, top=Oracle())
    head = list(before.feed(texts[:160]))
    before.save(tmp_path)
    after = Cascade.load(tmp_path, top=Oracle())
    assert after.spec == before.spec
    assert plain(head + list(after.feed(texts[160:]))) == wanted
    assert (after.answered, after.asked) == (whole.answered, whole.asked)
    assert after.agreement == whole.agreement


def test_a_cascade_is_saved_in_new_empty_or_its_own_folders_only(tmp_path: Path) -> None:
    spec = CascadeSpec(labels=[*LABELS], levels=[LevelSpec(kind="linear")], top=TopSpec())
    cascade = Cascade(spec, top=Oracle())
    for name in ("new", "new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        cascade.save(tmp_path / name)
        Cascade.load(tmp_path / name, top=Oracle())
    for name in ("notes.txt", "cascade.yaml", "tell.json"):
        folder = tmp_path / f"folder with {name}"
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(StorageError, match="did not write; choose another folder"):
            cascade.save(folder)
        assert [path.name for path in folder.iterdir()] == [name]
        assert (folder / name).read_text() == "mine"


def test_a_saved_cascade_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_recipe: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(toy_recipe | {"method": "tfidf_linear"}, "baseline", progress=False)
    spec = {
        "labels": ["ball", "box", "sheet"],
        "levels": [{"kind": "linear"}],
        "top": {"adapter": "baseline"},
    }
    Cascade(spec).save("kept")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Cascade.load("../kept").answer("item 3 is round").text == "ball"
    with pytest.raises(StorageError, match=r"state\.pt is missing"):
        Cascade.load(tmp_path)
