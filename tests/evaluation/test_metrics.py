"""Metrics give known answers, agree with reference libraries, and share some properties."""

from __future__ import annotations

import json
import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.errors import DataError, RecipeError
from telltune.evaluation import registry
from telltune.evaluation.metrics import Scored, get_metric, mean_of, metric, metric_names
from telltune.evaluation.text import sari_of

BUILT_IN = [
    "accuracy",
    "answer_letter",
    "balanced_accuracy",
    "bleu",
    "chrf",
    "edit_similarity",
    "exact_match",
    "json_field_accuracy",
    "json_valid",
    "macro_f1",
    "rouge_l",
    "sari",
    "token_f1",
]

ENGLISH = [
    "The quick brown fox jumps over the lazy dog.",
    "A cat sat on the mat, and it stayed there all day.",
    "Hello",
    "Your ticket goes to the billing team.",
    "",
    "Ég skil ekki þennan reikning, því miður.",
]
GERMANISH = [
    "The quick brown dog jumps over a lazy fox.",
    "The cat sat on a mat and stayed there.",
    "Hello there",
    "",
    "something",
    "Ég skil þennan reikning ekki.",
]


@pytest.fixture
def scratch_registry(monkeypatch):
    """Use a copy of the registry, which a test may add to."""
    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))


def score(name, predictions, references):
    return get_metric(name)(predictions, references, references).score


# The registry


def test_names_are_sorted_and_complete():
    assert metric_names() == BUILT_IN


def test_each_metric_has_a_summary():
    assert all(get_metric(name).summary for name in BUILT_IN)


def test_binary_metrics_are_those_whose_score_is_a_share_of_right_items():
    binary = [name for name in BUILT_IN if get_metric(name).binary]
    assert binary == ["accuracy", "answer_letter", "exact_match", "json_valid"]


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(RecipeError, match="no metric 'acuracy'; did you mean 'accuracy'"):
        get_metric("acuracy")


def test_name_like_no_other_lists_all():
    with pytest.raises(RecipeError, match="no metric 'zzz'; choose from accuracy, answer_letter"):
        get_metric("zzz")


@pytest.mark.usefixtures("scratch_registry")
def test_custom_metric_plugs_in():
    @metric("length_ratio", percent=False)
    def length_ratio(predictions, references):
        """Length of the prediction divided by that of the reference."""
        return mean_of([len(p) / len(r) for p, r in zip(predictions, references, strict=True)])

    scored = get_metric("length_ratio")(["ab", "abcd"], ["a", "ab"])
    assert scored.score == 2.0
    assert scored.per_item.tolist() == [2.0, 2.0]
    assert not scored.percent
    assert length_ratio.summary == "Length of the prediction divided by that of the reference."
    assert "length_ratio" in metric_names()


@pytest.mark.usefixtures("scratch_registry")
def test_custom_metric_may_ask_for_prompts():
    @metric("copies", percent=True, needs_prompts=True)
    def copies(predictions, references, prompts):
        return mean_of([100.0 * (p == q) for p, q in zip(predictions, prompts, strict=True)])

    assert copies(["a", "b"], ["x", "y"], ["a", "c"]).score == 50
    with pytest.raises(DataError, match="'copies' needs the prompts"):
        copies(["a"], ["x"])
    with pytest.raises(DataError, match="1 prompts for 2 references"):
        copies(["a", "b"], ["x", "y"], ["a"])


@pytest.mark.usefixtures("scratch_registry")
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda p, r: {}[p[0]],
            r"'own' of `.*test_metrics` failed \(KeyError: 'a'\); correct it, or",
        ),
        (lambda p, r: mean_of(s == t for s, t in zip(p, r)), r"failed \(TypeError: "),  # noqa: B905
        (lambda p, r: 50.0, "'own' of `.*test_metrics` returned a value of type `float`; return a"),
        (lambda p, r: [1.0, 2.0], "returned a value of type `list`"),
        (lambda p, r: None, "returned a value of type `NoneType`"),
    ],
)
def test_a_custom_metric_that_fails_is_named_with_its_module(function, message):
    with pytest.raises(RecipeError, match=message):
        metric("own", percent=True)(function)(["a", "b"], ["a", "c"])


