"""A page in the browser to check data, plan and train, compare answers and read reports.

The page belongs to one person and one folder: it is served on loopback, each request carries the
token of its address, and no file outside the folder is read or written.
"""

from __future__ import annotations

import hmac
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict

from telltune.api import check, plan
from telltune.data.examples import Example
from telltune.data.formats import known_suffixes
from telltune.errors import TellError, shown
from telltune.fitting.adapter_folder import TELL_JSON, load_base_of, read_tell
from telltune.fitting.baseline_folder import is_baseline, load_folder
from telltune.fitting.model_card import is_whole_model
from telltune.html_report.page import REPORT
from telltune.recipe import EvaluationSpec
from telltune.storage import writing
from telltune.training.log import LOG, loss_curve

if TYPE_CHECKING:
    from socket import socket

    from telltune.fitting.predictor import Predictor

MOST_DATA = 100 * 2**20
"""Largest file that can be dropped on the page, in bytes."""
_PAGE = Path(__file__).with_name("ui.html")
_DEPTH, _MOST_FILES = 4, 500
# Lines of a run's output that the page shows, and seconds that a run has for its last checkpoint.
_LINES, _LAST_STEP = 12, 60


class RunBody(BaseModel):
    """A run to start.

    Attributes:
        source: Recipe or data in the folder.
        out: Output folder within the folder.
        settings: Recipe keys, such as `mixture.passes=5`.
    """

    model_config = ConfigDict(extra="forbid")
    source: str
    out: str
    settings: list[str] = []


class PromptBody(BaseModel):
    """A prompt for an adapter."""

    model_config = ConfigDict(extra="forbid")
    adapter: str
    prompt: str


class Workspace:
    """A folder, the run that trains in it, and the adapter that answers.

    Args:
        folder: The folder. Nothing outside of it is read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.busy = Lock()
        """Lock of what computes: one request at a time."""
        self._run: subprocess.Popen[bytes] | None = None
        self._out = self.folder
        self._logs = TemporaryDirectory(prefix="telltune-ui-")
        self._said = Path(self._logs.name) / "said"
        self._loaded: tuple[Path, Predictor, Predictor | None] | None = None

    def files(self) -> dict[str, list[str]]:
        """Return the data and recipes, the adapters, and the reports in the folder by name."""
        found: dict[str, list[str]] = {"sources": [], "adapters": [], "reports": []}
        for place, folders, names in os.walk(self.folder):
            here = Path(place)
            depth = len(here.relative_to(self.folder).parts)
            folders[:] = sorted(n for n in folders if not n.startswith(".") and depth < _DEPTH)
            relative = here.relative_to(self.folder)
            if TELL_JSON in names:
                found["adapters"].append(str(relative))
            if REPORT in names:
                found["reports"].append(str(relative / REPORT))
            if TELL_JSON in names or REPORT in names:
                folders.clear()
                continue
            kinds = (*known_suffixes(), ".yaml", ".yml")
            found["sources"] += [
                str(relative / name) for name in sorted(names) if name.lower().endswith(kinds)
            ]
        return {kind: names[:_MOST_FILES] for kind, names in found.items()}

    def inside(self, name: str) -> Path:
        """Return the path of a name in the folder.

        Raises:
            HTTPException: The path leads outside of the folder.
        """
        path = (self.folder / name).resolve()
        if path == self.folder or not path.is_relative_to(self.folder):
            raise HTTPException(403, f"{shown(name)} is not in {self.folder}.")
        return path

    def source(self, name: str) -> Path:
        """Return the path of data or a recipe in the folder.

        Raises:
            HTTPException: There is no such file in the folder.
        """
        path = self.inside(name)
        if not path.is_file():
            raise HTTPException(404, f"{shown(name)} does not exist in {self.folder}.")
        return path

    def start(self, body: RunBody) -> None:
        """Train in a process of its own.

        Raises:
            HTTPException: Another run has not ended, or a name is not in the folder.
        """
        source, out = self.source(body.source), self.inside(body.out)
        with self.busy:
            if self._run is not None and self._run.poll() is None:
                raise HTTPException(409, "a run is going on; stop it, or wait for its end.")
            words = [word for setting in body.settings for word in ("--set", setting)]
            command = [sys.executable, "-m", "telltune", "fit", str(source), "--out", str(out)]
            with self._said.open("wb") as said:
                # In a session of its own, Ctrl-C in the terminal reaches only the server.
                self._run = subprocess.Popen(  # noqa: S603
                    [*command, *words],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._out = out

    def state(self) -> dict[str, Any]:
        """Return how far the run is: its loss by step, its last lines, and its exit status."""
        if self._run is None:
            return {"started": False}
        lines = self._said.read_text(encoding="utf-8", errors="replace").split("\n")
        return {
            "started": True,
            "out": str(self._out.relative_to(self.folder)),
            "ended": self._run.poll(),
            "curve": loss_curve(self._out / LOG),
            "said": "\n".join(line.rpartition("\r")[2] for line in lines[-_LINES:]),
        }

    def stop(self) -> None:
        """Let the run end after its step, with a checkpoint from which it can go on."""
        if self._run is not None and self._run.poll() is None:
            self._run.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End the run, and remove its output."""
        self.stop()
        if self._run is not None:
            with suppress(subprocess.TimeoutExpired):
                self._run.wait(_LAST_STEP)
        self._logs.cleanup()

    def answers(self, body: PromptBody) -> dict[str, str | None]:
        """Return the answers of an adapter and of its base, which is None for a baseline."""
        folder = self.inside(body.adapter)
        if self._loaded is None or self._loaded[0] != folder:
            self._loaded = None  # Only one model is in memory.
            self._loaded = (folder, *_predictors(folder))
        _, adapted, plain = self._loaded
        example = Example(body.prompt, "")
        [said] = adapted.predict([example])
        if plain is None:
            return {"adapter": said, "base": None}
        with adapted.model.disable_adapter():
            [before] = plain.predict([example])
        return {"adapter": said, "base": before}


