"""A folder is pushed over real HTTP to a stand-in of the hub, and refusals are one sentence."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from telltune.cli import main
from telltune.errors import StorageError
from telltune.exporting.export import push

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "hf_" + "a" * 34


class Hub(ThreadingHTTPServer):
    """The hub's API for new repositories, as far as a push needs it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.committed: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None: ...

    def _reply(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        self._reply({"error": "not found"}, 404)

    def do_PUT(self) -> None:
        body = self._body()
        assert self.path == f"/store/{hashlib.sha256(body).hexdigest()}"
        self.server.stored[self.path.rpartition("/")[2]] = body
        self._reply({})

    def do_POST(self) -> None:
        body, path = self._body(), self.path.partition("?")[0]
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._reply({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            if asked["organization"] == "nobody":
                self._reply({"error": "not found"}, 404)
                return
            self.server.created.append(asked)
            self._reply({"url": f"{self.server.url}/me/{asked['name']}", "id": "me/tickets"})
        elif path == "/api/models/me/tickets/preupload/main":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._reply({"files": files})
        elif path == "/me/tickets.git/info/lfs/objects/batch":
            objects = [
                one | {"actions": {"upload": {"href": f"{self.server.url}/store/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._reply({"transfer": "basic", "objects": objects})
        elif path == "/api/models/me/tickets/commit/main":
            for line in body.splitlines():
                row = json.loads(line)
                value = row["value"]
                if row["key"] == "file":
                    self.server.committed[value["path"]] = base64.b64decode(value["content"])
                elif row["key"] == "lfsFile":
                    self.server.committed[value["path"]] = self.server.stored[value["oid"]]
            url = f"{self.server.url}/me/tickets/commit/f00d"
            self._reply({"success": True, "commitOid": "f00d", "commitUrl": url})
        elif path == "/api/validate-yaml":
            self._reply({"errors": [], "warnings": []})
        else:
            self._reply({"error": f"unexpected: {path}"}, 500)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    # These are read from the environment when huggingface_hub is imported, here long ago.
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    recipe = {
        "training": {"full_parameters": False},
        "model": {"quantization": None},
        "evaluation": {"answers": "generate"},
    }
    (folder / "tell.json").write_text(json.dumps({"recipe": recipe, "files": {}}))
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * 1000)
    (folder / ".lock").touch()
    return folder


def test_every_visible_file_arrives_in_a_private_repository(hub: Hub, folder: Path) -> None:
    assert push(folder, "me/tickets") == f"{hub.url}/me/tickets"
    [created] = hub.created
    assert (created["name"], created["organization"]) == ("tickets", "me")
    assert created["visibility"] == "private"
    visible = [path for path in folder.iterdir() if path.name != ".lock"]
    assert hub.committed == {path.name: path.read_bytes() for path in visible}
    assert hub.tokens == {f"Bearer {TOKEN}"}


def test_the_command_line_pushes_and_shows_no_token(
    hub: Hub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["tell", "export", str(folder), "--push", "me/tickets"])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    printed = capsys.readouterr()
    assert printed.out == f"Pushed to {hub.url}/me/tickets.\n"
    assert TOKEN not in printed.err
    assert hub.created[0]["visibility"] == "private"


def test_a_public_repository_is_asked_for(hub: Hub, folder: Path) -> None:
    push(folder, "me/tickets", private=False)
    assert hub.created[0]["visibility"] == "public"


@pytest.mark.parametrize("token", ["hf_" + "b" * 34, ""])
def test_a_wrong_or_missing_token_is_refused_without_showing_it(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(StorageError) as raised:
        push(folder, "me/tickets")
    assert str(raised.value) == (
        f"{folder} cannot be pushed to me/tickets (HTTP 401): set HF_TOKEN to a token that may "
        "write there."
    )
    assert not hub.committed


def test_an_unknown_owner_is_told(hub: Hub, folder: Path) -> None:
    with pytest.raises(StorageError, match=r"nobody/x \(HTTP 404\): check the owner and the name"):
        push(folder, "nobody/x")


def test_a_hub_that_is_not_there_is_told(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="cannot be pushed to me/tickets: Cannot reach"):
        push(folder, "me/tickets")
