"""Tokens count if they are learned, not copied and not known before; others are counted."""

from __future__ import annotations

import numpy as np

from telltune.data.encoded import EncodedSet
from telltune.research.quanta.tokens import choose_tokens, copied_tokens, token_owners


def encoded(*examples: tuple[list[int], int]) -> EncodedSet:
    rows = [np.array(ids, np.int32) for ids, _ in examples]
    offsets = np.cumsum([0, *map(len, rows)])
    return EncodedSet(np.concatenate(rows), offsets, np.array([p for _, p in examples], np.int32))


def test_the_end_of_a_trigram_seen_before_is_copied() -> None:
    # 1 2 3 is in the prompt, 8 9 8 only in another example; 9 8 9 occurs and is repeated.
    one = ([1, 2, 3, 4, 1, 2, 3, 5], 5)
    other = ([8, 9, 8, 9, 8, 9], 3)
    assert copied_tokens(encoded(one, other)).tolist() == [False, True, False, False, True, True]


def test_a_pair_seen_before_does_not_explain_a_token() -> None:
    assert not copied_tokens(encoded(([1, 2, 3, 9, 2, 3], 4))).any()


def test_the_first_tokens_of_an_example_end_no_trigram() -> None:
    assert not copied_tokens(encoded(([7, 7, 7], 1))).any()
    assert copied_tokens(encoded(([7, 7, 7, 7], 1))).tolist() == [False, False, True]


def test_owners_and_ids_follow_the_responses() -> None:
    owners, ids = token_owners(encoded(([5, 6, 7], 1), ([8, 9], 1)))
    assert owners.tolist() == [0, 0, 1]
    assert ids.tolist() == [6, 7, 9]


def test_every_token_is_chosen_or_counted_with_one_reason() -> None:
    start = np.array([5.0, 5.0, 5.0, 0.12, 0.5])
    end = np.array([0.05, 0.2, 0.01, 0.05, 0.09])
    copied = np.array([False, True, True, False, False])
    chosen, counts = choose_tokens(start, end, copied)
    assert chosen.tolist() == [0, 4]
    assert counts == {"response": 5, "not_learned": 1, "copied": 1, "known_before": 1, "chosen": 2}
