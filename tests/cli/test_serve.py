"""`modelzoo serve` as a process of its own, reached over a socket."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from modelzoo.base_config import UserError
from modelzoo.cli import serve
from modelzoo.cli.main import app
from tests.checkpoints import write_small_checkpoint

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

PROGRAM = [sys.executable, "-c", "from modelzoo.cli.main import main; main()"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_small_checkpoint(tmp_path_factory.mktemp("runs") / "small")


class Server:
    """The process, and its port as soon as it says so."""

    def __init__(self, checkpoint, *options):
        arguments = ["serve", str(checkpoint), "--port", "0", "--device", "cpu", *options]
        self.process = subprocess.Popen([*PROGRAM, *arguments], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        self.log = []
        while not (found := re.search(r"at http://127\.0\.0\.1:(\d+)/v1", self.log[-1] if self.log else "")):
            line = self.process.stderr.readline()
            assert line, self.log
            self.log.append(line)
        self.port = int(found[1])
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr))
        self._reader.start()

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
        return connection.getresponse()

    def complete(self, **body):
        response = self.request("POST", "/v1/completions", body)
        answer = json.load(response)
        assert response.status == 200, answer
        return [choice["text"] for choice in answer["choices"]]

    def health(self):
        return json.load(self.request("GET", "/health"))

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._reader.join()
        assert self.log[-1] == "stopped\n"
        assert "Traceback" not in "".join(self.log)
        return code


@pytest.fixture(scope="module")
def server(checkpoint):
    server = Server(checkpoint, "--max-batch-size", "4", "--max-body-bytes", "100000")
    yield server
    if server.process.poll() is None:
        assert server.stop() == 0


def generated(checkpoint, *options):
    done = CliRunner().invoke(app, ["generate", str(checkpoint), "--device", "cpu", "--json", *map(str, options)])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["text"]


def streamed(response):
    """The text of a stream, and how many chunks it came in."""
    assert response.status == 200
    lines = [line for line in response.read().decode().split("\n\n") if line]
    assert lines.pop() == "data: [DONE]"
    texts = [json.loads(line.removeprefix("data: "))["choices"][0]["text"] for line in lines]
    return "".join(texts), len(texts)


def test_its_text_is_that_of_generate(server, checkpoint):
    greedy = generated(checkpoint, "--prompt", "the cat", "--temperature", 0, "--max-new-tokens", 40)
    asked = {"prompt": "the cat", "temperature": 0, "max_tokens": 40}
    assert server.complete(**asked) == [greedy]
    text, num_chunks = streamed(server.request("POST", "/v1/completions", asked | {"stream": True}))
    assert text == greedy
    assert num_chunks > 5
    drawn = {"temperature": 0.8, "top_p": 0.95, "seed": 3}
    assert server.complete(prompt="a dog", max_tokens=30, **drawn) == [
        generated(checkpoint, "--prompt", "a dog", "--seed", 3, "--max-new-tokens", 30)
    ]


def test_requests_at_the_same_time_get_what_they_get_alone(server):
    asked = [
        {"prompt": "the cat and " * (i % 3 + 1), "seed": i, "max_tokens": 10 + 2 * i, "temperature": [0, 0.7, 1][i % 3]}
        for i in range(12)
    ]
    alone = [server.complete(**body) for body in asked]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda body: server.complete(**body), asked))
    assert together == alone
    assert len({text for (text,) in alone}) == 12


def test_a_client_that_goes_away_frees_its_rows(server):
    for stream in (False, True):
        body = json.dumps({"prompt": "the", "max_tokens": 60, "n": 32, "stream": stream})
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())
            deadline = time.monotonic() + 10
            while not server.health()["waiting"]:
                assert time.monotonic() < deadline
        left = time.monotonic()
        while server.health()["active"] or server.health()["waiting"]:
            assert time.monotonic() - left < 1  # the work would take several seconds
    assert server.complete(prompt="the cat", max_tokens=3, seed=1)


def test_a_body_without_length_is_cut_off(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        sent = 0
        try:
            while sent < 50_000_000:
                client.sendall(b"2710\r\n" + b" " * 10_000 + b"\r\n")
                sent += 10_000
                time.sleep(0.002)
        except OSError:  # the server has closed the connection
            pass
        assert sent < 10_000_000
    assert server.health()["status"] == "ok"


def test_another_name_is_refused(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/v1/models", headers={"host": f"evil.example:{server.port}"})
    assert connection.getresponse().status == 421


def test_a_port_in_use_is_an_error_of_one_line(server, checkpoint):
    arguments = ["serve", str(checkpoint), "--port", str(server.port)]
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --host 127.0.0.1 --port {server.port}: address already in use; "
        "choose another with --port, or 0 for any free one\n"
    )


def test_a_signal_lets_answers_end(server):
    response = server.request("POST", "/v1/completions", {"prompt": "the", "max_tokens": 60, "n": 8, "seed": 0})
    expected = None if response.status != 200 else [c["text"] for c in json.load(response)["choices"]]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(server.complete, prompt="the", max_tokens=60, n=8, seed=0)
        while not server.health()["active"]:
            pass
        assert server.stop() == 0
        assert future.result() == expected


def test_options_that_cannot_be_honoured(checkpoint, monkeypatch):
    def refused(*options):
        return str(CliRunner().invoke(app, ["serve", str(checkpoint), "--port", "0", *options]).exception)

    assert "max_seq_len is 64" in refused("--max-len", "65")
    assert "never fits --max-queue 5" in refused("--max-queue", "5", "--max-choices", "6")
    assert "expected one of fp32, bf16, int8" in refused("--precision", "fp8")
    assert "--host no.such.host.invalid" in refused("--host", "no.such.host.invalid")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused() == "modelzoo serve needs starlette and uvicorn: pip install 'modelzoo[serve]'"


def test_an_address_that_others_reach_is_said_loudly(capsys):
    for host, is_loud in (("127.0.0.1", False), ("0.0.0.0", True)):
        listener = serve.bind(host, 0)
        serve.announce(listener, "a model")
        listener.close()
        assert ("WARNING: listening on 0.0.0.0" in capsys.readouterr().err) == is_loud
    with pytest.raises(UserError, match="choose another"):
        serve.bind("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "names"),
    [
        ("127.0.0.1", {"localhost", "127.0.0.1", "[::1]"}),
        ("127.0.0.2", {"localhost", "127.0.0.1", "[::1]", "127.0.0.2"}),
        ("LocalHost", {"localhost", "127.0.0.1", "[::1]"}),
        ("0.0.0.0", None),
    ],
)
def test_names_of_a_server_of_this_machine(host, names):
    with serve.bind(host, 0) as listener:
        assert serve.own_names(listener, host) == names


@pytest.mark.long
def test_a_second_signal_ends_answers_at_once(checkpoint):
    server = Server(checkpoint, "--max-batch-size", "1")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(server.request, "POST", "/v1/completions", {"prompt": "the", "max_tokens": 60, "n": 32})
        while not server.health()["waiting"]:
            pass
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None
        assert server.stop(signal.SIGINT) == 0
        assert future.result().status == 500
