"""Servers in another thread, and requests through OpenAI's client."""

from __future__ import annotations

import time
from contextlib import contextmanager
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from openai import OpenAI

from telltune.serving.models import load_models
from telltune.serving.server import Server, open_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SHAPES = [f"item {n} is {kind}" for n in range(40, 60) for kind in ("round", "square", "flat")]
"""Prompts that the trained adapter answers."""


@contextmanager
def serving(
    *folders: Path, key: str | None = None, most: int = 32
) -> Iterator[tuple[Server, OpenAI]]:
    """Serve folders on a free port in another thread."""
    server = Server(load_models(folders, most=most), key)
    with open_port("127.0.0.1", 0) as port:
        thread = Thread(target=server.run_on, args=(port,))
        thread.start()
        url = f"http://127.0.0.1:{port.getsockname()[1]}/v1"
        try:
            until(lambda: server.started)
            yield server, OpenAI(base_url=url, api_key=key or "none", max_retries=0)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def until(happened: Callable[[], bool], patience: float = 30.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.005)


def asked(prompt: str, model: str = "shapes", **more: Any) -> dict[str, Any]:
    """Return the arguments of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], **more}


def said(client: OpenAI, prompt: str, model: str = "shapes", **more: Any) -> str:
    """Return the answer to a prompt."""
    reply = client.chat.completions.create(**asked(prompt, model, **more))
    return str(reply.choices[0].message.content)


def streamed(client: OpenAI, prompt: str, model: str = "shapes", **more: Any) -> list[str]:
    """Return the pieces of a streamed answer."""
    chunks = client.chat.completions.create(**asked(prompt, model, stream=True, **more))
    return [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]


def http(client: OpenAI, path: str, body: Any = None) -> tuple[int, str]:
    """Send a request, without a key, and return the status and the body of the reply."""
    url = str(client.base_url.join(path))
    request = Request(url, body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=30) as reply:
            return reply.status, reply.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