@pytest.mark.usefixtures("scratch_registry")
def test_perplexity_cannot_be_registered():
    with pytest.raises(RecipeError, match="'perplexity' is one of telltune's own; choose another"):
        metric("perplexity", percent=False)(lambda p, r: mean_of([1.0]))


@pytest.mark.usefixtures("scratch_registry")
def test_a_name_is_held_by_one_function():
    with pytest.raises(RecipeError, match=r"'bleu' is already registered by .*text\.bleu"):

        @metric("bleu", percent=True)
        def other(predictions, references):
            return mean_of([0.0])


@pytest.mark.usefixtures("scratch_registry")
def test_registering_the_same_function_again_is_no_clash():
    for value in (1.0, 2.0):

        @metric("again", percent=True)
        def again(predictions, references, value=value):
            return mean_of([value])

    assert get_metric("again")(["a"], ["a"]).score == 2.0


@pytest.mark.usefixtures("scratch_registry")
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], "returned 1 per-item scores and 1 rows of statistics for 2 items"),
        ([1.0, float("nan")], "not a finite number"),
        ([-3.0, 120.0], "scores from -3 to 120, outside 0..100; .*percent=False"),
    ],
)
def test_broken_custom_metric_is_named(scores, message):
    @metric("broken", percent=True)
    def broken(predictions, references):
        return mean_of(scores)

    with pytest.raises(RecipeError, match=message):
        broken(["a", "b"], ["a", "b"])


@pytest.mark.parametrize("name", BUILT_IN)
def test_nothing_to_score_is_an_error(name):
    with pytest.raises(DataError, match="no references"):
        get_metric(name)([], [])


def test_lengths_must_agree():
    with pytest.raises(DataError, match="'accuracy': 1 predictions for 2 references"):
        get_metric("accuracy")(["a"], ["a", "b"])


# Free text


def test_edit_similarity_is_fuzzywuzzys_ratio():
    # From fuzzywuzzy's README: fuzz.ratio("this is a test", "this is a test!") is 97.
    pairs = [
        ("this is a test", "this is a test!", 97),
        ("return x", "return y", 88),
        ("", "x", 0),
        ("x", "", 0),
    ]
    predictions, references, wanted = zip(*pairs, strict=True)
    assert get_metric("edit_similarity")(predictions, references).per_item.tolist() == list(wanted)


def test_edit_similarity_reads_the_literals_of_py150():
    gold = "if x > <NUM_LIT:2> and y == '<STR_LIT:a b>' or <NUM_LIT> : '<STR_LIT>'"
    same = "if x > 2 and y == 'a b' or 0 : ''"
    assert score("edit_similarity", [same], [gold]) == 100


def test_sari_is_that_of_the_published_example():
    # The example of the library `evaluate`, which TRACE uses, and of EASSE.
    references = [
        "About 95 species are currently known.",
        "About 95 species are now accepted.",
        "95 species are now accepted.",
    ]
    found = sari_of(
        "About 95 species are currently accepted.", "About 95 you now get in.", references
    )
    assert found == pytest.approx(26.953601953601954)


def test_sari_of_a_few_words_is_as_counted_by_hand():
    sari = get_metric("sari")
    source, gold = "a b", "a c"
    # A copy: of a and b, a is kept rightly (precision 1/2, recall 1, F1 2/3), c is not added (F1
    # 0), and nothing is deleted (1). The bigram of the source is kept wrongly (0), that of the
    # reference is not added (0). All other scores are of no gram at all (1).
    copy = (2 / 3 + 0 + 1 + 0 + 0 + 1 + 6) / 12
    # Nothing is kept (F1 0) or added (0), and one of two deleted words was right to delete.
    nothing = (0 + 0 + 1 / 2 + 1 + 0 + 1 + 6) / 12
    assert sari([source, "", gold], [gold] * 3, [source] * 3).per_item == pytest.approx(
        [100 * copy, 100 * nothing, 100]
    )


def test_an_answer_letter_is_read_before_its_reasons():
    gold = "Answer: B\nBecause of this."
    predictions = ["Answer: B\nBecause of that.", "Answer: A\nBecause of this.", "B", "", gold]
    found = get_metric("answer_letter")(predictions, [gold] * 5)
    assert found.per_item.tolist() == [100, 0, 0, 0, 100]


