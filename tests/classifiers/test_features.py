"""Features equal those of scikit-learn and the encoder, also after saving and loading."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from telltune.classifiers.features import (
    EncoderFeatures,
    TfidfFeatures,
    features_from,
    learn_features,
)
from telltune.valuation.embeddings import embed

TEXTS = ["Where is the lake?", "the lake IS cold!", "¿dónde está el lago?", "42 lakes, 4.2 each"]
OTHERS = ["a cold, cold lake", "", "nothing of it", "WHERE? where!"]


def test_saved_tfidf_is_scikit_learns_own_transform() -> None:
    theirs = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]").fit(TEXTS)
    told, arrays = TfidfFeatures.learned(TEXTS).state()
    told = json.loads(json.dumps(told))
    ours = features_from({"kind": "tfidf", **told}, arrays)
    assert ours.width == len(theirs.vocabulary_)
    for texts in (TEXTS, OTHERS):
        np.testing.assert_array_equal(ours(texts).toarray(), theirs.transform(texts).toarray())


def test_saved_encoder_features_are_the_encoders_vectors() -> None:
    told, arrays = EncoderFeatures().state()
    assert not arrays
    ours = features_from({"kind": "encoder", **told}, {})
    np.testing.assert_array_equal(ours(TEXTS), embed(TEXTS))
    assert ours(TEXTS).shape == (len(TEXTS), ours.width)


def test_the_cosine_of_joined_vectors_is_the_mean_of_both() -> None:
    both = learn_features("combined", TEXTS)
    told, arrays = both.state()
    restored = features_from({"kind": "combined", **json.loads(json.dumps(told))}, arrays)
    vectors = restored(TEXTS)
    np.testing.assert_array_equal(vectors.toarray(), both(TEXTS).toarray())
    assert vectors.shape == (len(TEXTS), both.width)
    words, meaning = TfidfFeatures.learned(TEXTS)(TEXTS).toarray(), embed(TEXTS)
    cosines = (words @ words.T + meaning @ meaning.T) / 2
    np.testing.assert_allclose((vectors @ vectors.T).toarray(), cosines, atol=1e-6)


def test_tfidf_whose_parts_do_not_fit_together_is_refused() -> None:
    told, arrays = TfidfFeatures.learned(TEXTS).state()
    with pytest.raises(ValueError, match="words but idf"):
        TfidfFeatures.from_state({"vocabulary": told["vocabulary"][1:]}, arrays)
    with pytest.raises(KeyError):
        TfidfFeatures.from_state(told, {})
