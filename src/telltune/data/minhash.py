"""Near-duplicate texts by MinHash and locality-sensitive hashing.

MinHash follows Broder (1997), "On the resemblance and containment of documents". The bands follow
chapter 3.4 of Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets".
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]
    Signatures = npt.NDArray[np.uint32]
    Indices = npt.NDArray[np.int64]

PERMUTATIONS = 128
BANDS = 25
BAND_ROWS = 5
"""Rows per band. A pair of Jaccard 0.8 shares no band in 1 of 20,000 cases: (1 - 0.8^5)^25."""
ESTIMATE_SLACK = 0.1
"""About three standard errors of the estimate, sqrt(0.8 * 0.2 / 128) = 0.035."""
CANDIDATES_PER_BAND = 32
"""Maximum candidates per query and band. It avoids quadratic cost in a bucket of templated texts,
and is enough to find one match."""
CHUNK = 2**16
"""Number of shingles hashed at once, so that their array fits in the processor's cache."""
PAIRS_CHUNK = 2**12
"""Number of signature pairs compared at once, for the same reason."""


class Match(NamedTuple):
    """Similar pair `queries[query]`, `others[other]`, with its exact Jaccard similarity."""

    query: int
    other: int
    jaccard: float


class Tier(NamedTuple):
    """Shingle settings for texts in a range of lengths.

    Attributes:
        by: Unit of the shingles, "words" or "characters".
        size: Number of units in a shingle.
        shortest: Minimum number of words in a text of the tier.
        longest: Maximum number of words, or None for no maximum.
    """

    by: str
    size: int
    shortest: int
    longest: int | None

    def holds(self, text: str) -> bool:
        """Return whether a text's length is in the range of this tier."""
        words = len(text.split())
        return words >= self.shortest and (self.longest is None or words <= self.longest)


# One changed word breaks `size` shingles, which is most of a short text. Shorter texts therefore
# have smaller shingles. Adjacent tiers overlap by a fifth, because two texts of Jaccard 0.8 may
# differ in length.
TIERS = (
    Tier("characters", 5, 0, 30),
    Tier("words", 3, 24, 60),
    Tier("words", 5, 48, None),
)


def near_matches(
    queries: Sequence[str], others: Sequence[str], *, threshold: float = 0.8
) -> list[Match]:
    """Find, for each query, at most one similar text among the others.

    Args:
        queries: Texts, normalized by the caller.
        others: Texts to compare with.
        threshold: Minimum Jaccard similarity of the shingle sets, verified exactly.

    Returns:
        At most one match per query, in the order of the queries. At most `CANDIDATES_PER_BAND`
        others are compared per query and band.
    """
    found: dict[int, Match] = {}
    for tier in TIERS:
        rows = [i for i, text in enumerate(queries) if i not in found and tier.holds(text)]
        columns = [i for i, text in enumerate(others) if tier.holds(text)]
        if not rows or not columns:
            continue
        matches = _matches_in_tier(
            [queries[i] for i in rows], [others[i] for i in columns], tier, threshold
        )
        for match in matches:
            query = rows[match.query]
            found[query] = Match(query, columns[match.other], match.jaccard)
    return [found[query] for query in sorted(found)]


