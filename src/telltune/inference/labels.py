"""How likely each label of a closed set is, for many prompts in one packed pass.

What all prompts share stands in a row once, each prompt once, and its labels side by side behind
it: a label costs its own tokens only, and a label of one token nothing but a look at the logits.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from telltune.errors import RecipeError
from telltune.inference.label_names import label_key
from telltune.inference.packed_engine import shared_length
from telltune.models.attention import packed_attention
from telltune.models.layout import Layout, Segment
from telltune.models.lora import FusedLora
from telltune.models.packing import LEAST_SHARED, can_pack, pack, token_nll
from telltune.models.threads import adapt_threads, shared_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

__all__ = ["closed_set", "label_nll", "need_labels"]

# With more different answers than this, choosing among them is no longer quicker than writing one.
MOST_LABELS = 100
LONGEST_LABEL = 80


def closed_set(answers: Iterable[str], most: int = MOST_LABELS) -> tuple[str, ...]:
    """Return the labels that answers are drawn from, or nothing where they are no closed set.

    Answers are a closed set of labels if all of this holds, however few they are:

    - Each is one line of at most 80 characters.
    - There are at most `most` different ones, counted by `label_key`.
    - Each comes twice on average, and there are four answers at least. Where most labels are
      numbers, each of d labels comes d / 2 times on average: results of calculations repeat by
      chance, but ten ratings need fifty examples to pass for labels.
    - At most half of them (or two) come only once: answers such as "none" among many that come
      once are no labels.

    Args:
        answers: Completions of a task; empty ones are not looked at.
        most: Largest number of labels.

    Returns:
        The different answers as they are written, sorted.
    """
    seen = [answer for answer in answers if answer.strip()]
    counts = Counter(map(label_key, seen))
    different = len(counts)
    numbers = sum(map(_is_number, counts))
    times = max(2.0, different / 2) if 2 * numbers > different else 2.0
    closed = (
        different <= most
        and len(seen) >= times * max(different, 2)
        and sum(count == 1 for count in counts.values()) <= max(2, different // 2)
        and all(len(text) <= LONGEST_LABEL and "\n" not in text for text in map(str.strip, seen))
    )
    return tuple(sorted(set(seen))) if closed else ()


def need_labels(labels: Sequence[str], what: str, instead: str) -> None:
    """Refuse to choose among labels where there are none.

    Args:
        labels: Those of the training data; empty where its answers are no closed set.
        what: Recipe key or method that needs labels, for the message.
        instead: Advice to the user, in the imperative.

    Raises:
        RecipeError: There are no labels.
    """
    if not labels:
        raise RecipeError(
            f"{what} chooses among labels, and the training data's answers are no closed set (at "
            f"most 100, each twice on average); {instead}."
        )


def _is_number(text: str) -> bool:
    return any(map(str.isdigit, text)) and not any(map(str.isalpha, text))


def label_nll(
    model: Any,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    budget: int = 2048,
    on_done: Callable[[int], None] | None = None,
) -> Tensor:
    """The negative log-likelihood of each label behind each prompt, in nats, (prompts, labels).

    Args:
        model: A causal language model, with or without an adapter.
        prompts: Token ids, up to where the answer starts.
        labels: Token ids, each with the token that ends the turn.
        budget: Tokens computed at once, besides those that all prompts share.
        on_done: Told how many prompts have been scored since the last call.
    """
    found = torch.zeros(len(prompts), len(labels), dtype=torch.float64)
    model.eval()
    if not can_pack(model):
        return _apart(model, prompts, labels, found, on_done)
    shared = shared_length(prompts)
    shared = shared if shared >= LEAST_SHARED else 0
    with shared_cores(), torch.inference_mode(), FusedLora(model), packed_attention(model):
        for row in _rows(prompts, labels, shared, budget):
            adapt_threads()
            found[row.items] = row.nll(model)
            if on_done is not None:
                on_done(len(row.items))
    return found


def _apart(
    model: Any,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    found: Tensor,
    on_done: Callable[[int], None] | None,
) -> Tensor:
    """One pass for every pair, for models that cannot be packed."""
    for i, prompt in enumerate(prompts):
        rows = [(np.asarray([*prompt, *label], np.int32), len(prompt)) for label in labels]
        with shared_cores(), torch.inference_mode():
            for j, batch in enumerate(pack(rows, 1, together=False)):
                found[i, j] = token_nll(model, batch).double().sum().cpu()
        if on_done is not None:
            on_done(1)
    return found


@dataclass
class _Row:
    """A row being filled: prompts behind what they share, and labels behind each."""

    labels: Sequence[Sequence[int]]
    items: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    """Positions whose logits are looked at."""
    looks: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Item, label, number of the kept position, target token."""

    def add(self, tokens: Sequence[int], place: int, prefix: int = -1) -> int:
        """Put tokens behind the row, and say which segment they are."""
        self.ids += tokens
        self.places += range(place, place + len(tokens))
        self.segments.append(Segment(len(tokens), prefix))
        return len(self.segments) - 1

    def add_item(self, item: int, prompt: Sequence[int], shared: int) -> None:
        """Put a prompt and all labels behind the row."""
        segment = self.add(prompt[shared:], shared, 0 if shared else -1)
        at = len(self.items)
        self.items.append(item)
        self.kept.append(len(self.ids) - 1)
        end_of_prompt = len(self.kept) - 1
        for number, label in enumerate(self.labels):
            # Nothing follows a label's last token, so it is a target only.
            inputs = label[:-1]
            first = len(self.ids)
            if inputs:
                self.add(inputs, len(prompt), segment)
            self.kept += range(first, len(self.ids))
            seen = [end_of_prompt, *range(len(self.kept) - len(inputs), len(self.kept))]
            self.looks += [(at, number, k, t) for k, t in zip(seen, label, strict=True)]

    def nll(self, model: Any) -> Tensor:
        """Summed over the tokens of each label, (items, labels)."""
        device = next(model.parameters()).device
        logits = model(
            input_ids=torch.tensor([self.ids], device=device),
            position_ids=torch.tensor([self.places], device=device),
            logits_to_keep=torch.tensor(self.kept, device=device),
            layout=Layout(self.segments),
            use_cache=False,
        ).logits[0]
        likelihood = logits.float().log_softmax(-1)
        items, numbers, kept, targets = torch.tensor(self.looks).T
        sums = torch.zeros(len(self.items), len(self.labels), dtype=torch.float64)
        looked = -likelihood[kept.to(device), targets.to(device)].double().cpu()
        return sums.index_put_((items, numbers), looked, accumulate=True)


def _rows(
    prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], shared: int, budget: int
) -> Iterator[_Row]:
    """Rows of at most `budget` tokens behind what is shared, or of one prompt that is longer."""
    each = sum(len(label) - 1 for label in labels)
    row: _Row | None = None
    for i, prompt in enumerate(prompts):
        if row is not None and len(row.ids) + len(prompt) - 2 * shared + each > budget:
            yield row
            row = None
        if row is None:
            row = _Row(labels)
            if shared:
                row.add(prompts[0][:shared], 0)
        row.add_item(i, prompt, shared)
    if row is not None:
        yield row
