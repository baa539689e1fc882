"""HTTP server that gives scripted replies in the protocol of OpenAI's chat completions."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Server:
    """Server with one scripted reply per call (the last one repeats), or replies by a rule.

    A string is the model's answer, bytes are the whole body, an integer is an HTTP status, and a
    float is a delay in seconds.
    """

    def __init__(self) -> None:
        self.replies: list[Any] = ["billing"]
        self.rule: Callable[[str], Any] | None = None
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append(json.loads(body) | {"path": self.path})
                outer.keys.append(self.headers.get("Authorization"))
                if outer.rule is not None:
                    reply = outer.rule(outer.seen[-1]["messages"][-1]["content"])
                else:
                    reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                if isinstance(reply, float):
                    time.sleep(reply)
                    reply = "billing"
                status, headers = 200, {}
                if isinstance(reply, int):
                    status, headers, reply = reply, {"Retry-After": "0.2"}, "wait"
                if isinstance(reply, str):
                    choice = {"message": {"content": reply}}
                    reply = json.dumps({"choices": [choice], "usage": {"total_tokens": 7}}).encode()
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(reply)))
                    self.end_headers()
                    self.wfile.write(reply)
                except OSError:
                    pass  # the client has given up

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()
