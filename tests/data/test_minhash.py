import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telltune.data import minhash
from telltune.data.minhash import PERMUTATIONS, TIERS, Match, near_matches, signatures

_, by_three_words, by_five_words = TIERS


def words(seed, count):
    return random.Random(seed).choices([f"word{n}" for n in range(5000)], k=count)


def shingle_set(units, size):
    return {tuple(units[i : i + size]) for i in range(len(units) - size + 1)}


def jaccard(one, other):
    return len(one & other) / len(one | other)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    shared=st.integers(0, 150),
    own=st.integers(1, 60),
    tier=st.sampled_from(TIERS),
)
def test_estimate_is_near_the_true_jaccard(seed, shared, own, tier):
    start, one, other = words(seed, shared), words(seed + 1, 5 + own), words(seed + 2, 5 + own)
    texts = [" ".join(start + one), " ".join(start + other)]
    units = texts if tier.by == "characters" else [start + one, start + other]
    true = jaccard(*(shingle_set(unit, tier.size) for unit in units))
    left, right = signatures(texts, tier)
    # Four standard errors in the worst case, a Jaccard similarity of 0.5.
    assert (left == right).mean() == pytest.approx(true, abs=4 * (0.25 / PERMUTATIONS) ** 0.5)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), count=st.integers(8, 400))
def test_text_with_a_word_added_is_found_among_unrelated_ones(seed, count):
    planted = words(seed, count)
    others = [" ".join(words(seed + n, count)) for n in range(1, 6)]
    others.insert(3, " ".join(planted))
    (match,) = near_matches([" ".join([*planted, "more"])], others)
    assert (match.query, match.other) == (0, 3)
    assert match.jaccard >= 0.8


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), count=st.integers(4, 200))
def test_unrelated_texts_do_not_match(seed, count):
    texts = [" ".join(words(seed + n, count)) for n in range(20)]
    assert near_matches(texts[:10], texts[10:]) == []


@pytest.mark.parametrize("count", [8, 30, 31, 60, 61])
def test_changed_word_is_found_at_the_edges_of_the_tiers(count):
    start = words(1, count)
    changed = [*start[:-2], "other", start[-1]]
    true = jaccard(shingle_set(" ".join(start), 5), shingle_set(" ".join(changed), 5))
    found = near_matches([" ".join(start)], [" ".join(changed)])
    assert bool(found) == (true >= 0.8 or count > 30)


def test_similarity_is_exact():
    start = words(1, 100)
    (match,) = near_matches([" ".join(start)], [" ".join([*start, "more"])])
    assert match == Match(0, 0, 96 / 97)


def test_threshold_is_kept_exactly():
    start = words(1, 104)
    texts = [" ".join(start)], [" ".join([*start, *words(2, 25)])]
    assert near_matches(*texts, threshold=0.8) == [Match(0, 0, 0.8)]
    assert near_matches(*texts, threshold=0.801) == []


def test_signatures_do_not_depend_on_the_texts_around(monkeypatch):
    texts = [" ".join(words(seed, 20 + seed)) for seed in range(50)]
    together = signatures(texts, by_five_words)
    monkeypatch.setattr(minhash, "CHUNK", 40)
    assert np.array_equal(signatures(texts, by_five_words), together)
    assert np.array_equal(signatures(texts[7:8], by_five_words)[0], together[7])


def test_signatures_are_the_same_in_every_process():
    # Pinned: a salted hash would give other findings in each run.
    first = signatures(["one two three four five six"], by_three_words)[0, :3]
    assert first.tolist() == [1425196011, 622391954, 1042099153]


@pytest.mark.parametrize("text", ["", "a", "ab cd", "\ud800", "語" * 300, "\0"])
def test_short_and_odd_texts_match_themselves_only(text):
    assert near_matches([text], ["quite another text", text]) == [Match(0, 1, 1.0)]


def test_nothing_to_compare_gives_nothing():
    assert near_matches([], ["a"]) == near_matches(["a"], []) == []


def test_match_in_a_bucket_of_templated_texts_is_found_beyond_the_cap(monkeypatch):
    monkeypatch.setattr(minhash, "CANDIDATES_PER_BAND", 4)
    template = words(0, 300)
    others = [" ".join(template + words(seed, 80)) for seed in range(1, 60)]
    query = " ".join([*template, *words(59, 80), "more"])
    (match,) = near_matches([query], others)
    assert match.other == 58
