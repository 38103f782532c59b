"""Many requests at a time, clients that go away, and failures: what each is told, and that the next is served."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from tests.serve.served import URL, Served, error, events, texts


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def raw(app: Any, body: bytes = b'{"prompt": "z", "max_tokens": 90}', *, stays: bool) -> tuple[list[Any], Any]:
    """(messages sent, coroutine) of a request whose client sends `body` and then stays, or goes away."""
    sent: list[Any] = []
    messages = [{"type": "http.request", "body": body, "more_body": False}] if body else []
    if not stays:
        messages.append({"type": "http.disconnect"})

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        await asyncio.sleep(0.05)
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": URL, "query_string": b"", "root_path": "", "http_version": "1.1",
        "headers": [(b"content-type", b"application/json")], "scheme": "http", "server": ("127.0.0.1", 80),
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip
    return sent, app(scope, receive, send)


@pytest.mark.parametrize("stream", [b"false", b"true"])
@pytest.mark.parametrize("max_rows", [1, 4])
def test_a_client_that_goes_away_frees_its_rows(stream, max_rows):
    with Served(max_rows=max_rows) as served:
        served.decoder.gate.clear()
        body = b'{"prompt": ["z", "z"], "max_tokens": 90, "stream": ' + stream + b"}"
        _, request = raw(served.app, body, stays=False)
        asyncio.run(asyncio.wait_for(request, 10))
        served.decoder.gate.set()
        until(lambda: served.engine.num_active == served.engine.num_waiting == 0)
        assert served.decoder.rows == {}
        assert served.decoder.num_begun == min(2, max_rows)  # what waited was not begun
        assert served.decoder.num_steps <= 2  # the one that was under way, and none to the end
        assert texts(served.post()) == ["the cat"]


def test_a_body_that_does_not_arrive_is_given_up():
    with Served(body_seconds=0.1) as served:
        sent, request = raw(served.app, b"", stays=True)
        asyncio.run(asyncio.wait_for(request, 10))
        assert sent[0]["status"] == 408


def in_background(served: Served, **body: Any) -> Any:
    """A request of its own thread, which has reached the engine when this returns."""
    from concurrent.futures import ThreadPoolExecutor

    before = served.engine.num_active + served.engine.num_waiting
    future = ThreadPoolExecutor(1).submit(lambda: served.post(**body))
    until(lambda: served.engine.num_active + served.engine.num_waiting > before)
    return future


def test_a_full_queue_refuses_and_goes_on():
    with Served(max_queue=3, max_rows=1, max_choices=3) as served:
        served.decoder.gate.clear()
        first = in_background(served, prompt="a")
        second = in_background(served, prompt=["a", "b"])
        response = served.post(["a", "b"])
        assert error(response, 429)["code"] == "queue_full"
        assert response.headers["retry-after"] == "1"
        third = in_background(served, prompt="c", max_tokens=20)  # one still fits
        assert served.decoder.most_rows == 1
        served.decoder.gate.set()
        assert texts(first.result()) == ["the cat"]
        assert texts(second.result()) == ["the cat", "the dog and the cat"]
        assert texts(third.result()) == ["é😀 né"]


def test_too_many_requests_at_a_time():
    with Served(max_requests=2) as served:
        served.decoder.gate.clear()
        waiting = [in_background(served, prompt="a") for _ in range(2)]
        refused = error(served.post("a"), 429)
        assert refused["code"] == "too_many_requests"
        assert refused["type"] == "rate_limit_error"
        assert served.client.get("/health").status_code == 200
        served.decoder.gate.set()
        assert [texts(each.result()) for each in waiting] == [["the cat"]] * 2
        assert texts(served.post("a")) == ["the cat"]


def test_a_failure_of_the_decoder_is_told_and_survived(served):
    served.decoder.gate.clear()
    waiting = [in_background(served, prompt=prompt) for prompt in "abz"]
    served.decoder.fails = True
    served.decoder.gate.set()
    assert [error(each.result(), 500)["type"] for each in waiting] == ["server_error"] * 3
    assert served.decoder.rows == {}
    assert error(served.post(), 500)["type"] == "server_error"
    *_, last = events(served.post(stream=True))
    assert last["error"]["type"] == "server_error"
    served.decoder.fails = False
    assert texts(served.post()) == ["the cat"]


def test_a_failure_of_one_completion_is_its_own(served):
    served.decoder.gate.clear()
    other = in_background(served, prompt="b", max_tokens=30)
    ill = in_background(served, prompt="z")
    served.decoder.ill_prompt = "z"
    served.decoder.gate.set()
    assert error(ill.result(), 500)["type"] == "server_error"
    assert texts(other.result()) == ["the dog and the cat"]
    *_, last = events(served.post("z", stream=True))
    assert last["error"]["type"] == "server_error"
    assert served.decoder.rows == {}


def test_closing_ends_what_is_under_way():
    served = Served()
    with served:
        served.decoder.gate.clear()
        waiting = in_background(served, prompt="z", max_tokens=90)
        served.decoder.gate.set()
        served.engine.close()
        error(waiting.result(), 500)
    assert served.decoder.rows == {}
