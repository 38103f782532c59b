"""The application on a socket: what happens to connections before a request has arrived."""

import asyncio
import http.client
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

import uvicorn

from modelzoo.serve import server

SECONDS = 0.4


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers once the body is there, or after longer than a header may take."""
    if scope["path"] == "/slow":
        await asyncio.sleep(2 * SECONDS)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(server, "HEADER_SECONDS", SECONDS)
    config = uvicorn.Config(app, http=server.Protocol, lifespan="off", log_config=None, limit_concurrency=9)
    served = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: served.run(sockets=[listener]))
    thread.start()
    yield listener.getsockname()[1]
    served.should_exit = True
    thread.join()


def test_a_second_signal_ends_answers_at_once() -> None:
    stopped = threading.Event()
    engine = SimpleNamespace(stop=stopped.set)
    served = server.Server(uvicorn.Config(app, log_config=None), engine)  # type: ignore[arg-type]
    served.handle_exit(signal.SIGINT, None)
    assert served.should_exit
    assert not stopped.wait(0.2)
    served.handle_exit(signal.SIGINT, None)
    assert stopped.wait(5)


def get(port: int, path: str = "/") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    return connection.getresponse().status


def test_connections_without_a_whole_header_are_closed(port: int) -> None:
    begun = time.monotonic()
    held = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(10)]
    for number, client in enumerate(held[1:]):
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n"[: number * 4])
    assert get(port) == 503  # they shut everybody out
    while time.monotonic() - begun < SECONDS / 2:  # one that sends on is not spared for it
        held[-1].sendall(b"x: y\r\n")
        time.sleep(0.02)
    assert [client.recv(1) for client in held] == [b""] * 10
    assert SECONDS * 0.9 < time.monotonic() - begun < SECONDS + 2
    assert get(port) == 200


def test_requests_may_take_their_time_and_the_next_header_may_not(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(0.1)
        begun = time.monotonic()
        answer = b""
        while not answer.endswith(b"ok"):
            answer += (part := client.recv(1000))
            assert part
        assert answer.startswith(b"HTTP/1.1 200")
        assert time.monotonic() - begun > SECONDS
        client.sendall(b"GET / HT")  # within what keeps the connection alive
        assert client.recv(1) == b""
        assert time.monotonic() - begun < 3 * SECONDS + 1
