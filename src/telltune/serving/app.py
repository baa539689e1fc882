"""The web application: OpenAI's endpoints for chat, and those for health and metrics."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from telltune.errors import DataError, shown
from telltune.serving.cascades import ServedCascade
from telltune.serving.metrics import Metrics
from telltune.serving.models import TooLongError
from telltune.serving.requests import ChatBody, messages_example
from telltune.serving.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from telltune.serving.lanes import Job
    from telltune.serving.models import ServedModel
    from telltune.serving.writing import Writing

MOST_BODY = 2**20
"""Longest body of a request in bytes."""


class Service:
    """Models behind an event loop: it submits jobs, and counts.

    Attributes:
        models: Served models by name.
        open: Number of requests for an answer that have not been answered completely.
        draining: Whether new requests are refused, because the server ends.

    Args:
        models: Served models.
    """

    def __init__(self, models: Sequence[ServedModel | ServedCascade]) -> None:
        self.models = {model.name: model for model in models}
        self.open = 0
        self.draining = False
        self._scheduler = Scheduler([model.lane for model in models], self._tell)
        self._metrics = Metrics(models)
        for model in models:
            if isinstance(model, ServedCascade):
                model.lane.wake = self._scheduler.wake
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Run the thread that computes answers."""
        self._loop = asyncio.get_running_loop()
        self._scheduler.start()
        try:
            yield
        finally:
            self._scheduler.stop()

    def stop(self, timeout: float) -> None:
        """End the thread that computes answers, whatever is open; see `Scheduler.stop`."""
        self._scheduler.stop(timeout)

    def find(self, name: str) -> ServedModel | ServedCascade:
        """Return a served model.

        Raises:
            HTTPException: No folder of this name is served, or the server ends.
        """
        if self.draining:
            raise _Refused(503, "the server is shutting down and takes no new requests.")
        if name not in self.models:
            known = ", ".join(self.models)
            told = f"model `{shown(name)}` is not served here; models: {known}."
            raise _Refused(404, told, "model_not_found")
        return self.models[name]

    async def pieces(
        self, model: ServedModel | ServedCascade, job: Job, writing: Writing | None, *, whole: bool
    ) -> AsyncIterator[tuple[str, str | None]]:
        """Submit a job, and yield its answer in pieces of text.

        The job is dropped if the iterator is closed before its end.

        Args:
            model: Model to answer.
            job: Job from `model.job`.
            writing: Text of its answer, from `model.writing`.
            whole: Whether to yield the answer in one piece.

        Yields:
            Texts, and with the last of them the reason why the answer ended.

        Raises:
            HTTPException: The answer could not be computed.
        """
        self.open += 1
        self._metrics.count("requests", model.name)
        outcome, began = "requests_cancelled", time.perf_counter()
        try:
            self._scheduler.submit(model.lane, job)
            end = None
            while end is None:
                await job.changed.wait()
                job.changed.clear()
                if job.error:
                    outcome = "requests_failed"
                    raise _Refused(500, f"the answer could not be computed: {job.error}.")
                if job.row is None or writing is None:
                    yield job.label or "", "stop"
                    break
                # The end is read first, because the other thread may add tokens meanwhile.
                end = job.row.end
                if whole and end is None:
                    continue
                piece = writing.piece(list(job.row.answer), ended=end is not None)
                if writing.stopped:
                    end = "stop"
                if piece or end is not None:
                    yield piece, end
            outcome = "requests_finished"
            self._metrics.time(time.perf_counter() - began, model.name, job.level)
        finally:
            job.dropped = True
            self.open -= 1
            self._metrics.count(outcome, model.name)
            usage = _usage(job, writing)
            for name in ("prompt_tokens", "completion_tokens"):
                self._metrics.count(name, model.name, usage[name])

    def metrics(self) -> str:
        """Return all metrics in the text format of Prometheus."""
        return self._metrics.text(self._scheduler.largest)

    def _tell(self, jobs: list[Job]) -> None:
        # A second signal closes the loop during a step.
        with suppress(RuntimeError):
            if jobs and self._loop is not None:
                self._loop.call_soon_threadsafe(_wake, jobs)


