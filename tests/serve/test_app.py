"""The server in this process, over a decoder that says what the test wants, when the test wants it."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from starlette.testclient import TestClient

from modelzoo.batching import Batcher
from modelzoo.model.sampling import Sampling
from modelzoo.serve.app import build_app
from modelzoo.serve.engine import Engine
from modelzoo.serve.limits import Limits
from modelzoo.serve.protocol import CompletionRequest
from tests.decoders import ScriptedDecoder
from tests.samples import small_tokenizer

TOKENIZER = small_tokenizer()
ANSWERS = {"a": "the cat", "b": "the dog and the cat", "c": "é😀 né", "<|endoftext|>": "begun"}
URL = "/v1/completions"


class Served:
    """An app with what a test may look at and turn."""

    def __init__(self, max_queue: int = 8, max_rows: int = 4, hosts: Any = None, **limits: Any) -> None:
        self.decoder = ScriptedDecoder(TOKENIZER, ANSWERS, max_rows=max_rows)
        self.engine = Engine(Batcher(self.decoder, TOKENIZER), max_queue)  # type: ignore[arg-type]
        self.app = build_app(self.engine, "small", Limits(**limits), hosts)
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def post(self, prompt: Any = "a", **body: Any) -> Any:
        return self.client.post(URL, json={"prompt": prompt, **body})

    def __enter__(self) -> "Served":
        self.client.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.decoder.gate.set()
        self.client.__exit__(*error)


@pytest.fixture
def served() -> Iterator[Served]:
    with Served() as served:
        yield served


def texts(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [choice["text"] for choice in response.json()["choices"]]


def events(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, end, nothing = response.text.split("\n\n")
    assert (end, nothing) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def error(response: Any, status: int) -> dict[str, Any]:
    """The error of an answer, in OpenAI's shape."""
    assert response.status_code == status, response.text
    (name,) = response.json()
    assert name == "error"
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.json()["error"]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_completion(served):
    answer = served.post(max_tokens=20).json()
    assert answer["object"] == "text_completion"
    assert answer["model"] == "small"
    assert answer["choices"] == [{"index": 0, "text": "the cat", "logprobs": None, "finish_reason": "stop"}]
    made = len(TOKENIZER.encode("the cat")) + 1
    assert answer["usage"] == {"prompt_tokens": 1, "completion_tokens": made, "total_tokens": 1 + made}


def test_max_tokens_is_16_unless_told(served):
    answer = served.post("z").json()
    assert answer["choices"][0]["text"] == "x" * 16
    assert answer["choices"][0]["finish_reason"] == "length"
    assert texts(served.post("z", max_tokens=None)) == ["x" * 99]  # what the context of 100 holds


@pytest.mark.parametrize("prompt", [["a", "c", "b"], [TOKENIZER.encode(text) for text in "acb"]])
def test_several_prompts_and_n_keep_their_order(served, prompt):
    assert texts(served.post(prompt, n=2, max_tokens=30)) == [ANSWERS[key] for key in "aaccbb"]


def test_a_prompt_of_token_ids_and_an_empty_one(served):
    assert texts(served.post(TOKENIZER.encode("a"))) == ["the cat"]
    assert texts(served.post("")) == ["begun"]


@pytest.mark.parametrize("stop", [" and", [" and", "nowhere"], "dog"])
@pytest.mark.parametrize("stream", [False, True])
def test_stop(served, stop, stream):
    response = served.post("b", stop=stop, stream=stream, max_tokens=30)
    chunks = events(response) if stream else [response.json()]
    expected = "the " if stop == "dog" else "the dog"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stream_says_what_the_whole_says(served):
    asked = {"n": 2, "logprobs": 1, "max_tokens": 30, "stop": ["t and t"]}
    whole = served.post(["b", "c"], **asked).json()["choices"]
    chunks = events(served.post(["b", "c"], stream=True, **asked))
    assert len({chunk["id"] for chunk in chunks}) == 1
    for choice in whole:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == choice["text"]
        for column, values in choice["logprobs"].items():
            assert [value for c in mine for value in c["logprobs"][column]] == values
        assert [c["finish_reason"] for c in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
    assert whole[0]["text"] == "the dog and the cat"


def test_the_usage_of_a_stream_comes_if_asked_for(served):
    *_, last = events(served.post(["a", "b"], n=2, stream=True, stream_options={"include_usage": True}))
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 2
    assert all("usage" not in chunk for chunk in events(served.post(stream=True)))


def test_logprobs(served):
    logprobs = served.post("b", logprobs=2, stop=" and", max_tokens=30).json()["choices"][0]["logprobs"]
    ids = TOKENIZER.encode("the dog")
    assert logprobs["tokens"] == [TOKENIZER.decode([i]) for i in ids]
    assert logprobs["token_logprobs"] == [-float(i) for i in ids]
    assert logprobs["text_offset"] == [len(TOKENIZER.decode(ids[:n])) for n in range(len(ids))]
    assert logprobs["top_logprobs"] == [{TOKENIZER.decode([i]): -float(i), TOKENIZER.decode([5]): -50.0} for i in ids]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["a", TOKENIZER.encode("a")])
