"""A cascade behind `tell serve`: a real process, its top a scripted server, OpenAI's client."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest
import yaml
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

import telltune
from asking import asked, http, until
from chat_server import ChatServer
from forked import Forked
from telltune.cli import main
from telltune.data.examples import Example
from telltune.errors import StorageError
from telltune.research.streams.cascade import Cascade
from telltune.research.streams.records import LabeledItem
from telltune.research.streams.stream import run_stream
from telltune.serving import server
from telltune.serving.cascades import SAVED_AFTER, CascadeLane, serve_cascade
from telltune.serving.lanes import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WORDS = {"billing": ("sum", "bill"), "shipping": ("parcel", "truck")}
NAME = "state"


def rule(text: str) -> str:
    return next(label for label, words in WORDS.items() if text.split()[0] in words)


def texts(start: int, count: int) -> list[str]:
    """Return inputs of which none comes twice, whatever their order."""
    words = [word for pair in WORDS.values() for word in pair]
    return [f"{words[(n + n // 4) % 4]} w{n}" for n in range(start, start + count)]


def settings(top: ChatServer, folder: Path, **more: Any) -> Path:
    """Write a cascade whose top is a scripted server."""
    teacher = {"url": top.url, "model": "large", "retries": 0}
    spec = {
        "labels": list(WORDS),
        "levels": [{"kind": "linear", "cost": 0.01}],
        "top": {"teacher": teacher},
        "policy": "threshold",
        "agreement": 0.9,
    }
    path = folder / "cascade.yaml"
    path.write_text(yaml.safe_dump(spec | more))
    return path


@contextmanager
def process(
    *words: object, folder: Path, first: Callable[[], None] | None = None
) -> Iterator[tuple[Forked, OpenAI]]:
    """Run `tell serve`, and yield the process and a client."""
    told, complaints = folder / "said", folder / "complaints"
    told.unlink(missing_ok=True)
    environment = {"TELLTUNE_CACHE": str(folder / "cache")}
    served = Forked(
        "serve",
        *words,
        "--port",
        0,
        "--json",
        said=told,
        complaints=complaints,
        first=first,
        environment=environment,
    )
    try:
        served.until(lambda: told.exists() and told.read_text().endswith("\n"))
        client = OpenAI(base_url=json.loads(told.read_text())["url"], api_key="none", max_retries=0)
        served.until(lambda: _answers(client))
        yield served, client
    finally:
        if served.process.exitcode is None:
            served.process.kill()
            served.process.join()


def _answers(client: OpenAI) -> bool:
    try:
        return http(client, "/health")[0] == 200
    except OSError:
        return False


def ask(client: OpenAI, text: str) -> tuple[str, dict[str, Any]]:
    """Return the answer to an input, and how it came about."""
    reply = client.chat.completions.create(**asked(text, NAME))
    assert reply.model_extra is not None
    return str(reply.choices[0].message.content), reply.model_extra["cascade"]


def metrics(client: OpenAI) -> dict[str, float]:
    """Return the values by name and labels, such as `requests_total{model="state"}`."""
    found = {}
    for family in text_string_to_metric_families(http(client, "/metrics")[1]):
        for one in family.samples:
            given = [(key, one.labels.get(key)) for key in ("model", "level", "le")]
            labels = ",".join(f'{key}="{value}"' for key, value in given if value)
            name = one.name.removeprefix("telltune_")
            found[f"{name}{{{labels}}}" if labels else name] = one.value
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ChatServer, OpenAI]]:
    """Yield the top and a client of a cascade that has answered 40 inputs."""
    folder, top = tmp_path_factory.mktemp("cascade"), ChatServer()
    top.rule = rule
    words = settings(top, folder), "--out", folder / NAME
    with process(*words, folder=folder) as (_, client):
        for text in texts(0, 40):
            ask(client, text)
        yield top, client
    top.close()


def test_it_answers_learns_and_says_who_answered(shared: tuple[ChatServer, OpenAI]) -> None:
    top, client = shared
    before = len(top.seen)
    found = [ask(client, text) for text in texts(1000, 40)]
    assert [text for text, _ in found] == list(map(rule, texts(1000, 40)))
    levels = Counter(told["level"] for _, told in found)
    assert levels["linear"] > 20
    assert levels["top"] == len(top.seen) - before
    for _, told in found:
        if told["level"] == "linear":
            assert 0.5 < told["confidence"] <= 1
            assert (told["cost"], told["top_tokens"]) == (0.01, 0)
        else:
            assert told["confidence"] is None
            assert (told["cost"], told["top_tokens"]) == (1.01, 7)
        assert told["top_failure"] is None


def test_a_streamed_answer_comes_in_one_piece_with_the_same_facts(
    shared: tuple[ChatServer, OpenAI],
) -> None:
    chunks = list(shared[1].chat.completions.create(**asked("bill of may", NAME, stream=True)))
    pieces = [chunk.choices[0].delta.content for chunk in chunks]
    assert list(filter(None, pieces)) == ["billing"]
    [told] = [chunk.model_extra["cascade"] for chunk in chunks if chunk.model_extra]
    assert told["level"] in ("linear", "top")
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_clients_that_ask_at_once_each_get_their_own_answer(
    shared: tuple[ChatServer, OpenAI],
) -> None:
    _, client = shared
    before = metrics(client)
    inputs = texts(2000, 50)
    with ThreadPoolExecutor(10) as threads:
        found = list(threads.map(lambda text: ask(client, text), inputs))
    assert [text for text, _ in found] == list(map(rule, inputs))
    after = metrics(client)
    name = 'requests_finished_total{model="state"}'
    assert after[name] == before[name] + 50
    assert after['requests_running{model="state"}'] == 0


def test_metrics_count_inputs_costs_failures_and_times(
    shared: tuple[ChatServer, OpenAI],
) -> None:
    top, client = shared
    found = metrics(client)
    of = '{model="state"}'
    by = {
        level: found[f'cascade_inputs_total{{model="state",level="{level}"}}']
        for level in ("linear", "top")
    }
    assert by["top"] == found[f"cascade_top_inputs_total{of}"] == len(top.seen)
    assert found[f"cascade_top_failures_total{of}"] == 0
    assert found[f"cascade_top_tokens_total{of}"] == 7 * len(top.seen)
    assert found[f"cascade_cost_total{of}"] < 0.6 * sum(by.values())
    assert 0 < found[f"cascade_agreement_least{of}"] < found[f"cascade_agreement{of}"] <= 1
    for level, count in by.items():
        labels = f'{{model="state",level="{level}"}}'
        assert found[f"request_seconds_count{labels}"] == count
        assert found[f"request_seconds_sum{labels}"] > 0
        last = f'{{model="state",level="{level}",le="+Inf"}}'
        assert found[f"request_seconds_bucket{last}"] == count


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([("system", "Be brief."), ("user", "sum")], "single inputs; send one message"),
        ([("user", "a"), ("assistant", "b"), ("user", "c")], "single inputs"),
        ([("user", "")], "turn 1"),
    ],
)
def test_a_conversation_is_refused(
    shared: tuple[ChatServer, OpenAI], messages: list[tuple[str, str]], told: str
) -> None:
    turns: Any = [{"role": role, "content": text} for role, text in messages]
    with pytest.raises(openai.BadRequestError, match=told):
        shared[1].chat.completions.create(model=NAME, messages=turns)


def test_a_server_goes_on_where_it_was_also_after_a_kill_and_without_its_top(
    tmp_path: Path,
) -> None:
    top = ChatServer()
    top.rule = rule
    # A promise of 99% needs 149 labels, so that the top labels all of these.
    path, state = settings(top, tmp_path, agreement=0.99), tmp_path / NAME
    count = 'cascade_inputs_total{model="state",level="top"}'
    with process(path, "--out", state, folder=tmp_path) as (served, client):
        for text in texts(0, SAVED_AFTER + 15):
            ask(client, text)
        with pytest.raises(StorageError, match="in use by process"):
            run_stream(path, path, state, progress=False)
        served.signal(signal.SIGKILL)
        assert served.wait() == -signal.SIGKILL
    with process(path, "--out", state, folder=tmp_path) as (served, client):
        assert metrics(client)[count] == SAVED_AFTER
        for text in texts(500, 10):
            ask(client, text)
        served.signal(signal.SIGTERM)
        assert served.wait() == 0
    with process(state, folder=tmp_path) as (served, client):
        assert metrics(client)[count] == SAVED_AFTER + 10
        top.rule, before = lambda _: 500, len(top.seen)
        found = [ask(client, text) for text in texts(600, 6)]
        # After three failures the server has a rest.
        assert len(top.seen) == before + 3
        assert [text for text, _ in found] == list(map(rule, texts(600, 6)))
        for _, told in found:
            assert told["level"] == "linear"
            assert told["confidence"] > 0.5
            assert "answered 500" in told["top_failure"]
        after = metrics(client)
        assert after['cascade_top_failures_total{model="state"}'] == 6
        assert after[count] == SAVED_AFTER + 10
    top.close()


def hurry() -> None:
    server.GRACE = 1


def test_half_a_request_does_not_keep_a_server_from_ending_with_its_state(tmp_path: Path) -> None:
    top = ChatServer()
    top.rule = rule
    path, state = settings(top, tmp_path), tmp_path / NAME
    half = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{"
    with (
        process(path, "--out", state, folder=tmp_path, first=hurry) as (served, client),
        socket.create_connection((client.base_url.host, client.base_url.port)) as opened,
    ):
        opened.sendall(half)
        for text in texts(0, 6):
            ask(client, text)
        served.signal(signal.SIGTERM)
        assert served.wait() == 0
    assert Cascade.load(state).seen == 6
    assert "Traceback" not in (tmp_path / "complaints").read_text()
    top.close()


class Slow:
    """Top that answers an input when it is told to, in any order."""

    threads = True

    def __init__(self) -> None:
        self.open: dict[str, Event] = {}

    def label(self, text: str) -> LabeledItem:
        self.open[text] = released = Event()
        assert released.wait(30)
        del self.open[text]
        return LabeledItem(rule(text), 7, 0.01)


class Quick(Slow):
    """Top that answers at once."""

    threads = False

    def label(self, text: str) -> LabeledItem:
        return LabeledItem(rule(text), 7, 0.01)


def answered_by(lane: CascadeLane, top: Slow, jobs: list[Job]) -> list[Job]:
    """Step through jobs, and let the top answer in a random order; return them as they change."""
    rng, woken = np.random.default_rng(0), Event()
    lane.wake = woken.set
    for job in jobs:
        lane.add(job)
    changed: list[Job] = []
    while len(changed) < len(jobs) or lane.running:
        while lane.busy:
            changed += lane.step()
        if lane.running:
            until(lambda: len(top.open) == lane.running)
            woken.clear()
            top.open[str(rng.choice(sorted(top.open)))].set()
            assert woken.wait(30)
    return changed


@pytest.mark.parametrize("policy", ["learned", "threshold"])
def test_what_is_learned_depends_on_the_order_of_arrival_only(policy: str, tmp_path: Path) -> None:
    spec = {
        "labels": list(WORDS),
        "levels": [{"kind": "linear", "cost": 0.01, "decay": 0.8}],
        "top": {},
        "policy": policy,
        "agreement": 0.9,
    }
    inputs = texts(0, 160)
    alone = Cascade(spec, top=Quick())
    wanted = [answer.level for answer in alone.feed(inputs)]
    top = Slow()
    served = Cascade(spec, top=top)
    jobs = [Job(Example(text, "")) for text in inputs]
    changed = answered_by(CascadeLane(served, tmp_path), top, jobs)
    assert [job.level for job in jobs] == wanted
    assert set(wanted) == {"linear", "top"}
    assert [job.label for job in jobs] == list(map(rule, inputs))
    # The answers came in another order: cheap ones did not wait for the top.
    assert changed != jobs
    for one, other in zip(alone.levels, served.levels, strict=True):
        for name, value in one.state().items():
            np.testing.assert_array_equal(value, other.state()[name])
    assert (alone.updates, alone.asked) == (served.updates, served.asked)
    assert alone.agreement == served.agreement


def test_a_local_top_is_asked_in_turn_and_dropped_requests_are_left_out(tmp_path: Path) -> None:
    spec = {"labels": list(WORDS), "levels": [{"kind": "linear"}], "top": {}}
    cascade = Cascade(spec, top=Quick())
    lane = CascadeLane(cascade, tmp_path)
    jobs = [Job(Example(text, "")) for text in texts(0, 20)]
    for job in jobs:
        lane.add(job)
    jobs[3].dropped = True
    changed = []
    while lane.busy:
        # One answer after another, so that none waits for the next.
        changed += (found := lane.step())
        assert len(found) <= 1
    assert changed == [*jobs[:3], *jobs[4:]]
    assert cascade.seen == 19


def test_a_top_that_breaks_is_a_failure_of_one_input(tmp_path: Path) -> None:
    class Broken(Quick):
        def label(self, text: str) -> LabeledItem:
            raise RuntimeError("no memory left")

    spec = {"labels": list(WORDS), "levels": [{"kind": "linear"}], "top": {}}
    lane = CascadeLane(Cascade(spec, top=Broken()), tmp_path)
    job = Job(Example("sum", ""))
    lane.add(job)
    while lane.busy:
        lane.step()
    assert (job.level, job.error) == ("linear", "")
    assert job.more["cascade"]["top_failure"] == "RuntimeError: no memory left"


def test_a_cascade_that_answered_a_file_is_served_and_goes_on_with_the_file(
    server: ChatServer, tmp_path: Path, write_jsonl: Callable[..., Path]
) -> None:
    server.rule = rule
    path, state = settings(server, tmp_path), tmp_path / NAME
    rows = [{"text": text} for text in texts(0, 90)]
    stream = write_jsonl(tmp_path / "stream.jsonl", rows[:60])
    run_stream(path, stream, state, progress=False)
    with serve_cascade(state, state) as served:
        assert (served.name, served.cascade.seen) == (NAME, 60)
        assert served.cascade.answer("sum of may").text == "billing"
    write_jsonl(stream, rows)
    assert run_stream(path, stream, state, progress=False).inputs == 90
    assert telltune.Cascade.load(state).seen == 91


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("{file}",), "a cascade learns while it is served; name the folder"),
        (("{folder}", "--out", "{folder}/x"), "--out is the folder of one cascade"),
        (("{file}", "{file}", "--out", "{folder}/x"), "--out is the folder of one cascade"),
        (("{folder}/none.yaml", "--out", "{folder}/x"), "none.yaml"),
        (("{file}", "--out", "{file}"), "is a file; choose a folder"),
        (("{file}", "--out", "{folder}"), "contains files that telltune did not write"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    words: tuple[str, ...],
    told: str,
    server: ChatServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {"file": settings(server, tmp_path), "folder": tmp_path}
    given = [word.format(**names) for word in words]
    monkeypatch.setattr(sys, "argv", ["tell", "serve", *given, "--port", "0", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert told in printed.err
    assert printed.err.count("\n") == 1
