"""Generation: a batch answers as its prompts would alone, in their order, without stop tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from telltune.inference.transformers_engine import TransformersGenerator

END = 2
generator = np.random.default_rng(5)
PROMPTS = [generator.integers(3, 400, n).tolist() for n in (9, 3, 17, 5, 3, 12, 1, 8)]


@pytest.fixture
def engine(tiny_base: Any) -> TransformersGenerator:
    return TransformersGenerator(tiny_base.model, END, batch_tokens=40)


def alone(engine: TransformersGenerator, **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": 12, "stop_ids": {END}, **options}
    return [engine.generate([prompt], **options)[0] for prompt in PROMPTS]


def test_a_batch_answers_as_each_prompt_alone(engine: TransformersGenerator) -> None:
    batched = engine.generate(PROMPTS, max_new_tokens=12, stop_ids={END})
    assert batched == alone(engine)
    # They differ, so that an order mixed up would show.
    assert len({tuple(answer) for answer in batched}) == len(PROMPTS)


def test_the_likeliest_token_is_taken_each_time(engine: TransformersGenerator) -> None:
    import torch

    for prompt, answer in zip(PROMPTS, alone(engine, stop_ids={399}), strict=True):
        ids = list(prompt)
        for token in answer:
            logits = engine.model(torch.tensor([ids])).logits[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)


def test_an_answer_ends_before_its_first_stop_token(engine: TransformersGenerator) -> None:
    free = alone(engine, stop_ids={END})
    *_, one, other = sorted(free, key=len)
    stop = {one[4], other[7], END}
    cut = engine.generate(PROMPTS, max_new_tokens=12, stop_ids=stop)
    for whole, answer in zip(free, cut, strict=True):
        first = next((i for i, token in enumerate(whole) if token in stop), len(whole))
        assert answer == whole[:first]
    assert [len(answer) for answer in cut] != [len(answer) for answer in free]


def test_every_prompt_is_reported_once(engine: TransformersGenerator) -> None:
    done: list[int] = []
    engine.generate(PROMPTS, max_new_tokens=2, stop_ids={END}, on_done=done.append)
    assert sum(done) == len(PROMPTS)
    assert len(done) > 1
    assert engine.generate([], max_new_tokens=2, stop_ids={END}, on_done=done.append) == []


def test_batches_hold_no_more_than_their_tokens(
    engine: TransformersGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    generate = engine.model.generate

    def spy(**inputs: Any) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return generate(**inputs)

    monkeypatch.setattr(engine.model, "generate", spy)
    engine.generate([*PROMPTS, list(range(3, 53))], max_new_tokens=1, stop_ids={END})
    assert all(rows * width <= 40 or rows == 1 for rows, width in shapes)
    assert shapes[0] == (1, 50)


def test_sampling_draws_anew(engine: TransformersGenerator) -> None:
    import torch

    torch.manual_seed(0)
    drawn = engine.generate(PROMPTS[:1] * 8, max_new_tokens=6, stop_ids={END}, temperature=1.0)
    assert len({tuple(answer) for answer in drawn}) > 1
