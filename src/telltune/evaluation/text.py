"""Metrics of free text: exact match, token F1, edit similarity, ROUGE-L, chrF, BLEU and SARI."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np

from telltune.evaluation.registry import Floats, Scored, mean_of, metric

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W_]+")
_LITERAL = re.compile(r"<(STR|NUM|CHAR)_LIT(?::(.*?))?>", re.DOTALL)
_LONGEST_GRAM = 4


def fold(text: str) -> str:
    """Strip a text, replace every run of white space by one space, and normalize it to NFC.

    Case and punctuation are kept. NFC is needed because "é" can be stored as one code point or as
    two, which look the same.
    """
    return " ".join(nfc(text).split())


def nfc(text: str) -> str:
    """Normalize a text to Unicode NFC."""
    return unicodedata.normalize("NFC", text)


@metric("exact_match", percent=True, binary=True)
def exact_match(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Share of predictions that equal the reference after `fold`; case and punctuation count.

    If the format is part of the task, "Billing." is not "billing". `token_f1` uses SQuAD's looser
    normalization.
    """
    pairs = zip(predictions, references, strict=True)
    return mean_of([100.0 * (fold(got) == fold(gold)) for got, gold in pairs])


@metric("token_f1", percent=True)
def token_f1(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Mean F1 of the words that prediction and reference share, as SQuAD counts them.

    Words are in lower case, without ASCII punctuation and English articles. If no word remains, as
    for the answer "A", a prediction is right if it equals the reference after `fold`. SQuAD would
    accept "the" for "A".

    Source: Rajpurkar et al. (2016), section 6.1, and the official evaluate-v1.1.py.
    """
    pairs = zip(predictions, references, strict=True)
    return mean_of([100.0 * _shared_f1(got, gold) for got, gold in pairs])


def _squad_words(text: str) -> list[str]:
    plain = fold(text).lower().translate(_PUNCTUATION)
    return _ARTICLES.sub(" ", plain).split()


def _shared_f1(prediction: str, reference: str) -> float:
    got, gold = _squad_words(prediction), _squad_words(reference)
    if not got or not gold:
        return float(fold(prediction) == fold(reference))
    shared = sum((Counter(got) & Counter(gold)).values())
    return 2 * shared / (len(got) + len(gold))


@metric("edit_similarity", percent=True)
def edit_similarity(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Mean ratio of matching characters, rounded to a percent, as `fuzz.ratio` of fuzzywuzzy.

    Two times the characters in matching blocks, divided by the length of both texts. The literals
    of Py150, such as `<NUM_LIT:2>`, count as their values, `2`; `<NUM_LIT>` without a value counts
    as 0, and other ones as nothing. An empty prediction is wrong.

    Source: Ratcliff and Metzener (1988), as in Python's difflib; TRACE (arXiv 2310.06762), Py150.
    """
    from difflib import SequenceMatcher

    def plain(text: str) -> str:
        return _LITERAL.sub(lambda found: found[2] or ("0" if found[1] == "NUM" else ""), text)

    def score(prediction: str, reference: str) -> int:
        got, gold = (plain(nfc(text).strip()) for text in (prediction, reference))
        return round(100 * SequenceMatcher(None, got, gold).ratio()) if got or not gold else 0

    pairs = zip(predictions, references, strict=True)
    return mean_of([score(got, gold) for got, gold in pairs])


class _UnicodeWords:
    """Tokenizer for rouge-score, whose default tokenizer drops every letter outside a-z.

    Both give the same words for ASCII text.
    """

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(nfc(text).lower())


@metric("rouge_l", percent=True)
def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Mean ROUGE-L F: the longest common subsequence of lower-case words, without stemming.

    If neither side has a word, as in an answer of punctuation only, texts that are equal after
    `fold` are right.

    Source: Lin (2004), section 3.1; computed by rouge-score.
    """
    from rouge_score.rouge_scorer import RougeScorer

    words = _UnicodeWords()
    scorer = RougeScorer(["rougeL"], tokenizer=words)

    def score(prediction: str, reference: str) -> float:
        if not words.tokenize(prediction) and not words.tokenize(reference):
            return float(fold(prediction) == fold(reference))
        return float(scorer.score(reference, prediction)["rougeL"].fmeasure)

    pairs = zip(predictions, references, strict=True)
    return mean_of([100.0 * score(got, gold) for got, gold in pairs])


@metric("chrf", percent=True)
def chrf(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Corpus chrF: F2 of character 1- to 6-grams, with sacrebleu's defaults.

    Per-item scores are sentence chrF. Statistics have shape (n, 18): n-grams in the prediction, in
    the reference and in both, for each of the six orders.

    Source: Popović (2015); the n-grams are sacrebleu's.
    """
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    # Unlike BLEUScore, CHRFScore does not expose its counts, so they are counted here. A test
    # compares the result with sacrebleu's corpus score.
    def counts(prediction: str, reference: str) -> list[int]:
        row = []
        for got, gold in zip(
            extract_all_char_ngrams(prediction, CHRF.CHAR_ORDER),
            extract_all_char_ngrams(reference, CHRF.CHAR_ORDER),
            strict=True,
        ):
            in_reference = gold.total()
            # sacrebleu skips orders for which the reference is too short.
            row += [got.total() if in_reference else 0, in_reference, (got & gold).total()]
        return row

    pairs = zip(predictions, references, strict=True)
    statistics = np.array([counts(got, gold) for got, gold in pairs], dtype=np.float64)
    return Scored(_chrf_of(statistics), statistics, _chrf_of)


def _chrf_of(sums: Floats) -> Floats:
    """Return chrF from summed counts, shape (..., 18), as CHRF._compute_f_score computes it."""
    beta_squared = 4.0
    by_order = sums.reshape(*sums.shape[:-1], -1, 3)
    got, gold, both = by_order[..., 0], by_order[..., 1], by_order[..., 2]
    counted = (got > 0) & (gold > 0)
    orders = np.maximum(counted.sum(axis=-1), 1)
    precision = np.where(counted, both / np.maximum(got, 1), 0).sum(axis=-1) / orders
    recall = np.where(counted, both / np.maximum(gold, 1), 0).sum(axis=-1) / orders
    denominator = beta_squared * precision + recall
    score: Floats = np.divide(
        100 * (1 + beta_squared) * precision * recall,
        denominator,
        out=np.zeros_like(denominator),
        where=denominator > 0,
    )
    return score


@metric("bleu", percent=True)
def bleu(predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Corpus BLEU with sacrebleu's defaults: 13a words, up to 4-grams, exponential smoothing.

    A corpus without any 4-gram scores 0 by definition. Per-item scores are sentence BLEU with
    effective order, so that short sentences can score above 0. Statistics have shape (n, 10):
    lengths of prediction and reference, then matched and total n-grams of each of four orders.

    Source: Papineni et al. (2002); Post (2018).
    """
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(effective_order=True)
    pairs = zip(predictions, references, strict=True)
    sentences = [scorer.sentence_score(got, [gold]) for got, gold in pairs]
    statistics = np.array(
        [[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in sentences],
        dtype=np.float64,
    )
    per_item = np.array([min(one.score, 100.0) for one in sentences])
    return Scored(per_item, statistics, _bleu_of)


def _bleu_of(sums: Floats) -> Floats:
    """Return BLEU from summed counts, shape (..., 10), as BLEU.compute_bleu computes it."""
    got_length, gold_length = sums[..., 0], sums[..., 1]
    matched, total = sums[..., 2:6], sums[..., 6:10]
    missed = (matched == 0) & (total > 0)
    # Exponential smoothing: the first order without a match counts as half a match, the next as a
    # quarter, and so on (NIST's mteval-v13a.pl).
    smoothed = np.where(missed, 0.5 ** missed.cumsum(axis=-1), matched)
    defined = (total > 0).all(axis=-1) & (matched > 0).any(axis=-1)
    precision = np.where(np.expand_dims(defined, -1), smoothed / np.maximum(total, 1), 1.0)
    brevity = np.exp(np.minimum(0.0, 1 - gold_length / np.maximum(got_length, 1)))
    mean = np.exp(np.log(precision).mean(axis=-1))
    score: Floats = np.where(defined, np.minimum(100 * brevity * mean, 100.0), 0.0)
    return score


@metric("sari", percent=True, needs_prompts=True)
def sari(predictions: Sequence[str], references: Sequence[str], prompts: Sequence[str]) -> Scored:
    """Mean SARI: quality of the words kept, added and deleted against the prompt (Xu et al., 2016).

    The whole prompt is the text that is simplified, as in TRACE. Texts are in lower case, with 13a
    words.
    """
    rows = zip(prompts, predictions, references, strict=True)
    return mean_of([sari_of(source, got, [gold]) for source, got, gold in rows])


def sari_of(source: str, prediction: str, references: Sequence[str]) -> float:
    """Return the SARI of a simplification, 0 to 100.

    The mean over 1- to 4-grams of three scores: F1 of the grams that are kept, F1 of those that are
    added, and the precision of those that are deleted. A gram of the source or prediction counts as
    right in proportion to the references that agree. A score without any gram is 1, as in the
    library `evaluate`, which TRACE uses; the paper's own script has 0.

    Source: Xu et al. (2016), "Optimizing statistical machine translation for text simplification",
    section 4.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    words = Tokenizer13a()  # type: ignore[no-untyped-call]
    texts = [words(text.lower()).split() for text in (source, prediction, *references)]
    total = 0.0
    for order in range(1, _LONGEST_GRAM + 1):
        before, after, *gold = (_grams(text, order) for text in texts)
        every: Counter[tuple[str, ...]] = sum(gold, Counter())
        # With r references, a gram of the source and of the prediction counts r times.
        before, after = (Counter({g: n * len(gold) for g, n in c.items()}) for c in (before, after))
        kept, deleted, added = before & after, before - after, set(after) - set(before)
        right_kept, right_deleted = kept & every, deleted - every
        to_keep, to_add = before & every, set(every) - set(before)
        found = added & set(every)
        total += _f1(
            _share(sum(n / kept[gram] for gram, n in right_kept.items()), len(kept)),
            _share(right_kept.total(), to_keep.total()),
        )
        total += _share(sum(n / deleted[gram] for gram, n in right_deleted.items()), len(deleted))
        total += _f1(_share(len(found), len(added)), _share(len(found), len(to_add)))
    return 100 * total / (3 * _LONGEST_GRAM)


def _grams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
