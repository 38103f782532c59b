"""The application on a socket, until a signal: uvicorn, told to be brief, and to end cleanly."""

import logging
import socket
import threading
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from modelzoo.serve.engine import Engine

SHUTDOWN_SECONDS = 30
"""After SIGINT or SIGTERM, for answers under way to be completed."""
MAX_CONNECTIONS = 500
"""Open at a time, idle ones included; beyond, uvicorn answers 503 before the application sees anything."""


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
