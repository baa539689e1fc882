"""Choice of response tokens for quanta: tokens learned in training and not merely copied.

Tokens are numbered over all responses of a set, in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.data.encoded import EncodedSet

LEARNED = 0.1
"""Loss in nats below which a token counts as learned (arXiv 2303.13506, section 5)."""


def choose_tokens(
    start: NDArray[np.float64], end: NDArray[np.float64], copied: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Choose the tokens to cluster, and count the others by the first reason for exclusion.

    In addition to the paper's criteria, which use one trained model, the loss of a token must have
    fallen by at least 0.1 nats in training.

    Args:
        start: Losses before training, in nats, (tokens,).
        end: Losses after training, in nats, (tokens,).
        copied: Result of `copied_tokens`, (tokens,).

    Returns:
        The indices of the chosen tokens, ascending, (chosen,), and the numbers of tokens:
        `response` in all, divided into `not_learned`, `copied`, `known_before` and `chosen`.
    """
    reasons = {
        "not_learned": end >= LEARNED,
        "copied": copied,
        "known_before": start - end < LEARNED,
        "chosen": np.ones(len(end), bool),
    }
    first = np.argmax(np.stack(list(reasons.values())), axis=0)
    counts = np.bincount(first, minlength=len(reasons)).tolist()
    chosen = np.flatnonzero(first == len(reasons) - 1)
    return chosen, {"response": len(end), **dict(zip(reasons, counts, strict=True))}


def token_owners(encoded: EncodedSet) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the example index and the ID of each response token, (tokens,) each."""
    owners = np.repeat(np.arange(len(encoded)), encoded.response_lengths)
    responses = [ids[prompt:] for ids, prompt in (encoded[i] for i in range(len(encoded)))]
    return owners, np.concatenate([np.empty(0, np.int32), *responses])


def copied_tokens(encoded: EncodedSet) -> NDArray[np.bool_]:
    """Return a mask of the response tokens that can be copied from the context, (tokens,).

    As in the paper's code, such a token ends a trigram that occurred earlier in the same example,
    in the prompt or the response.
    """
    found = []
    for i in range(len(encoded)):
        ids, prompt = encoded[i]
        seen: set[tuple[int, ...]] = set()
        for end in range(1, len(ids) + 1):
            trigram = tuple(ids[max(end - 3, 0) : end].tolist())
            if end > prompt:
                found.append(len(trigram) == 3 and trigram in seen)
            seen.add(trigram)
    return np.array(found, bool)