def test_exact_match_folds_white_space_and_composition_only():
    references = ["one two", "one two", "Billing", "Billing", "é", ""]
    predictions = [" one\n two ", "one  three", "billing", "Billing.", "e\u0301", "  "]
    scored = get_metric("exact_match")(predictions, references)
    assert scored.per_item.tolist() == [100, 0, 0, 0, 100, 100]
    assert scored.score == pytest.approx(50)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, "café au lait") for name in ("exact_match", "token_f1", "edit_similarity")),
        *((name, "café au lait") for name in ("rouge_l", "accuracy", "macro_f1")),
        ("balanced_accuracy", "café"),
        ("answer_letter", "Answer: é"),
        ("json_field_accuracy", '{"café": "crème", "in": {"thé": 1, "a": [{"é": "è"}]}}'),
    ],
)
def test_composed_and_decomposed_letters_are_the_same(name, text):
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert get_metric(name)([decomposed], [composed]).score == 100


def test_token_f1_known_answers():
    cases = [
        ("the cat sat", "a cat sat down", 80.0),  # 2 shared of 2 and 3: 4/5
        ("Paris!", "paris", 100.0),
        ("cat cat dog", "cat dog dog", 2 * 2 / 6 * 100),  # shared counts, not shared types
        ("London", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("A", "A", 100.0),
        ("the", "A", 0.0),
    ]
    predictions, references, expected = zip(*cases, strict=True)
    scored = get_metric("token_f1")(predictions, references)
    assert scored.per_item.tolist() == pytest.approx(list(expected))


def test_rouge_l_known_answer():
    # Longest common subsequence "the cat on mat", 4 words of 4 and 6.
    assert score("rouge_l", ["the cat on mat"], ["the cat sat on the mat"]) == pytest.approx(80)


def test_rouge_l_equals_rouge_score_on_ascii():
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    predictions, references = GERMANISH[:4], ENGLISH[:4]
    expected = [
        100 * scorer.score(gold, got)["rougeL"].fmeasure
        for got, gold in zip(predictions, references, strict=True)
    ]
    scored = get_metric("rouge_l")(predictions, references)
    assert scored.per_item.tolist() == pytest.approx(expected)


def test_rouge_l_counts_letters_outside_ascii():
    assert score("rouge_l", ["þú"], ["ég"]) == 0
    assert score("rouge_l", ["привет мир"], ["привет"]) == pytest.approx(200 / 3)
    assert score("rouge_l", ["?!"], ["?!"]) == 100


@pytest.mark.parametrize("name", ["bleu", "chrf"])
@pytest.mark.parametrize("seed", range(5))
def test_corpus_score_is_that_of_sacrebleu(name, seed):
    from sacrebleu.metrics import BLEU, CHRF

    rng = random.Random(seed)
    picks = [rng.randrange(len(ENGLISH)) for _ in range(rng.randint(1, 12))]
    predictions = [GERMANISH[i] for i in picks]
    references = [ENGLISH[i] for i in picks]
    reference_scorer = {"bleu": BLEU, "chrf": CHRF}[name]()
    expected = reference_scorer.corpus_score(predictions, [references]).score
    assert score(name, predictions, references) == pytest.approx(expected, abs=1e-9)


@given(
    st.lists(
        st.tuples(st.text("ab .é", max_size=25), st.text("ab .é", max_size=25)),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=40)
def test_sacrebleu_agrees_on_odd_texts(pairs):
    from sacrebleu.metrics import BLEU, CHRF

    predictions, references = map(list, zip(*pairs, strict=True))
    for name, scorer in (("bleu", BLEU(force=True)), ("chrf", CHRF())):
        expected = scorer.corpus_score(predictions, [references]).score
        assert score(name, predictions, references) == pytest.approx(expected, abs=1e-9)


def test_per_item_scores_are_those_of_sacrebleu_sentences():
    from sacrebleu.metrics import BLEU, CHRF

    scorers = {"bleu": BLEU(effective_order=True), "chrf": CHRF()}
    for name, scorer in scorers.items():
        expected = [
            scorer.sentence_score(got, [gold]).score
            for got, gold in zip(GERMANISH, ENGLISH, strict=True)
        ]
        assert get_metric(name)(GERMANISH, ENGLISH).per_item.tolist() == pytest.approx(expected)


def test_bleu_without_a_four_gram_is_zero():
    assert score("bleu", ["one two three"], ["one two three"]) == 0


# Labels


def test_accuracy_ignores_case_and_space_and_nothing_else():
    references = ["billing", "billing", "billing", "Sales"]
    predictions = [" Billing\n", "billing.", "I think billing", "sales"]
    scored = get_metric("accuracy")(predictions, references)
    assert scored.per_item.tolist() == [100, 0, 0, 100]
    assert scored.score == 50


def test_macro_f1_and_balanced_accuracy_by_hand():
    references = ["a", "a", "a", "b", "b", "c"]
    predictions = ["a", "a", "b", "b", "nonsense", "a"]
    # a: 2 right of 3 gold and 3 predicted; b: 1 of 2 and 2; c: 0 of 1 and 0.
    assert score("macro_f1", predictions, references) == pytest.approx((200 / 3 + 50 + 0) / 3)
    assert score("balanced_accuracy", predictions, references) == pytest.approx(
        (200 / 3 + 50 + 0) / 3
    )
    scored = get_metric("macro_f1")(predictions, references)
    assert scored.per_item.tolist() == [100, 100, 0, 100, 0, 0]


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(5))
def test_label_metrics_are_those_of_scikit_learn(seed):
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

    rng = np.random.default_rng(seed)
    references = rng.choice(["a", "b", "c"], size=40, p=[0.7, 0.2, 0.1]).tolist()
    predictions = rng.choice(["a", "b", "c", "invalid"], size=40).tolist()
    macro = f1_score(references, predictions, labels=sorted(set(references)), average="macro")
    balanced = balanced_accuracy_score(references, predictions)
    assert score("macro_f1", predictions, references) == pytest.approx(100 * macro)
    assert score("balanced_accuracy", predictions, references) == pytest.approx(100 * balanced)
    accuracy = accuracy_score(references, predictions)
    assert score("accuracy", predictions, references) == pytest.approx(100 * accuracy)


def test_invalid_predictions_never_match_one_another():
    assert score("macro_f1", ["x", "x"], ["a", "b"]) == 0
    assert score("balanced_accuracy", ["x", "x"], ["a", "b"]) == 0


# JSON


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ('{"a": 1}', True),
        (' [1, "two"]\n', True),
        ("{}", True),
        ('"text"', False),
        ("3", False),
        ("null", False),
        ("", False),
        ("{'a': 1}", False),
        ('{"a": 1,}', False),
        ('{"a": NaN}', False),
        ('```json\n{"a": 1}\n```', False),
        ('Here it is: {"a": 1}', False),
        ('{"a": 1} {"b": 2}', False),
        ("[" * 100_000, False),
        ("[" * 100_000 + "]" * 100_000, False),
    ],
)
def test_json_valid_is_strict(text, valid):
    assert score("json_valid", [text], ["{}"]) == 100 * valid


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', 1),
        ('{"a": 1, "b": 3}', '{"a": 1, "b": 2}', 1 / 2),
        ('{"a": 1}', '{"a": 1, "b": 2}', 1 / 2),
        ('{"a": 1, "b": 2, "c": 3}', '{"a": 1, "b": 2}', 2 / 3),
        ('{"b": 1}', '{"a": 1}', 0),
        ('{"a": null}', "{}", 0),
        ("{}", "{}", 1),
        ("{}", '{"a": null}', 0),
        ('{"a": ["x", "y"]}', '{"a": ["y", "x"]}', 1),
        ('{"a": ["x", "x"]}', '{"a": ["x"]}', 0),
        ('{"a": {"b": [1, 2]}}', '{"a": {"b": [2, 1]}}', 1),
        ('{"a": 1.0}', '{"a": 1}', 1),
        ('{"a": true}', '{"a": 1}', 0),
        ('{"a": "1"}', '{"a": 1}', 0),
        ('{"a": "x  y"}', '{"a": "x y"}', 1),
        ('{"a": "X"}', '{"a": "x"}', 0),
        ('{"a": 1', '{"a": 1}', 0),
        ("[2, 1]", "[1, 2]", 1),
        ('{"a": 1}', "[1]", 0),
        ("[1]", '{"a": 1}', 0),
    ],
)
def test_json_field_accuracy_known_answers(prediction, reference, expected):
    assert score("json_field_accuracy", [prediction], [reference]) == pytest.approx(100 * expected)


