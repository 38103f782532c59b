"""The server in this process, over a decoder that says what the test wants, when the test wants it; and its answers."""

import json
from typing import Any

from starlette.testclient import TestClient

from modelzoo.batching import Batcher
from modelzoo.serve.app import build_app
from modelzoo.serve.engine import Engine
from modelzoo.serve.limits import Limits
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
