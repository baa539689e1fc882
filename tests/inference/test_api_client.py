"""A model behind an API: limits, retries, budgets, the cache, and servers that fail."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from telltune.data.examples import Example, Message
from telltune.errors import DataError, ModelError, RecipeError
from telltune.inference.api_client import ApiClient, ApiUsage, CallError
from telltune.recipe import ApiSpec

if TYPE_CHECKING:
    from pathlib import Path

    from chat_server import ChatServer

KEY = "sk-very-secret"


def client(server: ChatServer, **settings: Any) -> ApiClient:
    return ApiClient(ApiSpec(url=server.url, model="large", **settings))


def ask(asked: ApiClient, text: str = "wrong sum", **settings: Any) -> str:
    return asked.ask(Example(text, ""), max_tokens=8, **settings).text


def test_it_asks_as_openai_has_it(server: ChatServer) -> None:
    server.replies = [" billing\n"]
    history = (Message("system", "Route it."), Message("user", "a"), Message("assistant", "b"))
    reply = client(server).ask(Example("wrong sum", "", history=history), max_tokens=8)
    assert (reply.text, reply.input_tokens, reply.output_tokens) == ("billing", 5, 2)
    [seen] = server.seen
    assert seen["path"] == "/v1/chat/completions"
    assert (seen["model"], seen["max_tokens"], seen["temperature"]) == ("large", 8, 0.0)
    assert "seed" not in seen
    assert [turn["role"] for turn in seen["messages"]] == ["system", "user", "assistant", "user"]
    assert seen["messages"][-1]["content"] == "wrong sum"
    assert server.keys == [None]


def test_the_key_is_sent_and_is_nowhere_else(
    server: ChatServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", f"{KEY}\n")
    asked = client(server, api_key_env="MY_KEY")
    ask(asked)
    assert server.keys == [f"Bearer {KEY}"]
    server.replies = [(401, f"Incorrect API key provided: {KEY}")]
    with pytest.raises(ModelError, match=r"401: Incorrect API key provided: \*\*\*; check the key"):
        ask(asked, "another")
    written = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
    assert written
    assert not any(KEY in text for text in (*written, caplog.text, repr(asked), repr(asked.spec)))


@pytest.mark.parametrize("name", ["Authorization", "authorization"])
def test_what_belongs_to_another_service_is_not_sent(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MY_KEY", "mine")
    for variable in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{variable}", KEY)
    custom = f"{name}: Bearer {KEY}\nX-Api-Key : {KEY}\nopenai-project: {KEY}\n\n: {KEY}\nno header"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", custom)
    ask(client(server))
    ask(client(server, api_key_env="MY_KEY"), "other")
    server.replies = [404]
    with pytest.raises(ModelError, match="its models are large, small"):
        ask(client(server, api_key_env="MY_KEY"), "third")
    assert server.keys == [None, *["Bearer mine"] * 3]
    assert len(server.headers) == 4
    assert KEY not in "".join(map(str, server.headers))


def test_a_variable_that_is_not_set_is_named(server: ChatServer) -> None:
    with pytest.raises(RecipeError, match="NO_SUCH_KEY is not set"):
        client(server, api_key_env="NO_SUCH_KEY")


def test_a_key_in_place_of_a_variables_name_is_not_repeated(server: ChatServer) -> None:
    with pytest.raises(RecipeError, match="the variable is not set") as error:
        client(server, api_key_env="gsk_verysecret")
    assert "gsk_verysecret" not in str(error.value)


@pytest.mark.parametrize("value", ["sk-a\nb", "sk-a\r\nX: b", "“sk-ab”", "sk-a\x7fb", "sk\udcffb"])
def test_a_value_that_cannot_be_a_key_is_refused_and_only_its_variable_is_named(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(RecipeError, match="the value of MY_KEY is not one line of") as error:
        client(server, api_key_env="MY_KEY")
    assert "sk" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"url": "file:///etc/passwd"}, "must be an HTTP address"),
        ({"url": "localhost:8000"}, "must be an HTTP address"),
        ({"api_key_env": KEY}, "not the key itself"),
        ({"cost_budget": 1}, "needs `price_in` and `price_out`"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        ApiSpec(**{"url": "http://localhost/v1", "model": "large"} | settings)
    assert KEY not in str(error.value)


def test_a_rate_limit_is_waited_for(server: ChatServer) -> None:
    server.replies = [429, 503, "billing"]
    began = time.perf_counter()
    assert ask(client(server)) == "billing"
    assert time.perf_counter() - began >= 0.4
    assert len(server.seen) == 3


@pytest.mark.parametrize("fault", [500, 502, None, 0.5], ids=["500", "502", "cut", "slow"])
def test_a_fault_is_retried(server: ChatServer, fault: Any) -> None:
    server.replies = [fault, "shipping"]
    assert ask(client(server, timeout=0.2)) == "shipping"
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (500, "large at .* answered 500: wait"),
        (None, "connection to large at .* failed: peer closed"),
        (0.3, "did not answer in 0.1 seconds, 2 times"),
    ],
    ids=["500", "cut", "slow"],
)
def test_a_fault_that_lasts_is_one_sentence(server: ChatServer, fault: Any, told: str) -> None:
    server.replies = [fault]
    with pytest.raises(CallError, match=told):
        ask(client(server, timeout=0.1, retries=1))
    assert len(server.seen) == 2


@pytest.mark.parametrize("part", ["status", "headers", "body"])
def test_the_time_limit_is_that_of_the_whole_request(server: ChatServer, part: str) -> None:
    server.dripping = part
    asked = client(server, timeout=0.3, retries=1)
    began = time.perf_counter()
    with pytest.raises(CallError, match=r"did not answer in 0\.3 seconds, 2 times"):
        ask(asked)
    assert time.perf_counter() - began < 5  # the whole reply would take longer
    assert len(server.seen) == 2
    server.dripping = ""
    assert ask(asked) == "billing"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_can_ask(server: ChatServer) -> None:
    ask(client(server))
    if (child := os.fork()) == 0:
        with suppress(Exception):
            os._exit(0 if ask(client(server), "other") == "billing" else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_it_answers_where_an_event_loop_runs(server: ChatServer) -> None:
    async def in_notebook() -> str:
        return ask(client(server))

    assert asyncio.run(in_notebook()) == "billing"


@pytest.mark.parametrize(
    "rubbish",
    [
        b"<html>hello</html>",
        b'{"choices": [{"mess',
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe",
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": {"content": 5}}]},
        {"error": {"message": "no money"}},
        {"choices": {}},
        {"choices": {"a": "\ud83d"}},
        {"choices": "billing"},
        *(
            {"choices": [{"message": {"content": "a"}}], "usage": {name: count}}
            for name in ("prompt_tokens", "completion_tokens")
            for count in (
                [1],
                {"a": 1},
                -500,
                -0.5e300,
                "many",
                float("inf"),
                float("nan"),
                10**999,
            )
        ),
        b"[" * 200_000,
        b'{"usage": ' * 200_000,
    ],
)
def test_rubbish_is_one_sentence_and_not_cached(server: ChatServer, rubbish: Any) -> None:
    server.replies = [rubbish, "billing"]
    asked = client(server)
    with pytest.raises(CallError, match="sent no chat completion"):
        ask(asked)
    assert ask(asked) == "billing"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("a\ud83d", "a\ufffd"), ("\udc00 b\ud83d\ude00", "\ufffd b😀"), ("\ud83d" * 3, "\ufffd" * 3)],
)
def test_an_unpaired_surrogate_is_replaced_and_the_answer_kept(
    server: ChatServer, text: str, wanted: str
) -> None:
    for labels, content in (((), text), (("a", "b"), json.dumps({"label": text}))):
        asked = client(server)
        server.replies = [{"choices": [{"message": {"content": content}}]}]
        assert ask(asked, labels=labels) == wanted
        assert ask(asked, labels=labels) == wanted
        assert asked.usage.cached == 1
    server.replies = [(500, text)]
    with pytest.raises(CallError, match=f"answered 500: {wanted}"):
        ask(client(server, retries=0), "another")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusals_stop_everything_at_once(server: ChatServer, status: int) -> None:
    server.replies = [(status, "no")]
    asked = client(server)
    for text in ("one", "two"):
        with pytest.raises(ModelError, match=f"answered {status}: no") as error:
            ask(asked, text)
        assert not isinstance(error.value, CallError)
    assert len(server.seen) == 1


def test_an_unknown_model_names_the_known_ones(server: ChatServer) -> None:
    server.replies = [(404, "model not found")]
    with pytest.raises(ModelError, match="its models are large, small"):
        ask(client(server))


def test_nobody_there_is_given_up_after_three_requests() -> None:
    asked = ApiClient(ApiSpec(url="http://127.0.0.1:9/v1", model="large", retries=0))
    for _ in range(2):
        with pytest.raises(CallError, match=r"connection to large .* failed: .*refused"):
            ask(asked)
    for _ in range(2):
        with pytest.raises(ModelError, match="3 requests in a row failed") as error:
            ask(asked)
        assert not isinstance(error.value, CallError)


def test_after_a_rest_the_server_is_asked_again(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.replies = [500]
    asked = client(server, retries=0)
    for _ in range(4):
        with pytest.raises(ModelError):
            ask(asked)
    assert len(server.seen) == 3
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    server.replies = ["billing"]
    assert ask(asked) == "billing"


def test_no_more_than_the_limit_at_a_time(server: ChatServer) -> None:
    server.lasts = 0.03
    server.rule = str.upper
    asked = client(server, concurrency=3)
    examples = [Example(f"text {i}", "") for i in range(8)]
    done: list[int] = []
    with ThreadPoolExecutor(2) as pool:
        halves = [
            pool.submit(asked.ask_all, part, max_tokens=8, on_done=done.append)
            for part in (examples[:4], examples[4:])
        ]
        replies = [reply.text for half in halves for reply in half.result()]
    assert replies == [f"TEXT {i}" for i in range(8)]
    assert server.most == 3
    assert sum(done) == 8
    assert asked.usage == ApiUsage(requests=8, input_tokens=40, output_tokens=16)


def test_the_same_request_is_asked_once(server: ChatServer) -> None:
    settings = {"max_tokens": 8, "temperature": 0.5}
    asked = [Example("a", ""), Example("a", ""), Example("b", "")]
    server.rule = lambda text: f"{text} {len(server.seen)}"
    first = client(server).ask_all(asked, seed=1, **settings)
    assert len({reply.text for reply in first}) == 3  # each has a seed of its own
    again = client(server)
    assert again.ask_all(asked, seed=1, **settings) == first
    assert again.usage == ApiUsage(cached=3)
    again.ask_all(asked, seed=2, **settings)
    assert again.usage.requests == 3


def test_one_failure_of_several_loses_no_answer(server: ChatServer) -> None:
    server.rule = lambda text: 500 if text == "bad" else text
    asked = [Example(text, "") for text in ("a", "bad", "b", "c")]
    with pytest.raises(ModelError, match=r"1 of 4 requests failed, the first because .* 500"):
        client(server, retries=0).ask_all(asked, max_tokens=8)
    server.seen.clear()
    server.rule = str.upper
    again = client(server)
    assert [reply.text for reply in again.ask_all(asked, max_tokens=8)] == ["a", "BAD", "b", "c"]
    assert len(server.seen) == 1


def test_budgets_end_the_asking_and_the_cache_goes_on(server: ChatServer) -> None:
    asked = client(server, token_budget=14)
    ask(asked, "one")
    ask(asked, "two")
    with pytest.raises(ModelError, match=r"token_budget: 14 .* \(14 tokens in 2 requests\)"):
        ask(asked, "three")
    prices = {"price_in": 200_000, "price_out": 500_000}
    asked = client(server, cost_budget=1.5, **prices)
    ask(asked, "four")
    assert asked.usage.cost(asked.spec) == pytest.approx(2.0)
    assert "which costs 2.0000" in asked.usage.told(asked.spec)
    with pytest.raises(ModelError, match=r"cost_budget: 1.5 .* \(2.0000 in 1 requests\)"):
        ask(asked, "three")
    for nothing in ({"token_budget": 0}, {"cost_budget": 0, **prices}):
        asked = client(server, **nothing)
        assert ask(asked, "one") == "billing"
        with pytest.raises(ModelError, match="budget: 0 for large is spent"):
            ask(asked, "three")
    assert len(server.seen) == 3


def test_labels_are_structured_answers_where_the_server_has_them(server: ChatServer) -> None:
    server.replies = ['{"label": "shipping"}', "The team is: Billing."]
    asked = client(server)
    assert ask(asked, labels=("billing", "shipping")) == "shipping"
    schema = server.seen[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["label"]["enum"] == ["billing", "shipping"]
    assert ask(asked, "other", labels=("billing", "shipping")) == "The team is: Billing."


def test_a_refused_parameter_is_left_out_from_then_on(
    server: ChatServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.replies = [
        (400, "response_format json_schema is not supported"),
        (400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        (422, "'temperature' does not support 0 with this model"),
        "billing",
    ]
    asked = client(server, thinking_tokens=100)
    assert ask(asked, labels=("a", "b")) == "billing"
    assert ask(asked, "next", labels=("a", "b")) == "billing"
    assert len(server.seen) == 5
    last = server.seen[-1]
    assert not {"response_format", "max_tokens", "temperature"} & set(last)
    assert last["max_completion_tokens"] == 108
    assert caplog.text.count("it is left out") == 3
    server.replies = [(400, "This model's maximum context length is 10 tokens")]
    with pytest.raises(CallError, match="maximum context length is 10"):
        ask(asked, "too long")


def test_thinking_is_no_part_of_an_answer(server: ChatServer) -> None:
    long = {"message": {"content": None, "reasoning_content": "x"}, "finish_reason": "length"}
    server.replies = ["<think>Is it?</think>\n\nbilling", {"choices": [long]}]
    asked = client(server)
    assert ask(asked) == "billing"
    cut = asked.ask(Example("other", ""), max_tokens=8)
    assert (cut.text, cut.cut) == ("", True)


def test_tools_are_refused(server: ChatServer) -> None:
    with pytest.raises(DataError, match="tools"):
        client(server).ask(Example("a", "", tools="[]"), max_tokens=8)
