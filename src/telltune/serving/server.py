"""The server process: its port, and its end after a signal."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

import uvicorn

from telltune.errors import RecipeError
from telltune.serving.app import Service, make_app

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from telltune.serving.cascades import ServedCascade
    from telltune.serving.models import ServedModel

GRACE = 5
"""Seconds after the last answer in which a client can send or read the rest of what it began."""
# Seconds that a step may take after a second signal, before the process ends during it.
_LAST_STEP = 5.0


def open_port(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: Address or name of this machine.
        port: Port; 0 for any free one.

    Raises:
        RecipeError: The port is in use, or the address is not of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (")[0]
        raise RecipeError(
            f"port {port} of {host} cannot be opened: {reason}; choose another --port or --host."
        ) from None


class Server(uvicorn.Server):
    """Web server that finishes what it began when it gets SIGINT or SIGTERM.

    After the first signal, new requests are refused, and connections that are still open some
    seconds after the last answer are closed. A second signal ends the server at once.

    Args:
        models: Models to serve.
        key: Key that requests must carry; None for no key.
    """

    def __init__(
        self, models: Sequence[ServedModel | ServedCascade], key: str | None = None
    ) -> None:
        self.service = Service(models)
        self.forced_by: int | None = None
        """Number of the second signal."""
        app = make_app(self.service, key)
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                ws="none",
                timeout_graceful_shutdown=GRACE,
            )
        )

    def run_on(self, port: socket.socket) -> None:
        """Serve on a socket until a signal.

        Raises:
            SystemExit: A second signal ended the server; the status is 128 and its number.
        """
        self.run([port])
        if self.forced_by is not None:
            self.service.stop(_LAST_STEP)
            raise SystemExit(128 + self.forced_by)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Refuse new requests; the second time, end at once."""
        if self.service.draining:
            self.forced_by = sig
            self.force_exit = True
            return
        self.service.draining = True
        if self.service.open:
            said = f"Finishing {self.service.open} requests; interrupt again to stop at once.\n"
            # A signal may interrupt a call of `print`, which must not be nested.
            os.write(2, said.encode())

    async def on_tick(self, counter: int) -> bool:
        """Return whether the server ends; called ten times per second."""
        if self.service.draining and (self.force_exit or not self.service.open):
            # Otherwise uvicorn prints the stack of what it cancels.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            self.should_exit = True
        return await super().on_tick(counter)