def test_json_field_accuracy_is_the_mean_over_items_not_fields():
    predictions = ['{"a": 1}', '{"a": 0, "b": 0, "c": 0}']
    references = ['{"a": 1}', '{"a": 1, "b": 1, "c": 1}']
    assert score("json_field_accuracy", predictions, references) == 50


def test_references_without_any_json_are_refused():
    with pytest.raises(DataError, match=r"no reference is a JSON object .*, such as 'billing'"):
        get_metric("json_field_accuracy")(["{}", "{}"], ["billing", "sales"])


def test_a_reference_among_others_that_is_no_json_is_compared_as_text():
    scored = get_metric("json_field_accuracy")(
        ['{"a": 1}', " no  answer", "{}"], ['{"a": 1}', "no answer", "no answer"]
    )
    assert scored.per_item.tolist() == [100, 100, 0]


# Properties of all metrics

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("abé ", max_size=4),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
_json = st.dictionaries(st.sampled_from("abcd"), _values, max_size=3).map(json.dumps)
# At least four words, so that BLEU has a 4-gram to count.
_sentences = st.lists(
    st.text("abcþé'", min_size=1, max_size=4) | st.sampled_from(["the", "a", "."]),
    min_size=4,
    max_size=7,
).map(" ".join)
_labels = st.sampled_from(["a", "b", "c", "A ", "?"])


