import errno
import io
import json
import os

import pytest
from pydantic import ValidationError

from data_preprocessing.readers import Place, Rejected
from modelzoo.base_config import UserError
from tests.data_preprocessing.reading import Dribble, read, read_files, reader, summary, texts


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


FRAMES = pytest.mark.parametrize("frame_bytes", [1, 3, 7, 2**20])


@FRAMES
def test_separator_across_frames(monkeypatch, frame_bytes):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
    items = read(b"one\ntwo<end>three four five six<end>", kind="text", separator="<end>")
    assert texts(items) == ["one\ntwo", "three four five six"]
    assert str(items[1].place) == "f: document 2"


@FRAMES
def test_separators_that_overlap_are_found_from_the_left(monkeypatch, frame_bytes):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
    for content in ("a\n\nb", "a\n\n\nb\n\n", "\n\n\n\nc\n", "a\n\n\n\n\nb"):
        pieces = content.split("\n\n")
        pieces = pieces[:-1] if not pieces[-1] else pieces
        items = read(content.encode(), kind="text", separator="\n\n")
        assert [item.text if hasattr(item, "parts") else "" for item in items] == pieces
    assert texts(read(b"a\r\n\r\nb", kind="text", separator="\n\n")) == ["a\r\n\r\nb"]
    assert texts(read(b"a\r\n\r\nb", kind="text", separator="\r\n\r\n")) == ["a", "b"]


@FRAMES
@pytest.mark.parametrize(("separator", "kind"), [("\n", "text"), ("<end>", "text"), ("abab", "text"), ("\n", "jsonl")])
def test_a_record_that_is_too_long_costs_itself_alone(monkeypatch, frame_bytes, separator, kind):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
    records = [f'{{"text": "{body}"}}' for body in ("one", "cd" * 12, "", "12345678", "123456789", "é")]
    for end in ("", separator):
        content = (separator.join(records) + end).encode()
        whole = reader(kind=kind, **({"separator": separator} if kind == "text" else {}))
        chosen = whole.model_copy(update={"max_document_bytes": 20})
        for stream in (content, Dribble(content), Dribble(content, 5)):
            items = [
                ("long", frame.num_bytes) if isinstance(frame, Rejected) else document.place.number
                for frame in chosen.frames(stream if stream is not content else io.BytesIO(content), "f")
                for document in ([frame] if isinstance(frame, Rejected) else chosen.documents(frame))
            ]
            assert items == [1, ("long", 36), 3, 4, ("long", 21), 6]


@FRAMES
def test_the_last_record_may_be_too_long_by_a_byte(monkeypatch, frame_bytes):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
    for length, reason in ((10, ""), (11, "too large"), (14, "too large")):
        items = read(b"a<end>" + b"x" * length, kind="text", separator="<end>", max_document_bytes=10)
        assert [getattr(item, "reason", "") for item in items] == ["", reason]


def test_frames_follow_from_the_bytes_alone(monkeypatch):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", 50)
    monkeypatch.setattr("data_preprocessing.readers.json.SNIFFED", 10)
    monkeypatch.setattr("data_preprocessing.readers.trc2.SNIFFED", 50)
    lines = "".join(json.dumps({"text": f"{i}é" * (i % 9)}) + "\n" for i in range(200))
    forms = [(kind, lines) for kind in ("jsonl", "json", "text")]
    forms.append(("trc2", "".join(f"<DOC>\n{'é' * (i % 9)}\n{'</DOC>' if i % 5 else ''}\n" for i in range(200))))
    forms.append(("trc2", "headline,story\n" + "".join(f'é,"{i}""\n\n,"\n' for i in range(200))))
    forms.append(("trc2", "".join(f"TRC2-2008-01-01-{i:04} {'é' * (i % 9)}\n" for i in range(200))))
    for kind, text in forms:
        content = b"\xef\xbb\xbf" + text.encode()
        expected = list(reader(kind=kind).frames(io.BytesIO(content), "f"))
        assert len(expected) > 5 or kind == "text"
        for most in (1, 2, 7, 64):
            assert list(reader(kind=kind).frames(Dribble(content, most), "f")) == expected
        monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", 2**20)
        documents = read(content, kind=kind)
        monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", 50)
        assert read(content, kind=kind) == documents


def test_one_byte_order_mark_goes(monkeypatch):
    for frame_bytes in (1, 3, 2**20):
        monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
        assert texts(read(b"\xef\xbb\xbf\xef\xbb\xbfa", kind="text")) == ["\ufeffa"]
    assert summary(read(b"\xef\xbb\xbf", kind="text")) == [("f", "[empty]")]
    assert texts(read(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n', kind="jsonl")) == ["a", "b"]


def test_utf16_is_rejected_once_as_a_whole():
    content = "\n".join(["some text"] * 50).encode("utf-16")
    for kind in ("text", "jsonl", "json", "trc2"):
        (bad,) = read(content, kind=kind)
        assert (bad.reason, str(bad.place), bad.num_bytes) == ("not UTF-8", "f", len(content))
        assert "iconv -f UTF-16" in bad.detail


def test_what_json_takes_is_taken():
    line = b'{"text": "a\\ud800", "text": "nul \\u0000 and half \\ud800", "x": [NaN, -Infinity, 1e999], "n": 1}'
    assert texts(read(line, kind="jsonl")) == ["nul \0 and half \ud800"]
    assert texts(read(b"a\0b", kind="text")) == ["a\0b"]
    assert summary(read(b'{"text": "a\0b"}', kind="jsonl")) == [("f:1", "[not JSON]")]


@pytest.mark.parametrize("kind", ["jsonl", "json", "text", "trc2", "directory"])
def test_an_empty_file_is_counted(kind):
    settings = {"suffixes": [".py"]} if kind == "directory" else {}
    assert read(b"", kind=kind, **settings) == [Rejected(Place("f", "file", 1), "empty", "the file is empty", 0)]


@pytest.mark.long
def test_a_line_of_100_mb():
    body = "x" * 100_000_000
    content = f'{{"text": "a"}}\n{{"text": "{body}"}}\n{{"text": "b"}}\n'.encode()
    assert [len(text) for text in texts(read(content, kind="jsonl"))] == [1, len(body), 1]
    items = read(content, kind="jsonl", max_document_bytes=5_000_000)
    assert summary(items) == [("f:1", "a"), ("f:2", "[too large]"), ("f:3", "b")]
    assert items[1].num_bytes == len(body) + 12


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
        ("[" * 100_000, "not JSON", "more than 500 brackets within each other"),
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
        ("a.zip", r"a\.zip: \.zip files are not read; unpack it first with unzip"),
        ("l*.txt", r"lost\.txt: a link to nothing"),
    ],
)
def test_paths_that_are_wrong(tmp_path, path, message):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.zip").write_text("x")
    os.symlink("nowhere.txt", tmp_path / "lost.txt")
    with pytest.raises(UserError, match=message):
        reader(kind="text", paths=path).files(tmp_path)


