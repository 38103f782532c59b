import gzip
import json
import lzma
from io import BytesIO

import pytest
from pydantic import TypeAdapter, ValidationError

from data_preprocessing.config import AnyReader
from data_preprocessing.readers import Document, Place, Rejected
from modelzoo.base_config import UserError


def reader(**settings):
    return TypeAdapter(AnyReader).validate_python({"paths": "a", **settings})


def read(content: bytes, name="f", **settings):
    return list(reader(**settings).read(BytesIO(content), name))


def texts(items):
    assert all(isinstance(item, Document) for item in items), items
    return [item.text for item in items]


def test_whole_file_keeps_every_byte():
    content = "\ta b  \r\n\n\u2028 ünï 🚀\x00 "
    assert texts(read(content.encode(), kind="text")) == [content]
    assert texts(read(b"\xef\xbb\xbfmarked", kind="text")) == ["marked"]


def test_lines():
    items = read("one\r\ntwo\u2028still two\n\n four".encode(), kind="text", separator="\n")
    assert texts([items[0], items[1], items[3]]) == ["one", "two\u2028still two", " four"]
    assert items[2] == Rejected(Place("f", "line", 3), "empty", "no text", 0)
    assert str(items[3].place) == "f:4"
    assert texts(read(b"one\n", kind="text", separator="\n")) == ["one"]


@pytest.mark.parametrize("chunk", [1, 3, 7, 2**20])
def test_separator_across_chunks(monkeypatch, chunk):
    monkeypatch.setattr("data_preprocessing.streams.CHUNK", chunk)
    items = read(b"one\ntwo<end>three four five six<end>", kind="text", separator="<end>")
    assert texts(items) == ["one\ntwo", "three four five six"]
    assert str(items[1].place) == "f: document 2"


def test_invalid_utf8_names_the_byte():
    good, bad, after = read(b"fine\nab\xff\nfine", kind="text", separator="\n")
    assert (good.text, after.text) == ("fine", "fine")
    assert bad == Rejected(Place("f", "line", 2), "not UTF-8", "invalid start byte (0xff) at byte 2 of this line", 3)


def test_jsonl():
    lines = [{"text": "a\u2028\n"}, {"id": 1, "text": "b"}]
    content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    assert texts(read(content.encode(), kind="jsonl")) == ["a\u2028\n", "b"]
    assert texts(read(b'{"body": "x"}', kind="jsonl", text_key="body")) == ["x"]


def test_jsonl_with_several_keys():
    lines = [{"b": "two", "a": "one "}, {"a": "", "b": "b"}, {"a": "a", "b": ""}, {"a": "", "b": ""}]
    content = "\n".join(map(json.dumps, lines)).encode()
    *items, empty = read(content, kind="jsonl", text_key=["a", "b"])
    assert [item.parts for item in items] == [("one ", "two"), ("", "b"), ("a", "")]
    assert texts(items) == ["one two", "b", "a"]
    assert empty == Rejected(Place("f", "line", 4), "empty", "'a', 'b' are empty", len(json.dumps(lines[3])))
    assert read(content, kind="jsonl", text_key=["b", "a"])[0].parts == ("two", "one ")


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ('{"a": "x", "id": 1}', "missing key", "no key 'b'; it has 'a', 'id'"),
        ('{"id": 1}', "missing key", "no key 'a', 'b'; it has 'id'"),
        ('{"a": "x", "b": ["y"]}', "not a string", "'b' is [\"y\"]; expected a string"),
        ("[]", "not an object", "expected an object with the keys 'a', 'b'"),
    ],
)
def test_jsonl_broken_line_with_several_keys(line, reason, detail):
    (bad,) = read(line.encode(), kind="jsonl", text_key=["a", "b"])
    assert bad == Rejected(Place("f", "line", 1), reason, detail, len(line))