def _texts(name):
    if name.startswith("json"):
        return _json
    if name in ("accuracy", "balanced_accuracy", "macro_f1"):
        return _labels
    return _sentences


def _pairs(name):
    return st.lists(st.tuples(_texts(name), _texts(name)), min_size=1, max_size=8)


@pytest.mark.parametrize("name", BUILT_IN)
@given(data=st.data())
@settings(max_examples=15)
def test_scores_lie_on_the_scale(name, data):
    predictions, references = zip(*data.draw(_pairs(name)), strict=True)
    scored = get_metric(name)(predictions, references, references)
    assert 0 <= scored.score <= 100
    assert len(scored) == len(scored.per_item) == len(scored.statistics) == len(references)
    assert scored.per_item.min() >= 0
    assert scored.per_item.max() <= 100
    if get_metric(name).binary:
        assert set(scored.per_item) <= {0, 100}
        assert scored.score == pytest.approx(scored.per_item.mean())


@pytest.mark.parametrize("name", BUILT_IN)
@given(data=st.data())
@settings(max_examples=15)
def test_perfect_predictions_give_100(name, data):
    references = data.draw(st.lists(_texts(name), min_size=1, max_size=8))
    scored = get_metric(name)(references, references, references)
    assert scored.score == pytest.approx(100)
    assert scored.per_item.tolist() == pytest.approx([100] * len(references))


@pytest.mark.parametrize("name", BUILT_IN)
@given(data=st.data())
@settings(max_examples=15)
def test_order_of_items_does_not_matter(name, data):
    pairs = data.draw(_pairs(name))
    shuffled = data.draw(st.permutations(pairs))
    scores = [score(name, *zip(*items, strict=True)) for items in (pairs, shuffled)]
    assert scores[0] == pytest.approx(scores[1])


@pytest.mark.parametrize("name", BUILT_IN)
@given(data=st.data())
@settings(max_examples=15)
def test_a_resample_scores_as_if_its_items_were_scored_afresh(name, data):
    pairs = data.draw(_pairs(name))
    predictions, references = zip(*pairs, strict=True)
    scored = get_metric(name)(predictions, references, references)
    picks = data.draw(
        st.lists(st.integers(0, len(pairs) - 1), min_size=len(pairs), max_size=len(pairs))
    )
    afresh = score(name, *zip(*(pairs[i] for i in picks), strict=True))
    counts = np.bincount(picks, minlength=len(pairs)).astype(float)
    assert float(scored.reduce(counts @ scored.statistics)) == pytest.approx(afresh)


@pytest.mark.parametrize("name", BUILT_IN)
def test_reduce_works_on_any_leading_shape(name):
    text = '{"a": 1}' if name.startswith("json") else "one two three four five"
    references = [text, text.replace("1", "2")]
    scored = get_metric(name)([text, "{}"], references, references)
    sums = np.stack([scored.statistics, scored.statistics * 2, scored.statistics + 0.0])
    assert scored.reduce(sums).shape == (3, 2)


def test_mean_of_is_the_mean():
    scored = mean_of([1, 2, 6])
    assert isinstance(scored, Scored)
    assert scored.score == 3
    assert len(scored) == 3
