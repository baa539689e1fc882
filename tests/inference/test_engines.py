"""Every engine answers a batch as its prompts alone, in order and without stop tokens."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from telltune.errors import ModelError
from telltune.inference.engine import make_generator
from telltune.inference.next_tokens import Row, draft
from telltune.inference.packed_engine import PackedGenerator
from telltune.inference.transformers_engine import TransformersGenerator

if TYPE_CHECKING:
    from telltune.inference.engine import Generator

END = 2
generator = np.random.default_rng(5)
PROMPTS = [generator.integers(3, 400, n).tolist() for n in (9, 3, 17, 5, 3, 12, 1, 8)]


@pytest.fixture(params=["packed", "transformers"])
def engine(request: pytest.FixtureRequest, tiny_base: Any) -> Any:
    return make_generator(tiny_base.model, END, 40, request.param)


def alone(engine: Any, **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": 12, "stop_ids": {END}, **options}
    return [engine.generate([prompt], **options)[0] for prompt in PROMPTS]


def test_a_batch_answers_as_each_prompt_alone(engine: Any) -> None:
    batched = engine.generate(PROMPTS, max_new_tokens=12, stop_ids={END})
    assert batched == alone(engine)
    # They differ, so that a wrong order would show.
    assert len({tuple(answer) for answer in batched}) == len(PROMPTS)


def test_the_likeliest_token_is_taken_each_time(engine: Any) -> None:
    import torch

    for prompt, answer in zip(PROMPTS, alone(engine, stop_ids={399}), strict=True):
        ids = list(prompt)
        for token in answer:
            logits = engine.model(torch.tensor([ids])).logits[0, -1]
            assert token == int(logits.argmax())
            ids.append(token)


def test_an_answer_ends_before_its_first_stop_token(engine: Any) -> None:
    free = alone(engine, stop_ids={END})
    *_, one, other = sorted(free, key=len)
    stop = {one[4], other[7], END}
    cut = engine.generate(PROMPTS, max_new_tokens=12, stop_ids=stop)
    for whole, answer in zip(free, cut, strict=True):
        first = next((i for i, token in enumerate(whole) if token in stop), len(whole))
        assert answer == whole[:first]
    assert [len(answer) for answer in cut] != [len(answer) for answer in free]


def test_every_prompt_is_reported_once(engine: Any) -> None:
    done: list[int] = []
    engine.generate(PROMPTS, max_new_tokens=2, stop_ids={END}, on_done=done.append)
    assert sum(done) == len(PROMPTS)
    assert len(done) > 1
    assert engine.generate([], max_new_tokens=2, stop_ids={END}, on_done=done.append) == []


def test_padded_batches_hold_no_more_than_their_tokens(
    tiny_base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersGenerator(tiny_base.model, END, 40)
    shapes = []
    generate = engine.model.generate

    def spy(**inputs: Any) -> Any:
        shapes.append(tuple(inputs["input_ids"].shape))
        return generate(**inputs)

    monkeypatch.setattr(engine.model, "generate", spy)
    engine.generate([*PROMPTS, list(range(3, 53))], max_new_tokens=1, stop_ids={END})
    assert all(rows * width <= 40 or rows == 1 for rows, width in shapes)
    assert shapes[0] == (1, 50)


def test_sampling_draws_anew(engine: Any) -> None:
    import torch

    torch.manual_seed(0)
    drawn = engine.generate(PROMPTS[:1] * 8, max_new_tokens=6, stop_ids={END}, temperature=1.0)
    assert len({tuple(answer) for answer in drawn}) > 1


OPENING = generator.integers(3, 400, 20).tolist()


@pytest.fixture
def passes(tiny_base: Any) -> list[int]:
    """Return a list that gets the number of tokens of each pass over the model."""
    counted: list[int] = []
    tiny_base.model.register_forward_pre_hook(
        lambda _, args, values: counted.append(values["input_ids"].numel()), with_kwargs=True
    )
    return counted


def run_plan(model: Any, passes: list[int]) -> PackedGenerator:
    """Return an engine that has already inspected the model, which takes one pass."""
    engine = PackedGenerator(model)
    engine.generate([[3, 4]], max_new_tokens=1, stop_ids=set())
    passes.clear()
    return engine


def test_a_shared_start_is_computed_once_for_all_calls(tiny_base: Any, passes: list[int]) -> None:
    engine = run_plan(tiny_base.model, passes)
    prompts = [OPENING + prompt for prompt in PROMPTS]
    first = engine.generate(prompts, max_new_tokens=1, stop_ids={END})
    own = sum(map(len, PROMPTS))
    assert passes == [len(OPENING), own]
    assert engine.generate(prompts, max_new_tokens=1, stop_ids={END}) == first
    assert passes == [len(OPENING), own, own]
    assert engine.generate(PROMPTS, max_new_tokens=1, stop_ids={END}) == [
        engine.generate([prompt], max_new_tokens=1, stop_ids={END})[0] for prompt in PROMPTS
    ]


def test_one_prompt_after_another_computes_a_shared_start_twice_at_most(
    tiny_base: Any, passes: list[int]
) -> None:
    how: dict[str, Any] = {"max_new_tokens": 1, "stop_ids": {END}}
    engine = run_plan(tiny_base.model, passes)
    # Each has a number of its own behind the start, so that nothing more is shared.
    own = [[5 + i, *prompt] for i, prompt in enumerate(PROMPTS)]
    answers = [engine.generate([OPENING + prompt], **how)[0] for prompt in own]
    lengths = [len(prompt) for prompt in own]
    assert passes == [
        *(len(OPENING) + lengths[0], len(OPENING), lengths[1]),
        *lengths[2:],
    ]
    assert answers == [
        PackedGenerator(tiny_base.model).generate([OPENING + prompt], **how)[0] for prompt in own
    ]
    # A start of twice the length takes its place.
    longer = OPENING * 2
    passes.clear()
    for prompt in own[:3]:
        engine.generate([longer + prompt], **how)
    assert passes == [len(OPENING) + lengths[0], len(longer), *lengths[1:3]]


def test_an_ended_answer_is_not_computed_on(tiny_base: Any, passes: list[int]) -> None:
    engine = PackedGenerator(tiny_base.model)
    free = engine.generate(PROMPTS[:4], max_new_tokens=9, stop_ids={END})
    stop = {free[0][1]}
    passes.clear()
    answers = engine.generate(PROMPTS[:4], max_new_tokens=9, stop_ids=stop)
    assert len({len(answer) for answer in answers}) > 1
    # One more token than returned if it stopped early, and drafts at the end.
    asked = [min(len(answer) + 1, 9) for answer in answers]
    growing = [sum(n > step for n in asked) for step in range(1, 9)]
    alone = growing.index(1) if 1 in growing else len(growing)
    assert passes[1 : 1 + alone] == growing[:alone]


def test_waiting_prompts_come_in_as_others_leave(tiny_base: Any, passes: list[int]) -> None:
    engine = PackedGenerator(tiny_base.model, batch_tokens=60, pass_tokens=30)
    together = PackedGenerator(tiny_base.model)
    answers = engine.generate(PROMPTS, max_new_tokens=12, stop_ids={END})
    assert max(passes) <= 30
    assert answers == together.generate(PROMPTS, max_new_tokens=12, stop_ids={END})


def test_rows_join_and_leave_between_passes(tiny_base: Any) -> None:
    engine = PackedGenerator(tiny_base.model)
    wanted = alone(engine)
    rows = [Row(prompt, 12, {END}) for prompt in PROMPTS]
    waiting, moved = deque(rows), []
    with engine.computing():
        batch = engine.batch()
        # Rows of all lengths join one by one, so that the cache grows in both directions.
        while waiting or batch.rows:
            if waiting:
                moved += batch.start(batch.take(waiting, len(batch.rows) + 1))
            if len(waiting) == 2:
                gone = batch.rows[1]
                batch.leave(gone)
            moved += batch.grow()
    for row, answer in zip(rows, wanted, strict=True):
        if row is gone:
            assert row.end is None
            assert answer[: len(row.answer)] == row.answer
        else:
            assert (row.answer, row.end) == (answer, "stop" if len(answer) < 12 else "length")
    assert set(moved) == set(rows)


def test_rows_wait_until_a_batch_has_room_for_them(tiny_base: Any) -> None:
    engine = PackedGenerator(tiny_base.model, batch_tokens=60, pass_tokens=20)
    waiting = deque(Row([5] * n, 10, {END}) for n in (9, 3, 17, 90))
    with engine.computing():
        batch = engine.batch()
        taken = batch.take(waiting, 8)
        # Two rows of 19 tokens fit, and three of 27 do not.
        assert [len(row.prompt) for row in taken] == [9, 3]
        batch.start(taken)
        assert batch.take(waiting, 8) == []
        for row in list(batch.rows):
            batch.leave(row)
        assert [len(row.prompt) for row in batch.take(waiting, 8)] == [17]
        # A row that is longer than any batch is computed alone.
        assert [len(row.prompt) for row in batch.take(waiting, 8)] == [90]


def test_rows_of_one_batch_are_sampled_as_each_asks(tiny_base: Any) -> None:
    import torch

    engine = PackedGenerator(tiny_base.model)

    def run(*rows: Row) -> list[list[int]]:
        with engine.computing():
            batch = engine.batch()
            batch.start(list(rows))
            while batch.rows:
                batch.grow()
        return [row.answer for row in rows]

    def drawn(seed: int) -> Row:
        return Row(PROMPTS[0], 12, {END}, 1.0, 0.9, torch.Generator().manual_seed(seed))

    [one], [other] = run(drawn(1)), run(drawn(2))
    assert one != other
    greedy = Row(PROMPTS[2], 12, {END})
    assert run(drawn(2), greedy, drawn(1)) == [other, alone(engine)[2], one]


def test_drafts_spare_passes_and_change_nothing(
    tiny_base: Any, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = PROMPTS[0]
    engine = run_plan(tiny_base.model, passes)
    with monkeypatch.context() as patch:
        patch.setattr("telltune.inference.packed_engine.draft", lambda *_: [])
        plain = engine.generate([prompt], max_new_tokens=40, stop_ids=set())
        assert len(passes) == len(plain[0])
    passes.clear()
    # A prompt that contains its own answer.
    told = [*plain[0], 3, 4, *prompt]
    again = engine.generate([told], max_new_tokens=40, stop_ids=set())
    assert len(passes) < len(again[0])
    with monkeypatch.context() as patch:
        patch.setattr("telltune.inference.packed_engine.draft", lambda *_: [])
        assert engine.generate([told], max_new_tokens=40, stop_ids=set()) == again
    # Wrong guesses cost time and do not change the answer.
    with monkeypatch.context() as patch:
        patch.setattr("telltune.inference.packed_engine.draft", lambda _, most: [5] * min(most, 3))
        assert engine.generate([prompt], max_new_tokens=40, stop_ids=set()) == plain


def test_a_draft_is_what_followed_the_same_two_tokens() -> None:
    assert draft([1, 2, 7, 8, 9, 5, 1, 2], 3) == [7, 8, 9]
    assert draft([1, 2, 7, 1, 2, 8, 1, 2], 10) == [8, 1, 2]
    assert draft([1, 2, 7, 8, 9, 5, 1, 2], 1) == [7]
    assert draft([1, 2, 3], 10) == []
    assert draft([1, 2, 7, 1, 2], 0) == []


def test_a_model_that_wishes_more_than_the_likeliest_goes_to_transformers(tiny_base: Any) -> None:
    def made(engine: Any) -> Generator:
        return make_generator(tiny_base.model, END, 40, engine)

    assert isinstance(made("auto"), PackedGenerator)
    tiny_base.model.generation_config.no_repeat_ngram_size = 2
    assert isinstance(made("auto"), TransformersGenerator)
    with pytest.raises(ModelError, match="no_repeat_ngram_size"):
        made("packed")


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_a_repetition_penalty_is_that_of_transformers(tiny_base: Any, penalty: float) -> None:
    how: dict[str, Any] = {"max_new_tokens": 30, "stop_ids": set()}
    without = PackedGenerator(tiny_base.model).generate(PROMPTS, **how)
    tiny_base.model.generation_config.repetition_penalty = penalty
    packed = make_generator(tiny_base.model, END, 400)
    assert isinstance(packed, PackedGenerator)
    plain = TransformersGenerator(tiny_base.model, END, 400)
    # Alone, because transformers counts padding as a token of the prompt.
    wanted = alone(plain, **how)
    assert packed.generate(PROMPTS, **how) == wanted == alone(packed, **how)
    together = [OPENING + prompt for prompt in PROMPTS]
    assert packed.generate(together, **how) == [plain.generate([p], **how)[0] for p in together]
    assert wanted != without


def model_of(kind: str, **more: Any) -> Any:
    import torch
    import transformers

    values = {
        "vocab_size": 400,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        # Large enough for answers that depend on what attention sees.
        "initializer_range": 0.5,
    }
    config = getattr(transformers, kind)(**values, **more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("kind", "window"),
    [
        *(("MistralConfig", 2), ("MistralConfig", 15), ("MistralConfig", 1000)),
        *(("Gemma3TextConfig", 4), ("Gemma3TextConfig", 25)),
    ],
)
def test_a_window_hides_what_transformers_hides(kind: str, window: int) -> None:
    more = {} if kind == "MistralConfig" else {"head_dim": 8, "sliding_window_pattern": 2}
    model = model_of(kind, sliding_window=window, **more)
    packed = make_generator(model, 0, 400, "packed")
    plain = TransformersGenerator(model, 0, 400, shares=False)
    how: dict[str, Any] = {"max_new_tokens": 10, "stop_ids": set()}
    together = [OPENING + prompt for prompt in PROMPTS]
    # For many prompts, for those with a common start, and for one, which is drafted.
    for prompts in (PROMPTS, together, PROMPTS[:1], [PROMPTS[0] * 3]):
        assert packed.generate(prompts, **how) == plain.generate(prompts, **how)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("MambaConfig", {"state_size": 4}),
        # Chunks are longer than the texts of the trial.
        (
            "Llama4TextConfig",
            {"head_dim": 8, "attention_chunk_size": 1000, "num_local_experts": 2}
            | {"intermediate_size_mlp": 32},
        ),
    ],
)
def test_other_kinds_of_models_go_to_transformers(kind: str, more: dict[str, Any]) -> None:
    model = model_of(kind, **more)
    assert isinstance(make_generator(model, 0, 40), TransformersGenerator)
    with pytest.raises(ModelError, match="its architecture"):
        make_generator(model, 0, 40, "packed")
