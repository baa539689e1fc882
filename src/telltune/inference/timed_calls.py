"""Calls of an asynchronous HTTP client from any thread, each with a limit on its whole time."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable


def timed_client(seconds: float) -> Any:
    """Return an HTTP client with a limit on a whole request; its library limits each read."""
    import openai

    class Client(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, **settings: Any) -> Any:
            try:
                async with asyncio.timeout(seconds):
                    return await super().send(request, **settings)
            except TimeoutError:
                # The error that `openai` retries; its HTTP library depends on its version.
                library = sys.modules[type(request).__module__]
                raise library.ReadTimeout("the time is over", request=request) from None

    return Client()


def result_of(call: Awaitable[Any]) -> Any:
    """Return the result of a call; the calling thread may have an event loop, as in notebooks."""

    async def awaited() -> Any:
        return await call

    return asyncio.run_coroutine_threadsafe(awaited(), event_loop()).result()


def first_cause(error: BaseException) -> str:
    """Return the message of the error from which others came; those of the library say less."""
    told, cause = str(error), error.__cause__
    while cause is not None:
        number = cause.errno if isinstance(cause, ConnectionError) else None
        told = os.strerror(number) if number else str(cause) or told
        cause = cause.__cause__ or cause.__context__
    return told


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process's calls, which runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="telltune-api", daemon=True).start()
    return loop


if hasattr(os, "register_at_fork"):  # A forked process has no copy of the thread.
    os.register_at_fork(after_in_child=event_loop.cache_clear)
