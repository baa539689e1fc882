"""Labels that are scored in one pass get the likelihood that each has alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from telltune.inference import scoring as module
from telltune.inference.scoring import label_nll

numbers = np.random.default_rng(2)
OPENING = numbers.integers(3, 300, 12).tolist()
PROMPTS = [OPENING + numbers.integers(3, 300, n).tolist() for n in (5, 9, 1, 7)]
# Labels of one token, of several, and two that begin alike.
LABELS = [[7], [9, 4, 2], [9, 5, 8, 2], [11, 2]]


@pytest.mark.parametrize("budget", [1, 40, 2048])
@pytest.mark.parametrize("prompts", [PROMPTS, [p[3:] for p in PROMPTS[:1]], [[5, 6], [7]]])
def test_a_label_is_as_likely_as_in_a_text_of_its_own(
    tiny_base: Any, prompts: list[list[int]], budget: int
) -> None:
    done: list[int] = []
    found = label_nll(tiny_base.model, prompts, LABELS, budget=budget, on_done=done.append)
    assert found.shape == (len(prompts), len(LABELS))
    assert sum(done) == len(prompts)
    for i, prompt in enumerate(prompts):
        for j, label in enumerate(LABELS):
            ids = torch.tensor([*prompt, *label])
            with torch.no_grad():
                likelihood = tiny_base.model(ids[None]).logits[0].log_softmax(-1)
            at = range(len(prompt) - 1, len(ids) - 1)
            wanted = -sum(float(likelihood[p, ids[p + 1]]) for p in at)
            assert float(found[i, j]) == pytest.approx(wanted, rel=1e-4)


def test_a_model_that_cannot_be_packed_gets_the_same(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = label_nll(tiny_base.model, PROMPTS, LABELS)
    monkeypatch.setattr(module, "can_pack", lambda _: False)
    torch.testing.assert_close(
        label_nll(tiny_base.model, PROMPTS, LABELS), packed, rtol=1e-4, atol=0
    )


class Logits(TorchDispatchMode):
    """Record of the number of logits in each product and in each of its normalizations."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.counts = vocabulary, list[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        aten = torch.ops.aten
        kinds = (aten.mm, aten.linear, aten.log_softmax, aten._log_softmax)
        if func.overloadpacket in kinds and found.shape[-1] == self.vocabulary:
            self.counts.append(found.numel())
        return found


def test_few_logits_exist_at_a_time(tiny_base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = label_nll(tiny_base.model, PROMPTS, LABELS)  # also makes the trials of the kernels
    vocabulary = tiny_base.model.config.vocab_size
    monkeypatch.setattr(module, "_LOGITS", 3 * vocabulary)
    monkeypatch.setattr(module, "can_pack", lambda _: True)
    cut = module.cut_loss(tiny_base.model)
    monkeypatch.setattr(module, "cut_loss", lambda _: cut)
    with Logits(vocabulary) as seen:
        found = label_nll(tiny_base.model, PROMPTS, LABELS)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=0)
    assert max(seen.counts) == 3 * vocabulary


def test_what_is_shared_is_computed_once(tiny_base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    tiny_base.model.register_forward_pre_hook(
        lambda _, args, values: counted.append(values["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr(module, "can_pack", lambda _: True)
    label_nll(tiny_base.model, PROMPTS, LABELS)
    own = sum(len(prompt) - len(OPENING) for prompt in PROMPTS)
    assert counted == [len(OPENING) + own + len(PROMPTS) * sum(len(label) - 1 for label in LABELS)]


def test_a_long_shared_start_leaves_rows_as_full_as_a_short_one(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    tiny_base.model.register_forward_pre_hook(
        lambda _, args, values: rows.append(values["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr(module, "can_pack", lambda _: True)
    label_nll(tiny_base.model, [OPENING * 10 + prompt for prompt in PROMPTS], LABELS, budget=200)
    assert len(rows) == 1
