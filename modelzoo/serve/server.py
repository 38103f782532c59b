"""The application on a socket, until a signal: uvicorn, told to be brief, and to end cleanly."""

import asyncio
import logging
import socket
import threading
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from modelzoo.serve.engine import Engine

SHUTDOWN_SECONDS = 30
"""After SIGINT or SIGTERM, for answers under way to be completed."""
MAX_CONNECTIONS = 500
"""Open at a time, idle ones included; beyond, uvicorn answers 503 before the application sees anything."""

HEADER_SECONDS = 30.0
"""For a connection to deliver the header of its next request, counted from its beginning, or the first byte after an
answer (silence after one is uvicorn's to end)."""


class Protocol(H11Protocol):
    """HTTP/1.1, for clients with HEADER_SECONDS to ask for something: uvicorn itself would wait for ever for the
    rest of a header, however many connections hold one back."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """Let the time run while no request is under way; bytes of an incomplete header do not set it back."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """Stops at a signal. Answers under way then have SHUTDOWN_SECONDS, or until the next signal; what is left
    fails, and is told so."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        timer = threading.Timer(0 if self.should_exit else SHUTDOWN_SECONDS, self._engine.stop)
        timer.daemon = True
        timer.start()
        self.should_exit = True


def run(app: Starlette, engine: Engine, listener: socket.socket) -> None:
    """Serve on a socket that listens, until SIGINT or SIGTERM."""
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("modelzoo").setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        http=Protocol,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS + 10,  # for a client that reads nothing
    )
    Server(config, engine).run(sockets=[listener])