def signatures(texts: Sequence[str], tier: Tier, *, seed: int = 0) -> Signatures:
    """Compute MinHash signatures.

    Returns:
        Array of shape (texts, `PERMUTATIONS`). The fraction of equal entries in two rows estimates
        the Jaccard similarity of the two shingle sets.
    """
    random = np.random.default_rng(seed)
    # Multiply-shift (Dietzfelbinger 1996): the high half of a*x + b mod 2^64 is nearly random for
    # 32-bit x. Overflow of uint64 computes the modulus.
    factors = random.integers(0, 2**64, PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
    terms = random.integers(0, 2**64, PERMUTATIONS, dtype=np.uint64)
    result = np.empty((len(texts), PERMUTATIONS), dtype=np.uint32)
    first = 0
    for hashes, starts in _shingle_chunks(texts, tier):
        rows = slice(first, first + len(starts))
        keys = hashes >> np.uint64(32)
        for column, (factor, term) in enumerate(zip(factors, terms, strict=True)):
            smallest = np.minimum.reduceat(keys * factor + term, starts)
            result[rows, column] = smallest >> np.uint64(32)
        first = rows.stop
    return result


def _matches_in_tier(
    queries: Sequence[str], others: Sequence[str], tier: Tier, threshold: float
) -> list[Match]:
    query_signatures, other_signatures = signatures(queries, tier), signatures(others, tier)
    found: dict[int, Match] = {}
    vocabulary: dict[str, int] = {}
    # Many texts of a shared template are just below the threshold. A pair is therefore compared
    # exactly only if its estimate is above that of the best rejected pair.
    hurdle = np.full(len(queries), threshold - ESTIMATE_SLACK)
    unmatched = np.arange(len(queries))
    for band in range(BANDS):
        columns = slice(band * BAND_ROWS, (band + 1) * BAND_ROWS)
        rows, candidates = _same_bucket(
            _band_keys(query_signatures[unmatched, columns]),
            _band_keys(other_signatures[:, columns]),
            turn=band,
        )
        rows = unmatched[rows]
        estimates = _estimates(rows, candidates, query_signatures, other_signatures)
        for pair in np.flatnonzero(estimates > hurdle[rows]).tolist():
            query, other = int(rows[pair]), int(candidates[pair])
            if query in found or estimates[pair] <= hurdle[query]:
                continue
            jaccard = _jaccard(queries[query], others[other], tier, vocabulary)
            if jaccard >= threshold:
                found[query] = Match(query, other, jaccard)
            else:
                hurdle[query] = estimates[pair]
        unmatched = np.setdiff1d(unmatched, list(found), assume_unique=True)
    return list(found.values())


def _band_keys(band: Signatures) -> Hashes:
    """Return one 64-bit key per row of a band. Rows with equal entries have equal keys."""
    return _mixed(_polynomial(band.astype(np.uint64).T))


def _same_bucket(query_keys: Hashes, other_keys: Hashes, *, turn: int) -> tuple[Indices, Indices]:
    """Return pairs (query, other) with equal keys, as two arrays of equal length.

    From a larger bucket, each `turn` takes the next `CANDIDATES_PER_BAND` entries.
    """
    order = np.argsort(other_keys, kind="stable")
    ordered = other_keys[order]
    left = np.searchsorted(ordered, query_keys, side="left")
    sizes = np.searchsorted(ordered, query_keys, side="right") - left
    counts = np.minimum(sizes, CANDIDATES_PER_BAND)
    rows = np.repeat(np.arange(len(query_keys)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    within = (within + turn * CANDIDATES_PER_BAND) % sizes[rows]
    return rows, order[left[rows] + within]


def _estimates(
    rows: Indices, candidates: Indices, query_signatures: Signatures, other_signatures: Signatures
) -> npt.NDArray[np.float64]:
    """Return the estimated similarity of each pair."""
    estimates = np.empty(len(rows))
    for start in range(0, len(rows), PAIRS_CHUNK):
        chunk = slice(start, start + PAIRS_CHUNK)
        agree = query_signatures[rows[chunk]] == other_signatures[candidates[chunk]]
        estimates[chunk] = np.count_nonzero(agree, axis=1) / PERMUTATIONS
    return estimates


def _jaccard(one: str, other: str, tier: Tier, vocabulary: dict[str, int]) -> float:
    hashes, starts = _shingles([_units(text, tier, vocabulary) for text in (one, other)], tier.size)
    left, right = np.unique(hashes[: starts[1]]), np.unique(hashes[starts[1] :])
    shared = len(np.intersect1d(left, right, assume_unique=True))
    return shared / (len(left) + len(right) - shared)


def _shingle_chunks(texts: Sequence[str], tier: Tier) -> Iterator[tuple[Hashes, Indices]]:
    """Yield shingle hashes of consecutive texts, about `CHUNK` at a time, and each text's start.

    A text that is too short for its tier is padded with zeros, so it has at least one shingle.
    """
    vocabulary: dict[str, int] = {}
    pending: list[Hashes] = []
    units = 0
    for text in texts:
        pending.append(_units(text, tier, vocabulary))
        units += len(pending[-1])
        if units >= CHUNK:
            yield _shingles(pending, tier.size)
            pending, units = [], 0
    if pending:
        yield _shingles(pending, tier.size)


def _units(text: str, tier: Tier, vocabulary: dict[str, int]) -> Hashes:
    if tier.by == "characters":
        encoded = text.encode("utf-32-le", "surrogatepass")
        units = np.frombuffer(encoded, dtype="<u4").astype(np.uint64)
    else:
        units = np.array([_word_hash(word, vocabulary) for word in text.split()], dtype=np.uint64)
    padding = tier.size - len(units)
    return np.pad(units, (padding, 0)) if padding > 0 else units


def _word_hash(word: str, vocabulary: dict[str, int]) -> int:
    # Python's `hash` differs between processes.
    known = vocabulary.get(word)
    if known is None:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        known = vocabulary[word] = int.from_bytes(digest, "little")
    return known


def _shingles(units: list[Hashes], size: int) -> tuple[Hashes, Indices]:
    lengths = np.array([len(text) for text in units], dtype=np.int64)
    joined = np.concatenate(units)
    windows = len(joined) - size + 1
    hashes = _mixed(_polynomial([joined[place : place + windows] for place in range(size)]))
    # Windows that start in the last units of a text would extend into the next text.
    whole = np.ones(windows, dtype=bool)
    ends = np.cumsum(lengths)[:-1]
    for place in range(1, size):
        whole[ends - place] = False
    counts = lengths - size + 1
    return hashes[whole], np.cumsum(counts) - counts


def _polynomial(terms: Sequence[Hashes] | Hashes) -> Hashes:
    """Combine terms elementwise into one number that depends on their order."""
    total = np.zeros_like(terms[0])
    for term in terms:
        total = total * np.uint64(0x9E3779B97F4A7C15) + term
    return total


def _mixed(keys: Hashes) -> Hashes:
    """Apply the SplitMix64 finalizer, in which every input bit affects every output bit."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