def test_a_file_with_several_names_is_read_once(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("x")
    os.symlink("a.txt", tmp_path / "link.txt")
    paths = ["a.txt", "./a.txt", "b/../a.txt", str(tmp_path / "a.txt"), "*.txt"]
    assert reader(kind="text", paths=paths).files(tmp_path) == ["a.txt"]
    assert reader(kind="text", paths="./b/../a.txt").files(tmp_path) == ["a.txt"]


def test_a_directory_with_links(tmp_path):
    for name in ("src/a/one.py", "src/two.py", "outside/three.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    os.symlink("..", tmp_path / "src/a/up")
    os.symlink("../outside", tmp_path / "src/out")
    os.symlink("../outside", tmp_path / "src/again")
    os.symlink("two.py", tmp_path / "src/twice.py")
    os.symlink("nowhere.py", tmp_path / "src/broken.py")
    wanted = {"kind": "directory", "paths": "src", "suffixes": [".py"]}
    with pytest.raises(UserError, match=r"src/broken\.py: a link to nothing; mend it, .* with reader\.exclude"):
        read_files(tmp_path, **wanted)
    items = read_files(tmp_path, **wanted, exclude=["broken.py"])
    assert [item.place.file for item in items] == ["src/a/one.py", "src/again/three.py", "src/twice.py"]
    assert texts(items) == ["src/a/one.py", "outside/three.py", "src/two.py"]


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
        {"kind": "text", "members": []},
        {"kind": "text", "separator": ""},
        {"kind": "directory"},
        {"kind": "text", "paths": []},
        {"kind": "jsonl", "text_key": []},
        {"kind": "jsonl", "text_key": ["a", 1]},
        {"kind": "jsonl", "text_key": ["a", "b", "a"]},
    ):
        with pytest.raises(ValidationError):
            reader(**wrong)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "text", "paths": "src/*.txt"},
        {"kind": "text", "paths": "*/closed/*.txt"},
        {"kind": "text", "paths": "src/*/*.txt"},
        {"kind": "text", "paths": "src/**/*.txt"},
        {"kind": "directory", "paths": "src", "suffixes": [".txt"]},
    ],
    ids=lambda settings: settings["paths"],
)
def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch, settings):
    for name in ("src/open/a.txt", "src/closed/b.txt", "src/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "src/open/closed").symlink_to("../closed")
    closed = tmp_path / "src" if settings["paths"] == "src/*.txt" else tmp_path / "src/closed"
    access, scandir = os.access, os.scandir

    def is_closed(path):
        return os.path.realpath(path) == str(closed)

    def refuse(path="."):  # as for anybody but root
        if is_closed(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    assert len(read_files(tmp_path, **settings)) > 0
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and not is_closed(path))
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"src(/open)?(/closed)?/?: may not be read; change its permissions"):
        read_files(tmp_path, **settings)


def test_a_folder_that_may_be_passed_but_not_listed_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "home/mine/deep").mkdir(parents=True)
    (tmp_path / "home/mine/deep/a.txt").write_text("x")
    access = os.access
    passed = lambda path, mode: access(path, mode) and not (str(path).endswith("/home") and mode & os.R_OK)  # noqa: E731
    monkeypatch.setattr(os, "access", passed)
    for path in ("home/mine/deep/*.txt", "home/mine/*/a.txt", f"{tmp_path}/home/mine/**/*.txt"):
        assert len(reader(kind="text", paths=path).files(tmp_path)) == 1
    with pytest.raises(PermissionError):
        reader(kind="text", paths="home/*/deep/a.txt").files(tmp_path)


def test_what_is_no_file_is_not_passed_over(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "a.txt").write_text("x")
    assert reader(kind="text", paths="*.txt").files(tmp_path) == ["a.txt"]
    os.mkfifo(tmp_path / "b.txt")
    for settings in ({"kind": "text", "paths": "*.txt"}, {"kind": "directory", "paths": ".", "suffixes": [".txt"]}):
        with pytest.raises(UserError, match=r"b\.txt: is not a regular file; mend it, remove it, or "):
            reader(**settings).files(tmp_path)


@pytest.mark.parametrize("code", ["UTF-16", "UTF-32", "UTF-32-BE"])
def test_wide_characters_are_named(code):
    mark = b"\x00\x00\xfe\xff" if code == "UTF-32-BE" else b""
    (refused,) = read(mark + "text".encode(code), kind="text")
    assert refused.detail.endswith(f"convert it: iconv -f {code.removesuffix('-BE')} -t UTF-8")