def make_app(service: Service, key: str | None = None) -> FastAPI:
    """Return the application.

    Args:
        service: The models.
        key: Key that requests must carry, except those to `/health`; None for no key.
    """
    app = FastAPI(title="telltune", lifespan=service.running, docs_url=None, redoc_url=None)
    app.add_middleware(_BodyLimit)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)

    def check_key(request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        if key is not None and not hmac.compare_digest(given, f"Bearer {key}".encode()):
            told = "the key is missing or wrong; send the server's TELLTUNE_API_KEY."
            raise _Refused(401, told, "invalid_api_key")

    guarded = [Depends(check_key)]

    @app.get("/health")
    async def health() -> Response:
        status = "shutting down" if service.draining else "ok"
        return JSONResponse({"status": status}, 503 if service.draining else 200)

    @app.get("/metrics", dependencies=guarded)
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", dependencies=guarded)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_described(one) for one in service.models.values()]}

    @app.get("/v1/models/{name}", dependencies=guarded)
    async def model(name: str) -> dict[str, Any]:
        return _described(service.find(name))

    @app.post("/v1/chat/completions", dependencies=guarded)
    async def chat(body: ChatBody, request: Request) -> Response:
        model = service.find(body.model)
        try:
            job = model.job(messages_example(body.messages), body.sampling)
        except DataError as error:
            code = "context_length_exceeded" if isinstance(error, TooLongError) else None
            raise _Refused(400, str(error), code) from None
        writing = model.writing(body.stops)
        # A text that ends the answer is looked for after each token.
        whole = not body.stream and not body.stops
        pieces = service.pieces(model, job, writing, whole=whole)
        reply = _Reply(model.name, job, writing)
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            events = reply.events(pieces, usage=usage)
            return StreamingResponse(events, media_type="text/event-stream")
        answer = asyncio.ensure_future(_gathered(pieces))
        gone = asyncio.ensure_future(_hung_up(request))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                return Response(status_code=499)  # nobody reads it
            return JSONResponse(reply.whole(*answer.result()))
        finally:
            for task in (answer, gone):
                task.cancel()

    return app


class _Reply:
    """Answer to a chat request, in OpenAI's form."""

    def __init__(self, model: str, job: Job, writing: Writing | None) -> None:
        self._job, self._writing = job, writing
        self._head = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, text: str, end: str | None) -> dict[str, Any]:
        """Return the body of an answer in one piece."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": end}
        head = self._head | {"object": "chat.completion"}
        usage = _usage(self._job, self._writing)
        return head | {"choices": [choice], "usage": usage, **self._job.more}

    async def events(
        self, pieces: AsyncIterator[tuple[str, str | None]], *, usage: bool
    ) -> AsyncIterator[str]:
        """Yield the events of a streamed answer.

        Args:
            pieces: Texts, and with the last one the reason of the end.
            usage: Whether a last chunk has the numbers of tokens.
        """
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            async for text, end in pieces:
                if text:
                    yield self._chunk({"content": text})
                if end is not None:
                    yield self._chunk({}, end, **self._job.more)
        except HTTPException as error:
            yield _event(_error(error))
            return
        if usage:
            yield _event(self._part([]) | {"usage": _usage(self._job, self._writing)})
        yield "data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, str], end: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}
        return _event(self._part([choice]) | more)

    def _part(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head | {"object": "chat.completion.chunk", "choices": choices}


class _Refused(HTTPException):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: The reason, and what to do.
        code: OpenAI's code of the error, if it has one.
    """

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(status, message)
        self.code = code


class _BodyLimit:
    """Middleware that refuses bodies longer than `MOST_BODY` instead of reading them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = int(dict(scope.get("headers", ())).get(b"content-length", 0))
        read = 0

        async def limited() -> Message:
            nonlocal read
            # FastAPI passes on only HTTP exceptions from here.
            _check_length(declared)
            message = await receive()
            read += len(message.get("body", b""))
            _check_length(read)
            return message

        await self._app(scope, limited, send)


def _check_length(length: int) -> None:
    if length > MOST_BODY:
        raise _Refused(
            413, f"the body is longer than {MOST_BODY:,} bytes; shorten it.", "request_too_large"
        )


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse(_error(error), error.status_code, error.headers)


async def _invalid(_: Request, error: Exception) -> Response:
    """Answer a body that is no JSON, or whose keys or values are wrong."""
    assert isinstance(error, RequestValidationError)
    mistake = error.errors()[0]
    if mistake["type"] == "json_invalid":
        told = f"the body is no JSON: {mistake['ctx']['error']} at character {mistake['loc'][1]}."
        return JSONResponse(_error(_Refused(400, told)), 400)
    place = ".".join(str(part) for part in mistake["loc"][1:] if str(part).isidentifier())
    message = mistake["msg"].removeprefix("Value error, ")
    told = f"{place}: {message}." if place else f"{message}."
    return JSONResponse(_error(_Refused(400, told)), 400)


async def _unexpected(_: Request, error: Exception) -> Response:
    return JSONResponse(_error(_Refused(500, f"{type(error).__name__}: {error}")), 500)


def _error(error: StarletteHTTPException) -> dict[str, Any]:
    """Return the body of an error in OpenAI's form."""
    kind = "server_error" if error.status_code >= 500 else "invalid_request_error"
    code = getattr(error, "code", None)
    return {"error": {"message": error.detail, "type": kind, "param": None, "code": code}}


def _described(model: ServedModel | ServedCascade) -> dict[str, Any]:
    head = {"id": model.name, "object": "model", "created": model.loaded}
    return head | {"owned_by": "telltune"}


def _usage(job: Job, writing: Writing | None) -> dict[str, int]:
    """Return the numbers of tokens; a chosen label counts none."""
    prompt = 0 if job.row is None else len(job.row.prompt)
    written = 0 if writing is None else writing.tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    }


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _gathered(pieces: AsyncIterator[tuple[str, str | None]]) -> tuple[str, str | None]:
    texts, end = [], None
    async for text, end in pieces:  # noqa: B007 - the last one counts
        texts.append(text)
    return "".join(texts), end


async def _hung_up(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _wake(jobs: list[Job]) -> None:
    for job in jobs:
        job.changed.set()
