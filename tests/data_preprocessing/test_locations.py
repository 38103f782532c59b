import functools
import gzip
import http.server
import sys
import threading

import fsspec
import pytest

from modelzoo.base_config import UserError
from tests.data_preprocessing.reading import read_files, reader, summary


@pytest.fixture
def memory():
    """A file system in memory, with three files of one line."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    for name in ("/data/b.txt", "/data/a.txt", "/data/sub/c.txt"):
        system.pipe(name, f"{name}\n".encode())
    yield system
    system.store.clear()


def test_urls(memory, tmp_path):
    def files(*paths):
        return reader(kind="text", paths=list(paths)).files(tmp_path)

    assert files("memory://data/b.txt") == ["memory://data/b.txt"]
    assert files("memory://data/*.txt") == ["memory://data/a.txt", "memory://data/b.txt"]
    assert files("memory://data/**/*.txt")[-1] == "memory://data/sub/c.txt"
    assert files("memory://data/b.txt", "memory://data/*.txt") == ["memory://data/b.txt", "memory://data/a.txt"]
    chosen = reader(kind="text", paths="memory://data/b.txt")
    assert chosen.size(tmp_path, "memory://data/b.txt") == len("/data/b.txt\n")
    assert summary(read_files(tmp_path, kind="text", separator="\n", paths="memory://data/?.txt")) == [
        ("memory://data/a.txt:1", "/data/a.txt"),
        ("memory://data/b.txt:1", "/data/b.txt"),
    ]


def test_file_urls(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one"))
    (tmp_path / "b.txt").write_text("two")
    url = tmp_path.as_uri()
    items = read_files(tmp_path, kind="text", paths=[f"{url}/*.gz", f"{url}/b.txt"])
    assert summary(items) == [(f"{url}/a.txt.gz", "one"), (f"{url}/b.txt", "two")]


def test_http(tmp_path):
    pytest.importorskip("aiohttp", reason="fsspec's http needs the package aiohttp")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}'))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.jsonl.gz"
        try:
            for name in (url, url + "?download=1"):
                assert summary(read_files(tmp_path, kind="jsonl", paths=name)) == [(f"{name}:1", "one")]
            with pytest.raises(UserError, match=r"nothing\.jsonl: no such file"):
                reader(kind="jsonl", paths=url.replace("a.jsonl.gz", "nothing.jsonl")).files(tmp_path)
        finally:
            server.shutdown()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://data/no.txt", "memory://data/no.txt: no such file"),
        ("memory://data/*.no", r"memory://data/\*\.no: matches no file"),
        ("memory://data", r"memory://data is a directory; expected files: name them \(memory://data/\*\)"),
        ("nosuch://data/a.txt", "nosuch://data/a.txt: .*nosuch"),
        ("memory://data/a.zip", r"\.zip files are not read; unpack it first with unzip"),
        ("https://me:hidden@host/a.txt", r"https://host/a\.txt: the URL holds a password"),
        ("https://host/a.txt?X-Amz-Signature=hidden&b=1", r"https://host/a\.txt: the URL holds X-Amz-Signature=…"),
    ],
)
def test_urls_that_are_wrong(memory, tmp_path, path, message):
    memory.pipe("/data/a.zip", b"x")
    with pytest.raises(UserError, match=message) as caught:
        reader(kind="text", paths=path).files(tmp_path)
    assert "hidden" not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    sys.modules["fsspec.registry"]._registry.pop("s3", None)
    with pytest.raises(UserError, match=r"s3:// needs a package that is missing; pip install s3fs"):
        reader(kind="text", paths="s3://bucket/a.txt").files(tmp_path)
