"""The page in the browser: every part by clicking, and what it refuses."""

from __future__ import annotations

import shutil
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
import yaml
from fastapi.testclient import TestClient

import telltune
from asking import SHAPES, until
from telltune.html_report.page import REPORT
from telltune.serving.server import open_port
from telltune.ui import Workspace, make_page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOKEN = "secret"


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("once")


@pytest.fixture
def shapes(once: Path, toy_recipe: dict[str, Any]) -> Path:
    """Return an adapter that was trained on the toy task."""
    if not (once / "shapes").exists():
        recipe = toy_recipe | {"method": "sft_anchor", "mixture": {"passes": 10}}
        telltune.fit(recipe, once / "shapes", progress=False)
    return once / "shapes"


@pytest.fixture
def folder(tmp_path: Path, toy_recipe: dict[str, Any], shapes: Path) -> Path:
    """Return a folder with a recipe of a long run, an adapter and a report."""
    folder = tmp_path / "mine"
    folder.mkdir()
    long = toy_recipe | {"method": "sft_anchor", "mixture": {"passes": 2000}}
    (folder / "long.yaml").write_text(yaml.safe_dump(long))
    shutil.copytree(shapes, folder / "runs" / "shapes")
    (folder / "runs" / "study").mkdir()
    (folder / "runs" / "study" / REPORT).write_text("<h1>A study</h1>")
    return folder


@pytest.fixture
def work(folder: Path) -> Iterator[Workspace]:
    work = Workspace(folder)
    yield work
    work.close()


@pytest.fixture
def client(work: Workspace) -> TestClient:
    return TestClient(make_page(work, TOKEN), headers={"x-token": TOKEN})


@pytest.fixture
def address(work: Workspace) -> Iterator[str]:
    """Yield the address of the page, served in another thread."""
    config = uvicorn.Config(make_page(work, TOKEN), log_level="warning")
    server = uvicorn.Server(config)
    with open_port("127.0.0.1", 0) as port:
        thread = Thread(target=server.run, args=([port],))
        thread.start()
        until(lambda: server.started)
        yield f"http://127.0.0.1:{port.getsockname()[1]}/?token={TOKEN}"
        server.should_exit = True
        thread.join(30)


def test_one_clicks_from_a_dropped_file_to_a_report(
    browser: Any, address: str, work: Workspace, shapes: Path
) -> None:
    page = browser.new_page()
    page.set_default_timeout(120_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))

    def told(where: str, text: str) -> None:
        page.locator(where, has_text=text).wait_for()

    page.goto(address)
    rows = b"text,label\nlate parcel,shipping\nbilled twice,billing\nlate parcel,shipping\n"
    dropped = {"name": "tickets.csv", "mimeType": "text/csv", "buffer": rows}
    page.set_input_files("#upload", files=[dropped])
    told("#found", "3 train examples; 0 refused, 1 warnings.")
    assert (work.folder / "tickets.csv").read_bytes() == rows

    page.select_option("#source", "long.yaml")
    page.click("#plan")
    told("#found", "optimizer steps")

    page.fill("#out", "runs/long")
    page.fill("#settings", "training.batch_size=2\n\ntraining.learning_rate=0.001")
    page.click("#start")
    told("#told", "runs/long: running, step")
    page.locator('#task[d*="L"]').wait_for(state="attached")  # a line needs two points
    page.click("#stop")
    told("#told", "runs/long: stopped")
    assert any((work.folder / "runs/long/checkpoints").iterdir())

    page.select_option("#adapter", "runs/shapes")
    page.fill("#prompt", SHAPES[0])
    page.click("#ask")
    told("#adapted", telltune.predict(shapes, SHAPES[0]))
    base = page.inner_text("#base")
    assert base not in ("", "…")
    assert base != page.inner_text("#adapted")

    page.click("#read")
    page.frame_locator("#page").get_by_text("A study").wait_for()
    assert page.inner_text("#error") == ""
    assert wrong == []


def test_nothing_is_answered_without_the_token(client: TestClient) -> None:
    for path in ("/", "/files", "/check?name=long.yaml", "/report?name=runs/study/report.html"):
        assert client.get(path, headers={"x-token": "guess"}).status_code == 403
    assert client.post("/run", headers={"x-token": ""}, json={}).status_code == 403
    assert client.get(f"/files?token={TOKEN}", headers={"x-token": ""}).status_code == 200


def test_files_are_listed_by_what_they_are(client: TestClient, folder: Path) -> None:
    (folder / ".hidden.csv").write_text("")
    found = client.get("/files").json()
    assert found["folder"] == str(folder)
    assert found["adapters"] == ["runs/shapes"]
    assert found["reports"] == ["runs/study/report.html"]
    assert found["sources"] == [".hidden.csv", "long.yaml"]


@pytest.mark.parametrize("name", ["../outside.csv", "/etc/hostname", "link.csv", ".", "runs/../.."])
def test_what_is_outside_of_the_folder_is_not_read(
    client: TestClient, folder: Path, name: str
) -> None:
    (folder.parent / "outside.csv").write_text("text,label\na,b\n")
    (folder / "link.csv").symlink_to(folder.parent / "outside.csv")
    for path in ("check", "plan", "report"):
        assert client.get(f"/{path}", params={"name": name}).status_code == 403
    run = {"source": "long.yaml", "out": name, "settings": []}
    assert client.post("/run", json=run).status_code == 403
    asked = {"adapter": name, "prompt": "a"}
    assert client.post("/answers", json=asked).status_code == 403


def test_uploads_are_data_of_bounded_size_and_replace_nothing(
    client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telltune.ui.MOST_DATA", 10)
    for name, body, status, said in (
        ("new.csv", b"a,b\n1,2\n", 200, ""),
        ("new.csv", b"a,b\n1,2\n", 200, ""),
        ("new.csv", b"a,b\n1,3\n", 409, "rename one"),
        ("large.csv", b"a,b\n1,2\n" * 2, 413, "larger than 10 bytes"),
        ("recipe.yaml", b"a: b", 400, "is no file of"),
        ("..%2Fnew.csv", b"a,b\n", 404, ""),
    ):
        reply = client.put(f"/files/{name}", content=body)
        assert (reply.status_code, said in reply.text) == (status, True), reply.text
    assert (folder / "new.csv").read_bytes() == b"a,b\n1,2\n"
    assert not (folder / "large.csv").exists()


def test_mistakes_are_told_in_a_sentence(client: TestClient, folder: Path) -> None:
    (folder / "wrong.yaml").write_text("model: embedded\ntask: {trian: a.csv}\n")
    reply = client.get("/plan?name=wrong.yaml")
    assert reply.status_code == 400
    assert "trian" in reply.json()["detail"]
    assert client.get("/check?name=none.csv").status_code == 404
    assert client.get("/report?name=long.yaml").status_code == 404
    asked = client.post("/answers", json={"adapter": "runs/study", "prompt": "a"})
    assert asked.status_code == 400
