"""Without a network an id of the hub fails at once; a download that is cut continues."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = "model.safetensors"
FILES = {"config.json": b"{}", WEIGHTS: bytes(range(256)) * 100_000, "onnx/model.onnx": b"unused"}


class Hub(BaseHTTPRequestHandler):
    """A hub with one model, which cuts the first download of the weights half-way."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str]]
    cut: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        span = self.headers.get("Range", "")
        self.asked.append((f"{self.command} {path}", span))
        if path.startswith("/api/models/org/tiny/tree/"):
            self._send(
                json.dumps(
                    [
                        {"type": "file", "path": name, "size": len(content), "oid": _etag(content)}
                        for name, content in FILES.items()
                    ]
                ).encode()
            )
        elif path.startswith("/api/models/org/tiny"):
            names = [{"rfilename": name} for name in FILES]
            self._send(json.dumps({"id": "org/tiny", "sha": COMMIT, "siblings": names}).encode())
        elif path.startswith("/org/tiny/resolve/"):
            self._send_file(path.split("/", 5)[5], span)
        else:
            self._send(b"", 200 if path == "/" else 404)

    def _send_file(self, name: str, span: str) -> None:
        if name not in FILES:
            self._send(b"", 404, **{"X-Error-Code": "EntryNotFound"})
            return
        content = FILES[name]
        start = int(span.removeprefix("bytes=").rstrip("-") or 0)
        told = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            told["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        whole = self.cut or name != WEIGHTS or self.command == "HEAD"
        self._send(content[start:], 206 if start else 200, whole=bool(whole), **told)

    def _send(
        self,
        body: bytes,
        status: int = 200,
        *,
        whole: bool = True,
        **told: str,
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **told}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if whole:
            self.wfile.write(body)
        else:
            self.cut.append(self.path)
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    """Yield the address of a hub and what it was asked."""
    kind = type("OneHub", (Hub,), {"asked": [], "cut": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", kind
    server.shutdown()
    server.server_close()


@pytest.fixture
def python(tmp_path: Path) -> Callable[[str, str], subprocess.CompletedProcess[str]]:
    """Return a function that runs code with another hub, which is read when it is imported."""
    source = str(Path(__file__).parents[1] / "src")

    def run(endpoint: str, code: str) -> subprocess.CompletedProcess[str]:
        told = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": source}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        return subprocess.run(
            [sys.executable, "-c", code],
            env=kept | told,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


DOWNLOAD = """
import logging
from telltune.hub import ask_hub, download_model, is_cached, silence
logging.basicConfig(format="%(message)s", level=logging.WARNING)
ask_hub()
print([silence(), is_cached("org/tiny", None)])
download_model("org/tiny", None, pickles=False)
download_model("org/tiny", None, pickles=False)
print(is_cached("org/tiny", None))
"""


def test_a_download_that_was_cut_continues_after_one_line(
    hub: tuple[str, type[Hub]], python: Callable[..., Any], tmp_path: Path
) -> None:
    endpoint, kind = hub
    done = python(endpoint, DOWNLOAD)
    assert done.stdout == "['', False]\nTrue\n", done.stderr
    said = [line for line in done.stderr.splitlines() if "Downloading" in line]
    assert said == ["Downloading org/tiny from the hub: 2 files, 25.6 MB."]
    folder = tmp_path / "hf/hub/models--org--tiny/snapshots" / COMMIT
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == {name: FILES[name] for name in ("config.json", WEIGHTS)}
    assert kind.cut
    gets = [
        span for path, span in kind.asked if path == f"GET /org/tiny/resolve/{COMMIT}/{WEIGHTS}"
    ]
    assert len(gets) == 2
    start = int(gets[1].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= len(FILES[WEIGHTS]) // 2


ASKED = """
import os, socket, time
hub = socket.socket()
hub.bind(("127.0.0.1", 0))
endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
os.environ["HF_ENDPOINT"] = endpoint
import datasets
from huggingface_hub import get_session, try_to_load_from_cache
from telltune.data.loaders import read_examples
from telltune.errors import TellError
from telltune.models.files import locate
from telltune.recipe import DataSpec, ModelSpec
from telltune.research.streams.models import make_levels
from telltune.research.streams.top import make_top
from telltune.research.streams.spec import CascadeSpec
get_session()
encoder = {"kind": "encoder", "path": "org/tiny"}
spec = CascadeSpec(labels=["a", "b"], levels=[encoder], top={"model": "org/tiny"})
asks = (
    lambda: locate(ModelSpec(name="org/tiny")),
    lambda: read_examples([DataSpec(path="org/data")]),
    lambda: make_levels(spec),
    lambda: make_top(spec),
)
def ask_all():
    for ask in asks:
        began = time.monotonic()
        try:
            ask()
        except TellError as error:
            print(f"{time.monotonic() - began:.1f} {error}", flush=True)
print(endpoint, flush=True)
for prepare in (lambda: None, hub.listen):
    prepare()
    if not (child := os.fork()):
        ask_all()
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_hub_that_does_not_answer_is_not_asked_again_and_again(
    python: Callable[..., Any],
) -> None:
    """First nobody listens at its port, and then somebody who never replies."""
    endpoint, *lines = python("", ASKED).stdout.splitlines()
    seconds, told = zip(*(line.split(" ", 1) for line in lines), strict=True)
    assert max(map(float, seconds)) < 5
    assert len(told) == 2 * 4
    silent = f"the hub ({endpoint}) does not answer ("
    for model, data, level, top in (told[:4], told[4:]):
        assert model.startswith(
            f"model `org/tiny` is not in the hub's cache on this machine, and {silent}"
        )
        assert model.endswith("check the connection, or set `model` to `embedded` or a folder.")
        assert level == (
            model.removesuffix("`model` to `embedded` or a folder.").replace("model", "encoder", 1)
            + "`path` to a folder."
        )
        assert top == model
        assert f"({silent}" in data
        assert data.endswith("check the name and the connection.")
    assert told[0] != told[4]
