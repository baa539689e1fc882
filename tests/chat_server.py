"""HTTP server that gives scripted replies in the protocol of OpenAI's chat completions."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import Message


class ChatServer:
    """Server with one scripted reply per call (the last one repeats), or replies by a rule.

    A reply is the text of the model's answer, the bytes of the whole body, an HTTP status, a pair
    of a status and an error message, a delay in seconds, a dictionary of the completion, or None:
    a body that is cut in the middle. Calls are counted in `seen`, and `most` is the largest number
    of calls at a time. With `dripping`, replies come byte by byte from their `status`, `headers` or
    `body` on.
    """

    def __init__(self) -> None:
        self.replies: list[Any] = ["billing"]
        self.rule: Callable[[str], Any] | None = None
        self.seen: list[dict[str, Any]] = []
        self.headers: list[Message] = []
        self.lasts = 0.0
        self.now = self.most = 0
        self.dripping = ""
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                outer.headers.append(self.headers)
                self._send(200, json.dumps({"data": [{"id": "large"}, {"id": "small"}]}).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.seen.append(body | {"path": self.path})
                    outer.headers.append(self.headers)
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                    if outer.rule is not None:
                        reply = outer.rule(body["messages"][-1]["content"])
                    else:
                        reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                time.sleep(outer.lasts)
                with lock:
                    outer.now -= 1
                self._reply(reply)

            def _reply(self, reply: Any) -> None:
                if isinstance(reply, float):
                    time.sleep(reply)
                    reply = "billing"
                if isinstance(reply, int):
                    reply = (reply, "wait")
                status = 200
                if isinstance(reply, tuple):
                    status, reply = reply[0], {"error": {"message": reply[1]}}
                if isinstance(reply, str):
                    choice = {"message": {"content": reply}, "finish_reason": "stop"}
                    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
                    reply = {"choices": [choice], "usage": usage}
                cut = reply is None
                sent = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self._send(status, b'{"choices": [' if cut else sent, cut=cut)

            def _send(self, status: int, body: bytes, *, cut: bool = False) -> None:
                kind = "text/html" if body.startswith(b"<") else "application/json"
                with suppress(OSError):  # the client has given up
                    if outer.dripping:
                        self._drip(body)
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(body) + 99 * cut))
                    if status in (429, 503):
                        self.send_header("Retry-After", "0.2")
                    self.end_headers()
                    self.wfile.write(body)

            def _drip(self, body: bytes) -> None:
                """Send a reply in bytes, each soon after the one before, from some part on."""
                head = (
                    f"HTTP/1.1 200 OK\r\nX-Padding: {'x' * 200}\r\nContent-Type: application/json"
                )
                reply = f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
                at = {"status": 0, "headers": 20, "body": len(reply) - len(body)}[outer.dripping]
                self.wfile.write(reply[:at])
                for byte in reply[at:]:
                    time.sleep(0.1)
                    self.wfile.write(bytes([byte]))

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    @property
    def keys(self) -> list[str | None]:
        """The keys of all calls."""
        return [headers["Authorization"] for headers in self.headers]

    def close(self) -> None:
        """Stop the server."""
        self.http.shutdown()
        self.http.server_close()
