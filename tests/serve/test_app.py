"""Over HTTP: what of requests, bodies, hosts and paths is refused, with its status and in the shape of OpenAI."""

import json
from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from modelzoo.serve.protocol import CompletionRequest
from tests.serve.served import URL, Served, error, texts


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
