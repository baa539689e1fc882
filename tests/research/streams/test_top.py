"""The largest model behind an API: its labels, unreadable answers, and servers that fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from telltune.errors import ModelError
from telltune.inference.api_client import ApiClient
from telltune.recipe import ApiSpec
from telltune.research.streams.top import Endpoint

if TYPE_CHECKING:
    from chat_server import ChatServer

LABELS = ("billing", "shipping")


def endpoint(server: ChatServer, **settings: Any) -> Endpoint:
    client = ApiClient(ApiSpec(url=server.url, model="large", retries=0, **settings))
    return Endpoint(client, LABELS, "Route it.")


def test_it_asks_for_one_of_the_labels(server: ChatServer) -> None:
    server.replies = ["The team is: Billing."]
    found = endpoint(server).label("wrong sum")
    assert (found.label, found.tokens, found.failure) == ("billing", 7, "")
    [seen] = server.seen
    system, user = seen["messages"]
    assert system["content"] == "Route it. Labels: billing, shipping."
    assert user["content"] == "wrong sum"
    schema = seen["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["label"]["enum"] == list(LABELS)


def test_labels_in_the_instruction_are_not_repeated(server: ChatServer) -> None:
    named = "Is it Billing or shipping?"
    assert Endpoint(endpoint(server).client, LABELS, named).instruction == named


def test_an_answer_without_a_label_is_asked_again_in_other_words(server: ChatServer) -> None:
    server.replies = ["no idea", "shipping"]
    found = endpoint(server).label("x")
    assert (found.label, found.tokens) == ("shipping", 14)
    told = [turn["content"] for turn in server.seen[1]["messages"]]
    assert told[1:3] == ["x", "no idea"]
    assert "billing, shipping" in told[3]
    server.replies = ["no idea"]
    found = endpoint(server).label("y")
    assert (found.label, found.failure) == (None, "no label in `no idea`")
    assert len(server.seen) == 4


def test_a_failed_request_is_a_failure_of_one_input(server: ChatServer) -> None:
    server.replies = [500, "billing"]
    top = endpoint(server)
    found = top.label("x")
    assert found.label is None
    assert "answered 500" in found.failure
    assert top.label("x").label == "billing"


@pytest.mark.parametrize(("fault", "inputs"), [(401, 1), (b"<html>", 3)])
def test_a_server_that_labels_nothing_stops_the_stream(
    server: ChatServer, fault: Any, inputs: int
) -> None:
    server.replies = [fault]
    top = endpoint(server)
    for i in range(inputs - 1):
        assert top.label(f"x {i}").failure
    with pytest.raises(ModelError):
        top.label("last")
    assert len(server.seen) == inputs