def test_echo(served, stream, prompt):
    response = served.post(prompt, echo=True, stream=stream)
    chunks = events(response) if stream else [response.json()]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "athe cat"


def test_options_reach_the_choice(served):
    texts(served.post(["a", "b"], n=2, seed=2**63 - 1, temperature=0.5, top_p=0.9, top_k=7, min_p=0.1))
    drawn = [Sampling(0.5, top_k=7, top_p=0.9, min_p=0.1, seed=seed) for seed in (2**63 - 1, 0)]
    assert sorted(served.decoder.samplings, key=repr) == sorted(2 * drawn, key=repr)
    texts(served.post(temperature=0, top_p=0.9, top_k=7, min_p=0.1, repetition_penalty=2, seed=3))
    assert served.decoder.samplings[-1] == Sampling(repetition_penalty=2, seed=3)
    texts(served.post())
    texts(served.post())
    first, second = served.decoder.samplings[-2:]
    assert first.seed != second.seed
    assert (first.temperature, first.top_p, first.repetition_penalty) == (1, 1, 1)


def test_echo_of_several(served):
    expected = ["athe cat"] * 2 + ["bthe dog and the cat"] * 2
    asked = {"prompt": ["a", "b"], "n": 2, "echo": True, "max_tokens": 30}
    assert texts(served.post(**asked)) == expected
    choices = [choice for chunk in events(served.post(stream=True, **asked)) for choice in chunk["choices"]]
    assert ["".join(c["text"] for c in choices if c["index"] == index) for index in range(4)] == expected


