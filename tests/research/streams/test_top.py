"""The largest model over HTTP: a real server that is slow, limits its rate or fails."""

from __future__ import annotations

import time
from typing import Any

import pytest

from telltune.data.examples import Message
from telltune.errors import RecipeError
from telltune.research.streams.top import Endpoint

LABELS = ("billing", "shipping")


def endpoint(server: Any, **settings: Any) -> Endpoint:
    return Endpoint(server.url, "large", LABELS, "Route it.", **settings)


def test_it_asks_as_openai_has_it_and_reads_the_label(server: Any) -> None:
    server.replies = ["The team is: Billing."]
    shots = (Message("user", "late parcel"), Message("assistant", "shipping"))
    found = endpoint(server, shots=shots, key="secret").label("wrong sum")
    assert (found.label, found.tokens, found.failure) == ("billing", 7, "")
    [seen] = server.seen
    assert seen["path"] == "/v1/chat/completions"
    assert seen["model"] == "large"
    assert [turn["role"] for turn in seen["messages"]] == ["system", "user", "assistant", "user"]
    assert seen["messages"][-1]["content"] == "wrong sum"
    assert server.keys == ["Bearer secret"]
    assert "secret" not in repr(endpoint(server, key="secret"))


@pytest.mark.parametrize(
    "rubbish",
    [
        "no idea",
        b"<html>",
        b'{"choices": []}',
        b'{"choices": [{"message": {"content": 5}}]}',
        b"[]",
    ],
)
def test_rubbish_is_asked_again_and_then_a_failure(server: Any, rubbish: Any) -> None:
    server.replies = [rubbish, "shipping"]
    assert endpoint(server).label("x").label == "shipping"
    server.replies = [rubbish]
    found = endpoint(server).label("x")
    assert found.label is None
    assert found.failure
    assert len(server.seen) == 4


def test_a_slow_server_costs_two_timeouts_and_no_more(server: Any) -> None:
    server.replies = [5.0]
    began = time.perf_counter()
    found = endpoint(server, timeout=0.3).label("x")
    assert time.perf_counter() - began < 2
    assert found.label is None
    assert "timed out" in found.failure


def test_a_rate_limit_is_waited_for(server: Any) -> None:
    server.replies = [429, "billing"]
    began = time.perf_counter()
    assert endpoint(server).label("x").label == "billing"
    assert time.perf_counter() - began >= 0.2
    server.replies = [503]
    assert "503" in endpoint(server).label("x").failure


def test_nobody_there_is_a_failure_too_and_no_address_is_refused() -> None:
    found = Endpoint("http://127.0.0.1:9/v1", "m", LABELS, "", timeout=1).label("x")
    assert found.label is None
    assert "URLError" in found.failure
    with pytest.raises(RecipeError, match="not an HTTP address"):
        Endpoint("file:///etc/passwd", "m", LABELS, "")