def test_a_single_key_is_written_as_it_was_before_lists():
    for key in ("text", ["text"]):
        assert reader(kind="jsonl", text_key=key).model_dump(mode="json")["text_key"] == "text"
    several = reader(kind="jsonl", text_key=["a", "b"])
    assert several.model_dump(mode="json")["text_key"] == ["a", "b"]
    assert reader(**several.model_dump()) == several


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ('{"text": "a"', "not JSON", "Expecting ',' delimiter"),
        ("[" * 100_000, "not JSON", "recursion"),
        ('["text"]', "not an object", "expected an object with the key 'text'"),
        ('{"body": "a", "id": 1}', "missing key", "no key 'text'; it has 'body', 'id'"),
        ('{"text": null}', "not a string", "'text' is null"),
        ('{"text": 12}', "not a string", "'text' is 12"),
        ('{"text": ""}', "empty", "'text' is empty"),
        ("   ", "empty", "blank line"),
        ("", "empty", "no text"),
    ],
)
def test_jsonl_broken_line(line, reason, detail):
    good, bad, after = read(f'{{"text": "a"}}\n{line}\n{{"text": "b"}}\n'.encode(), kind="jsonl")
    assert (good.text, after.text) == ("a", "b")
    assert (bad.reason, str(bad.place), bad.num_bytes) == (reason, "f:2", len(line))
    assert detail in bad.detail


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, ".gz"), (lzma.compress, ".xz")])
def test_compressed(pack, suffix):
    content = "".join(json.dumps({"text": f"{i} {i * i}"}) + "\n" for i in range(5000)).encode()
    packed = pack(content)
    assert len(texts(read(packed, "a.jsonl" + suffix, kind="jsonl"))) == 5000
    items = read(packed[:-20], "a.jsonl" + suffix, kind="jsonl")
    assert items[-1].reason == "damaged archive"
    assert "nothing after this place can be read" in items[-1].detail
    assert read(b"not packed", "a.jsonl" + suffix, kind="jsonl")[-1].reason == "damaged archive"


def test_paths(tmp_path):
    for name in ("b.txt", "a.txt", "c[1].txt", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert reader(kind="text", paths="*.txt").files(tmp_path) == ["a.txt", "b.txt", "c[1].txt"]
    assert reader(kind="text", paths=["b.txt", "*.txt"]).files(tmp_path) == ["b.txt", "a.txt", "c[1].txt"]
    assert reader(kind="text", paths="c[1].txt").files(tmp_path) == ["c[1].txt"]
    assert "sub/d.txt" in reader(kind="text", paths="**/*.txt").files(tmp_path)
    assert reader(kind="text", paths=str(tmp_path / "a.txt")).files(tmp_path) == [str(tmp_path / "a.txt")]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.txt", r"missing\.txt: no such file"),
        ("*.json", r"\*\.json: matches no file"),
        ("sub", r"sub is a directory; .*reader\.kind=directory"),
        ("a.jsonl.zst", r"a\.jsonl\.zst is not read as it is; unpack it first with zstd -d"),
    ],
)
def test_paths_that_are_wrong(tmp_path, path, message):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jsonl.zst").write_text("x")
    with pytest.raises(UserError, match=message):
        reader(kind="text", paths=path).files(tmp_path)


def test_directory(tmp_path):
    for name in ("z.py", "a.md", "a/b.py", "a/c.txt", "tests/deep/t.py", "a.py"):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    wanted = {"kind": "directory", "paths": "src", "suffixes": [".py", ".md"]}
    assert reader(**wanted, exclude=["tests/*"]).files(tmp_path) == [
        "src/a.md",
        "src/a.py",
        "src/a/b.py",
        "src/z.py",
    ]
    with pytest.raises(UserError, match=r"no file ends in \.py, \.md \(5 excluded by reader\.exclude\)"):
        reader(**wanted, exclude=["*"]).files(tmp_path)
    with pytest.raises(UserError, match="no such directory"):
        reader(**{**wanted, "paths": "nowhere"}).files(tmp_path)
    assert read(b"", kind="directory", suffixes=[".py"])[0].reason == "empty"


def test_settings_that_are_wrong():
    for wrong in (
        {"kind": "text", "separator": ""},
        {"kind": "directory"},
        {"kind": "text", "paths": []},
        {"kind": "jsonl", "text_key": []},
        {"kind": "jsonl", "text_key": ["a", 1]},
        {"kind": "jsonl", "text_key": ["a", "b", "a"]},
    ):
        with pytest.raises(ValidationError):
            reader(**wrong)
