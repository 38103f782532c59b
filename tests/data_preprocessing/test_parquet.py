import io
import json

import pytest
from pydantic import ValidationError

from data_preprocessing.readers import Rejected
from tests.data_preprocessing.reading import read, read_files, reader, summary, texts

pa = pytest.importorskip("pyarrow", reason="the reader of parquet files needs pyarrow")
import pyarrow.parquet as pq  # noqa: E402

ROWS = [f"{i} é\n" * (i % 40 + 1) for i in range(3000)]


def parquet(table, **options):
    out = io.BytesIO()
    pq.write_table(pa.table(table) if isinstance(table, dict) else table, out, **options)
    return out.getvalue()


STRINGS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("frame_bytes", [1000, 2**20])
@pytest.mark.parametrize("type_", [*STRINGS, pa.binary(), pa.large_binary()], ids=str)
def test_every_kind_of_string(monkeypatch, type_, frame_bytes):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
    column = pa.array(ROWS, pa.string()).cast(type_)
    content = parquet({"id": list(range(len(ROWS))), "text": column}, row_group_size=700)
    items = read(content, kind="parquet")
    assert texts(items) == ROWS
    assert [str(item.place) for item in items[698:702]] == [f"f: document {i}" for i in range(699, 703)]


def test_frames_are_small_and_hold_the_columns_in_use():
    content = parquet({"id": ["x" * 1000] * 3000, "text": ["y" * 2000] * 3000})
    frames = list(reader(kind="parquet").frames(io.BytesIO(content), "f"))
    assert len(frames) > 1
    assert all(len(frame.data) < 2.1 * 2**20 for frame in frames)
    assert all(b"xxx" not in frame.data for frame in frames)


def test_rows_that_are_no_text():
    text = pa.array([b"a", None, b"\xff", b"", b"b" * 100, b"c\0"], pa.binary())
    items = read(parquet({"text": text}), kind="parquet", max_document_bytes=50)
    assert summary(items) == [
        ("f: document 1", "a"),
        ("f: document 2", "[not a string]"),
        ("f: document 3", "[not UTF-8]"),
        ("f: document 4", "[empty]"),
        ("f: document 5", "[too large]"),
        ("f: document 6", "c\0"),
    ]
    assert [item.num_bytes for item in items if isinstance(item, Rejected)] == [0, 1, 0, 100]
    (long,) = read(parquet({"text": ["b" * 100]}), kind="parquet", max_document_bytes=50)
    assert (long.reason, long.num_bytes) == ("too large", 100)
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"], pa.binary()).buffers())
    assert summary(read(parquet({"text": broken}), kind="parquet"))[1] == ("f: document 2", "[not UTF-8]")
    assert summary(read(parquet({"text": [1]}), kind="parquet")) == [("f: document 1", "[not a string]")]


def test_keys_template_and_chat():
    table = {
        "a": ["1", "2"],
        "b": ["x", None],
        "n": [1, 2],
        "meta": [{"text": "in"}, {"text": "side"}],
        "messages": [[{"role": "user", "content": "hi"}], []],
    }
    content = parquet(table)
    items = read(content, kind="parquet", text_key=["a", "b", "none"], optional_keys=["b", "none"])
    assert [item.parts for item in items] == [("1", "x", ""), ("2", "", "")]
    assert texts(read(content, kind="parquet", template="{a}:{n}")) == ["1:1", "2:2"]
    assert texts(read(content, kind="parquet", text_key="meta.text")) == ["in", "side"]
    chat, none = read(content, kind="parquet", messages_key="messages")
    assert (chat.parts, chat.roles, none.reason) == (("hi",), ("user",), "empty")


def test_a_column_that_is_missing_is_one_rejection():
    (bad,) = read(parquet({"body": ["a", "b"]}), kind="parquet")
    assert (bad.reason, str(bad.place)) == ("missing key", "f")
    assert bad.detail == "no column 'text'; it has 'body'; none of its 2 rows can be read"


def test_damage():
    content = parquet({"text": ROWS}, row_group_size=1000, compression="zstd", use_dictionary=False)
    assert summary(read(b"", kind="parquet")) == [("f", "[empty]")]
    for broken in (content[:-1], content[: len(content) // 2], b"no parquet at all", content[:-100] + bytes(100)):
        (bad,) = read(broken, kind="parquet")
        assert (bad.reason, str(bad.place), bad.num_bytes) == ("damaged file", "f", len(broken))
    start = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(1).column(0).data_page_offset
    flipped = content[:start] + b"\xff" * 200 + content[start + 200 :]
    items = read(flipped, kind="parquet")
    assert [str(item.place) for item in items if isinstance(item, Rejected)] == ["f: document 1001"]
    assert texts([item for item in items if not isinstance(item, Rejected)]) == ROWS[:1000] + ROWS[2000:]
    assert str(items[1001].place) == "f: document 2001"
    assert summary(read(parquet({"text": pa.array([], pa.string())}), kind="parquet")) == [("f", "[empty]")]


def test_from_files(tmp_path):
    (tmp_path / "a.parquet").write_bytes(parquet({"text": ["a", "b"]}))
    items = read_files(tmp_path, kind="parquet", paths="*.parquet")
    assert summary(items) == [("a.parquet: document 1", "a"), ("a.parquet: document 2", "b")]
    with pytest.raises(ValidationError, match="members"):
        reader(kind="parquet", members="*.parquet")
    assert json.dumps(reader(kind="parquet").model_dump(mode="json"))


def test_a_damaged_page_that_carries_a_checksum_is_noticed():
    table = {"text": [f"hello world {i}" for i in range(50)]}
    content = bytearray(parquet(table, compression="none", use_dictionary=False, write_page_checksum=True))
    assert len(read(bytes(content), kind="parquet")) == 50
    content[content.find(b"hello world 7")] ^= 1
    (damaged,) = read(bytes(content), kind="parquet")
    assert damaged.reason == "damaged file"
    assert "rows 1 to 50 cannot be read" in damaged.detail
    assert "CRC" in damaged.detail


def test_two_columns_of_one_name_are_refused():
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["text", "text", "other"])
    (refused,) = read(parquet(table), kind="parquet")
    assert (refused.reason, str(refused.place)) == ("several keys of one name", "f")
    assert texts(read(parquet(table), kind="parquet", text_key="other")) == ["c"]