def _predictors(folder: Path) -> tuple[Predictor, Predictor | None]:
    """Return the predictors of an adapter and of its base, for which the adapter must be off."""
    record = read_tell(folder)
    if is_baseline(record) or is_whole_model(record):
        return load_folder(folder), None
    base = load_base_of(folder, record)
    # The other engines pack the weights with the adapter, which then cannot be turned off.
    evaluation = EvaluationSpec.model_validate(
        record["recipe"]["evaluation"] | {"engine": "transformers"}
    )
    adapted = load_folder(folder, base=base, evaluation=evaluation)
    return adapted, adapted.beside_its_task(base.tokenizer)


def serve_page(work: Workspace, port: socket, token: str) -> None:
    """Serve the page on a socket until a signal; a run that is going on is stopped first."""
    config = uvicorn.Config(make_page(work, token), log_level="warning", access_log=False)
    try:
        uvicorn.Server(config).run([port])
    finally:
        work.close()


def make_page(work: Workspace, token: str) -> FastAPI:
    """Return the application of the page.

    Args:
        work: The folder.
        token: Token that each request carries, as a header or in the address.
    """

    def check_token(request: Request) -> None:
        given = request.headers.get("x-token") or request.query_params.get("token", "")
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(403, "open the address that `tell ui` printed.")

    app = FastAPI(dependencies=[Depends(check_token)], docs_url=None, redoc_url=None)
    app.add_exception_handler(TellError, _mistake)
    app.add_exception_handler(Exception, _unexpected)

    @app.get("/")
    def page() -> Response:
        policy = (
            "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; "
            "style-src 'unsafe-inline'; img-src data:; frame-src 'self'"
        )
        text = _PAGE.read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"content-security-policy": policy})

    @app.get("/files")
    def files() -> dict[str, Any]:
        return work.files() | {"folder": str(work.folder)}

    @app.put("/files/{name}")
    async def save(name: str, request: Request) -> dict[str, str]:
        path = work.inside(name)
        if path.parent != work.folder or not name.lower().endswith(known_suffixes()):
            raise HTTPException(400, f"{shown(name)} is no file of {', '.join(known_suffixes())}.")
        read = bytearray()
        async for part in request.stream():
            read += part
            if len(read) > MOST_DATA:
                raise HTTPException(413, f"{name} is larger than {MOST_DATA:,} bytes.")
        if path.exists() and path.read_bytes() != read:
            raise HTTPException(409, f"{name} exists already; rename one of the two files.")
        with writing(path):
            path.write_bytes(read)
        return {"name": name}

    @app.get("/check")
    def checked(name: str) -> dict[str, str]:
        with work.busy:
            return {"html": check(work.source(name))._repr_html_()}

    @app.get("/plan")
    def planned(name: str) -> dict[str, str]:
        with work.busy:
            return {"html": plan(work.source(name))._repr_html_()}

    @app.get("/run")
    def state() -> dict[str, Any]:
        return work.state()

    @app.post("/run")
    def start(body: RunBody) -> dict[str, Any]:
        work.start(body)
        return work.state()

    @app.delete("/run")
    def stop() -> dict[str, Any]:
        work.stop()
        return work.state()

    @app.post("/answers")
    def answers(body: PromptBody) -> dict[str, str | None]:
        with work.busy:
            return work.answers(body)

    @app.get("/report")
    def report(name: str) -> Response:
        path = work.source(name)
        if path.name != REPORT:
            raise HTTPException(404, f"{shown(name)} is no report.")
        return FileResponse(path)

    return app


async def _mistake(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 400)


async def _unexpected(_: Request, error: Exception) -> Response:
    return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, 500)