def test_what_asks_for_nothing_is_accepted(served):
    neutral = {"best_of": 1, "frequency_penalty": 0.0, "logit_bias": {}, "presence_penalty": 0, "suffix": None}
    assert texts(served.post(model="small", user=None, n=None, stop=None, temperature=0, top_p=1, **neutral)) == [
        "the cat"
    ]
    assert texts(served.post(user="me")) == ["the cat"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"best_of": 3}, 400, "best_of"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias"),
        ({"suffix": "x"}, 400, "suffix"),
        ({"user": 3}, 400, "user"),
        ({"best_of": True}, 400, "best_of"),
        ({"frequency_penalty": False}, 400, "frequency_penalty"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty"),
        ({"messages": []}, 400, "messages"),
        ({"temperatur": 0}, 400, "temperatur"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": [[]]}, 400, "prompt"),
        ({"prompt": ["a", 3]}, 400, "prompt"),
        ({"prompt": [True]}, 400, "prompt"),
        ({"prompt": None}, 400, "prompt"),
        ({"prompt": [275]}, 400, "prompt"),
        ({"prompt": [-1]}, 400, "prompt"),
        ({"prompt": "a" * 100}, 400, "prompt"),
        ({"max_tokens": 100}, 400, "max_tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": "5"}, 400, "max_tokens"),
        ({"max_tokens": 2**70}, 400, "max_tokens"),
        ({"n": 0}, 400, "n"),
        ({"n": 9}, 400, "n"),
        ({"prompt": ["a"] * 9}, 400, "prompt"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": 1e-9}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"top_k": 0}, 400, "top_k"),
        ({"min_p": 2}, 400, "min_p"),
        ({"repetition_penalty": 0}, 400, "repetition_penalty"),
        ({"repetition_penalty": 1e-300}, 400, "repetition_penalty"),
        ({"repetition_penalty": 101}, 400, "repetition_penalty"),
        ({"temperature": 101}, 400, "temperature"),
        ({"seed": -1}, 400, "seed"),
        ({"seed": 2**63}, 400, "seed"),
        ({"stop": ""}, 400, "stop"),
        ({"stop": ["a"] * 17}, 400, "stop"),
        ({"stop": ["a" * 1001]}, 400, "stop"),
        ({"logprobs": 21}, 400, "logprobs"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"logprobs": 1, "echo": True}, 400, "echo"),
        ({"stream": "yes"}, 400, "stream"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, 400, "stream_options"),
        ({"model": "gpt-4"}, 404, "model"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused(body, status, param):
    with Served(max_choices=8) as served:
        refused = error(served.client.post(URL, json={"prompt": "a"} | body), status)
        assert refused["param"] == param
        assert refused["type"] == "invalid_request_error"
        assert (refused["code"] == "unsupported_parameter") == (param not in CompletionRequest.model_fields)
        assert served.engine.num_active == served.engine.num_waiting == 0


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b"", {}, 400),
        (b'{"prompt": "\\ud800"}', {}, 400),
        (b'{"prompt": "a", "temperature": NaN}', {}, 400),
        (b'{"prompt": "\xff"}', {}, 400),
        (b"[" * 100_000, {}, 400),
        (b'{"prompt": "a"}', {"content-type": "text/plain"}, 415),
        (b'{"prompt": "a"}', {"content-encoding": "gzip"}, 415),
        (b" " * (2**20 + 1), {}, 413),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bodies_that_are_refused(served, content, headers, status):
    headers = {"content-type": "application/json"} | headers
    error(served.client.post(URL, content=content, headers=headers), status)


def test_a_body_is_measured_while_it_is_read():
    with Served(max_body_bytes=1000) as served:
        sent = 0

        def chunks() -> Iterator[bytes]:  # no content-length
            nonlocal sent
            for _ in range(100):
                sent += 500
                yield b" " * 500

        response = served.client.post(URL, content=chunks(), headers={"content-type": "application/json"})
        error(response, 413)
        assert response.headers["connection"] == "close"
        body = json.dumps({"prompt": "a"}).ljust(1000)
        assert texts(served.client.post(URL, content=body, headers={"content-type": "application/json"}))
        error(served.client.post(URL, content=body + " ", headers={"content-type": "application/json"}), 413)


def test_other_paths_and_methods(served):
    assert "POST /v1/completions" in error(served.client.get("/nope"), 404)["message"]
    error(served.client.get("/../../etc/passwd"), 404)
    error(served.client.get(URL), 405)
    error(served.client.get("/v1/models/other"), 404)
    assert served.client.get("/v1/models").json()["data"][0]["id"] == "small"
    assert served.client.get("/v1/models/small").json()["max_model_len"] == 100


def test_a_405_says_what_is_allowed(served):
    assert served.client.get(URL).headers["allow"] == "POST"
    assert "GET" in served.client.post("/health").headers["allow"]


def test_other_names_of_a_server_of_this_machine_are_refused():
    hosts = {"localhost", "127.0.0.1", "[::1]"}
    with Served(hosts=hosts) as served:
        for host in ("localhost", "LocalHost:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "127.0.0.1:"):
            assert served.client.get("/health", headers={"host": host}).status_code == 200
        refused = (
            "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1:80:x",
            "evil@localhost", "[::2]", "::1", "", ":80", "localhost:x", "localhost/", "evil.example:80\n127.0.0.1",
        )  # fmt: skip
        for host in refused:
            for method, path in (("GET", "/v1/models"), ("POST", URL), ("GET", "/nope")):
                answer = served.client.request(method, path, headers={"host": host}, json={"prompt": "a"})
                assert error(answer, 421)["code"] == "unknown_host"
        assert served.decoder.num_begun == 0
    with Served() as served:
        assert served.client.get("/health", headers={"host": "model.example"}).status_code == 200


def test_the_state_and_the_end_of_the_engine(served):
    assert served.client.get("/health").json() == {"status": "ok", "active": 0, "waiting": 0}
    served.engine.close()
    assert served.client.get("/health").status_code == 503
    assert error(served.post(), 503)["type"] == "server_error"


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
