"""Requests to a real server through OpenAI's own client."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai import OpenAI

import telltune
from asking import SHAPES, asked, http, said, serving, streamed, until
from telltune.answering import predict_examples
from telltune.data.examples import Example, Message
from telltune.serving.app import MOST_BODY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RAMBLES = [f"item {n} is round" for n in range(5)]


@pytest.fixture
def both(shapes: Path, rambling: Path, served: Callable[..., Any]) -> Any:
    """Return the server of two adapters of one base, and a client."""
    return served(shapes, rambling)


@pytest.fixture
def client(both: Any) -> OpenAI:
    found: OpenAI = both[1]
    return found


def metric(client: OpenAI, name: str) -> int:
    """Return the sum over the models of a metric."""
    _, text = http(client, "/metrics")
    values = re.findall(rf"^telltune_{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, values)))


def test_answers_are_those_of_predict(shapes: Path, rambling: Path, client: OpenAI) -> None:
    found = [said(client, prompt) for prompt in SHAPES[:6]]
    assert found == telltune.predict(shapes, SHAPES[:6])
    assert len(set(found)) > 1
    long = [said(client, prompt, "rambling") for prompt in RAMBLES]
    assert long == telltune.predict(rambling, RAMBLES)
    assert max(map(len, long)) > 30


def test_a_streamed_answer_is_the_whole_answer_in_pieces(client: OpenAI) -> None:
    for prompt in RAMBLES[:2]:
        pieces = streamed(client, prompt, "rambling")
        assert "".join(pieces) == said(client, prompt, "rambling")
        assert len(pieces) > 5


def test_replies_say_who_answered_how_long_and_why_they_end(client: OpenAI) -> None:
    reply = client.chat.completions.create(**asked(SHAPES[0]))
    assert (reply.model, reply.object) == ("shapes", "chat.completion")
    assert reply.choices[0].finish_reason == "stop"
    usage = reply.usage
    assert usage.prompt_tokens > 2
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    cut = client.chat.completions.create(**asked(RAMBLES[0], "rambling", max_tokens=7))
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage.completion_tokens == 7
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 7}
    *_, last, counts = client.chat.completions.create(**asked(RAMBLES[0], "rambling", **options))
    assert last.choices[0].finish_reason == "length"
    assert counts.usage == cut.usage


def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(client: OpenAI) -> None:
    whole = said(client, RAMBLES[0], "rambling")
    middle = len(whole) // 2
    stop = whole[middle : middle + 3]
    wanted = whole.partition(stop)[0].rstrip()
    reply = client.chat.completions.create(**asked(RAMBLES[0], "rambling", stop=["zzzz", stop]))
    assert reply.choices[0].message.content == wanted
    assert reply.choices[0].finish_reason == "stop"
    assert "".join(streamed(client, RAMBLES[0], "rambling", stop=stop)) == wanted


def test_a_seed_repeats_a_sampled_answer_beside_others(client: OpenAI) -> None:
    how = {"temperature": 1.0, "top_p": 0.95}
    alone = [said(client, RAMBLES[0], "rambling", seed=n, **how) for n in (1, 2)]
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(8) as threads:
        jobs = [
            threads.submit(said, client, RAMBLES[0], "rambling", seed=n, **how)
            for n in (1, 2, 1, 2, 1, 2)
        ]
        assert [job.result() for job in jobs] == alone * 3


def test_a_conversation_with_a_system_turn_is_asked_as_in_training(
    shapes: Path, client: OpenAI
) -> None:
    turns = [("system", "Name it."), ("user", SHAPES[0]), ("assistant", "ball")]
    history = tuple(Message(*turn) for turn in turns)
    [wanted] = predict_examples(shapes, [Example(SHAPES[1], "", history=history)])
    messages = [{"role": role, "content": text} for role, text in turns]
    parts = [{"type": "text", "text": SHAPES[1]}]
    messages.append({"role": "user", "content": parts})
    reply = client.chat.completions.create(model="shapes", messages=messages)
    assert reply.choices[0].message.content == wanted


def test_fifty_clients_get_their_own_answers_from_common_batches(
    shapes: Path, rambling: Path, client: OpenAI
) -> None:
    wanted = {
        "shapes": telltune.predict(shapes, SHAPES[:25]),
        "rambling": telltune.predict(rambling, RAMBLES),
    }
    work = [("shapes", SHAPES[n], wanted["shapes"][n]) for n in range(25)]
    work += [("rambling", RAMBLES[n % 5], wanted["rambling"][n % 5]) for n in range(25)]

    def ask(model: str, prompt: str, n: int) -> str:
        if n % 2:
            return "".join(streamed(client, prompt, model))
        return said(client, prompt, model)

    before = metric(client, "requests_finished_total")
    with ThreadPoolExecutor(50) as threads:
        jobs = [threads.submit(ask, model, p, n) for n, (model, p, _) in enumerate(work)]
        assert [job.result() for job in jobs] == [answer for _, _, answer in work]
    assert metric(client, "requests_finished_total") == before + 50
    assert metric(client, "largest_batch") > 3
    assert metric(client, "requests_running") == metric(client, "requests_waiting") == 0


def test_models_are_listed_and_the_server_is_healthy(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["shapes", "rambling"]
    assert client.models.retrieve("rambling").owned_by == "telltune"
    assert http(client, "/health") == (200, '{"status":"ok"}')


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"`tickets` is not served.*shapes, rambling"):
        said(client, "Hello", "tickets")
    with pytest.raises(openai.NotFoundError) as found:
        client.models.retrieve("tickets")
    assert found.value.code == "model_not_found"


USER = {"role": "user", "content": "item 1 is flat"}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user", "content": ""}]}, "turn 1"),
        ({"messages": [{"role": "user", "content": 3.5}, USER]}, "must be from `assistant`"),
        ({"messages": [{"role": "wizard", "content": "Hi"}]}, "role `wizard`"),
        ({"messages": [{**USER, "name": "Ann"}]}, "name"),
        ({"messages": [USER, {"role": "assistant", "content": "Hi"}]}, "last message"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "text only"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_tokens": "7"}, "max_tokens"),
        ({"max_tokens": 600}, "context is 512 tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": [""]}, "stop"),
        ({"stop": list("abcde")}, "stop"),
        ({"n": 2}, "`n` is not supported"),
        ({"logprobs": True}, "`logprobs` is not supported"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "`tools` is not"),
        ({"stream_options": {"include_usage": True}}, "needs `stream: true`"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
    ],
)
def test_bad_requests_are_refused_with_one_sentence(
    client: OpenAI, wrong: dict[str, Any], told: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{"model": "shapes", "messages": [USER], **wrong})
    body = refused.value.body
    assert isinstance(body, dict)
    assert told in body["message"]
    assert body["message"].endswith(".")
    assert body["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_accepted(client: OpenAI) -> None:
    nothing = {"n": 1, "frequency_penalty": 0, "logprobs": False, "user": "ann", "stop": None}
    assert said(client, SHAPES[0], **nothing) == said(client, SHAPES[0])


def test_a_prompt_that_is_longer_than_the_context_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        said(client, "item " * 600)
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 5000, b"\xff\xfe", b"[]", b"3", b'{"model": 3}', b""]
)
def test_broken_bodies_are_refused(client: OpenAI, body: bytes) -> None:
    status, reply = http(client, "chat/completions", body)
    assert status == 400
    assert set(json.loads(reply)["error"]) == {"message", "type", "param", "code"}


def test_a_body_of_a_hundred_megabytes_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match=f"longer than {MOST_BODY:,} bytes") as refused:
        said(client, "x" * 10**8)
    assert refused.value.status_code == 413

    # Without a declared length it is refused as soon as it is too long.
    try:
        status, _ = http(client, "chat/completions", (b" " * 2**16 for _ in range(17)))
        assert status == 413
    except OSError:
        pass  # The server closed the connection before the end was sent.
    assert said(client, SHAPES[0]) == "ball"


def test_a_client_that_hangs_up_leaves_the_batch(
    client: OpenAI, both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = both
    lane = server.service.models["rambling"].lane
    step = lane.step
    # Otherwise a quick machine answers before the client hangs up.
    monkeypatch.setattr(lane, "step", lambda: time.sleep(0.01) or step())
    cancelled = metric(client, "requests_cancelled_total")
    long = {"max_tokens": 400, "temperature": 2.0, "seed": 3}
    stream = client.chat.completions.create(**asked(RAMBLES[0], "rambling", stream=True, **long))
    next(stream)
    with ThreadPoolExecutor(1) as thread:
        impatient = client.with_options(timeout=0.3)
        waits = thread.submit(said, impatient, RAMBLES[1], "rambling", **long)
        until(lambda: lane.running == 2)
        stream.response.close()
        with pytest.raises(openai.APITimeoutError):
            waits.result()
    until(lambda: lane.running == 0)
    assert server.service.open == 0
    assert metric(client, "requests_cancelled_total") == cancelled + 2


def test_a_failed_step_is_told_and_the_next_request_is_answered(client: OpenAI, both: Any) -> None:
    server, _ = both
    model = server.service.models["shapes"].predictor.model

    def break_down(*_: Any) -> None:
        hook.remove()
        raise RuntimeError("no memory left")

    hook = model.get_base_model().model.embed_tokens.register_forward_pre_hook(break_down)
    with pytest.raises(openai.InternalServerError, match=r"not be computed.*no memory left"):
        said(client, SHAPES[0])
    assert said(client, SHAPES[0]) == "ball"


def test_a_key_is_asked_for_where_one_is_set(shapes: Path) -> None:
    with serving(shapes, key="open sesame") as (_, client):
        assert said(client, SHAPES[0]) == "ball"
        with pytest.raises(openai.AuthenticationError, match="TELLTUNE_API_KEY"):
            said(client.with_options(api_key="open barley"), SHAPES[0])
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()
        assert [http(client, path)[0] for path in ("/health", "/metrics")] == [200, 401]


def test_a_baseline_answers_too(fitted: Callable[..., Path]) -> None:
    folder = fitted("linear", method="tfidf_linear")
    with serving(folder) as (server, client):
        assert server.service.models["linear"].engine == "chooses a label"
        assert said(client, SHAPES[0], "linear") == "ball"
        assert "".join(streamed(client, SHAPES[2], "linear")) == "sheet"


def test_a_model_that_the_packed_engine_does_not_support_is_served_too(
    rambling: Path, client: OpenAI, fitted: Callable[..., Path]
) -> None:
    whole = fitted(
        "plain",
        method="sft",
        mixture={"passes": 1},
        training={"learning_rate": 1e-9},
        evaluation={"max_new_tokens": 40, "engine": "transformers"},
    )
    wanted = [said(client, prompt, "rambling") for prompt in RAMBLES]
    with serving(whole) as (server, plain), ThreadPoolExecutor(8) as threads:
        assert server.service.models["plain"].engine.startswith("transformers")
        jobs = [threads.submit(said, plain, prompt, "plain") for prompt in RAMBLES]
        assert [job.result() for job in jobs] == wanted
        assert "".join(streamed(plain, RAMBLES[0], "plain")) == wanted[0]
        how = {"temperature": 1.0, "seed": 5, "max_tokens": 9}
        assert said(plain, RAMBLES[0], "plain", **how) == said(plain, RAMBLES[0], "plain", **how)
