"""Which response tokens show a quantum: those that training taught, and that are not just copied.

Tokens are numbered over all responses of a set, in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from telltune.data.encoded import EncodedSet

__all__ = ["LEARNED", "choose_tokens", "copied_tokens", "token_owners"]

LEARNED = 0.1
"""A token is learned when its loss is below so many nats (arXiv 2303.13506, section 5)."""


def choose_tokens(
    start: NDArray[np.float64], end: NDArray[np.float64], copied: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Choose the tokens to cluster, and count the others by the first reason against them.

    Beyond the paper, which had one trained model to look at, a token must have had something to
    learn: 0.1 nats or more between start and end.

    Args:
        start: Losses before training, in nats, (tokens,).
        end: And after it.
        copied: From `copied_tokens`.

    Returns:
        The chosen ones, ascending, (chosen,); and how many tokens there are: `response` in all,
        of which `not_learned`, `copied`, `known_before` and `chosen`.
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
    """The example of each response token, and the token itself; each (tokens,)."""
    owners = np.repeat(np.arange(len(encoded)), encoded.response_lengths)
    responses = [ids[prompt:] for ids, prompt in (encoded[i] for i in range(len(encoded)))]
    return owners, np.concatenate([np.empty(0, np.int32), *responses])


def copied_tokens(encoded: EncodedSet) -> NDArray[np.bool_]:
    """The response tokens that induction explains, (tokens,): the context has shown them already.

    As in the paper's code, these end a trigram that stood earlier in the same example, prompt and
    response together: the two tokens before were seen, and this one after them.
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
