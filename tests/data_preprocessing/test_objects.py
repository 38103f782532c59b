"""The keys, templates and chats that the readers of objects share, and JSON in its forms."""

import io
import json
import tracemalloc

import pytest
from pydantic import ValidationError

from data_preprocessing.readers import Rejected
from tests.data_preprocessing.reading import Dribble, in_documents, read, reader, summary, texts


def one(record, **settings):
    line = record if isinstance(record, bytes) else json.dumps(record).encode()
    (item,) = read(line, kind="jsonl", **settings)
    return item


def test_dotted_keys_lead_into_objects():
    record = {"meta": {"text": "in", "a.b": {"c": "deep"}}, "x.y": "as written", "x": {"y": "nested"}}
    assert one(record, text_key="meta.text").text == "in"
    assert one(record, text_key="x.y").text == "as written"
    assert one(record, text_key=["meta.text", "x.y"]).parts == ("in", "as written")
    assert one(record, text_key="meta.a.b.c").reason == "missing key"
    assert one({"meta": "text"}, text_key="meta.text").reason == "missing key"
    assert one({"meta": {"text": 3}}, text_key="meta.text").reason == "not a string"


def test_optional_keys():
    alpaca = {"text_key": ["instruction", "input", "output"], "optional_keys": ["input"]}
    for record in ({"instruction": "a", "output": "b"}, {"instruction": "a", "input": None, "output": "b"}):
        assert one(record, **alpaca).parts == ("a", "", "b")
    assert one({"instruction": "a", "input": "i", "output": "b"}, **alpaca).parts == ("a", "i", "b")
    assert one({"input": "i", "output": "b"}, **alpaca).reason == "missing key"
    assert one({"instruction": "a", "input": 1, "output": "b"}, **alpaca).reason == "not a string"


def test_template():
    template = "# {title}\n\n{meta.text} {{{n}}} {title}"
    record = b'{"title": "T {x}", "meta": {"text": "body"}, "n": 12345678901234567890123}'
    assert one(record, template=template).parts == ("# T {x}\n\nbody {12345678901234567890123} T {x}",)
    assert one({"title": "T", "meta": {"text": ""}, "n": 2.50}, template=template).text == "# T\n\n {2.5} T"
    assert one({"title": "T", "n": 1}, template=template).reason == "missing key"
    for value in (None, True, ["x"], {"a": "b"}):
        assert one({"t": value}, template="{t}").reason == "not a string"
    assert one({"t": ""}, template="always: {t}").reason == "empty"
    assert one({"a": "x"}, template="{a}{b}", optional_keys=["b"]).text == "x"
    assert one({"__class__": "a key"}, template="{__class__}").text == "a key"


@pytest.mark.parametrize(
    "template",
    ["{a!r}", "{a.b!r}", "{a:>10}", "{a[0]}", "{a:{b}}", "{}", "{ }", "{a", "a}", "no key", "{{a}}", ""],
)
def test_template_that_is_wrong(template):
    with pytest.raises(ValidationError, match="template"):
        reader(kind="jsonl", template=template)


def test_chat():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello", "id": 3}]
    document = one({"messages": messages}, messages_key="messages")
    assert (document.parts, document.roles) == (("hi", "hello"), ("user", "assistant"))
    sharegpt = {"messages_key": "conversations", "role_key": "from", "content_key": "value"}
    document = one({"conversations": [{"from": "human", "value": "hi"}]}, **sharegpt)
    assert (document.parts, document.roles) == (("hi",), ("human",))
    assert reader(kind="jsonl", **sharegpt).num_parts == 0


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        ({"text": "a"}, "missing key", "no key 'messages'; it has 'text'"),
        ({"messages": "hi"}, "not a list", "'messages' is \"hi\""),
        ({"messages": []}, "empty", "no message in 'messages' has text"),
        ({"messages": [{"role": "user", "content": ""}]}, "empty", "no message in 'messages' has text"),
        ({"messages": ["hi"]}, "not an object", 'message 1 is "hi"'),
        ({"messages": [{"role": "a", "content": "b"}, {"content": "b"}]}, "missing key", "message 2 has no key 'role'"),
        ({"messages": [{"role": "a", "content": None}]}, "not a string", "message 1: 'content' is null"),
        ([], "not an object", "expected an object with the key 'messages'"),
    ],
)
def test_chat_that_is_none(record, reason, detail):
    bad = one(record, messages_key="messages")
    assert (bad.reason, bad.num_bytes) == (reason, len(json.dumps(record)))
    assert detail in bad.detail


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_key": "a", "template": "{a}"}, "template.*excludes text_key"),
        ({"text_key": "text", "messages_key": "m"}, "messages_key.*excludes text_key"),
        ({"template": "{a}", "messages_key": "m"}, "messages_key.*excludes template"),
        ({"role_key": "from"}, "role_key.*give messages_key"),
        ({"content_key": "value"}, "content_key.*give messages_key"),
        ({"optional_keys": ["input"]}, "optional_keys.*not read"),
        ({"messages_key": "m", "optional_keys": ["m"]}, "optional_keys"),
    ],
)
def test_settings_that_exclude_each_other(settings, message):
    with pytest.raises(ValidationError, match=message):
        reader(kind="jsonl", **settings)


def test_settings_are_dumped_as_far_as_they_apply_and_load_again():
    plain = reader(kind="jsonl").model_dump(mode="json")
    assert set(plain) == {"kind", "paths", "members", "max_document_bytes", "text_key"}
    chat = {"messages_key": "conversations", "role_key": "from", "content_key": "value"}
    for settings in ({"template": "{a}"}, chat, {"text_key": ["a", "b"], "optional_keys": ["b"]}):
        chosen = reader(kind="jsonl", **settings)
        dumped = chosen.model_dump(mode="json")
        assert set(dumped) == {"kind", "paths", "members", "max_document_bytes", *settings}
        assert reader(**dumped) == chosen
        assert reader(**chosen.model_dump()) == chosen


RECORDS = [{"text": f'{i} {{["é\\n'} | ({"n": {"deep": [1, {"a": "]}"}]}} if i % 3 else {}) for i in range(50)]
WANTED = [record["text"] for record in RECORDS]


@pytest.mark.parametrize("frame_bytes", [1, 40, 2**20])
@pytest.mark.parametrize("most", [1, 1000])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(RECORDS),
        json.dumps(RECORDS, indent=2, ensure_ascii=False),
        "\n [\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]\n",
        "\n".join(json.dumps(record, indent=1) for record in RECORDS),
        "\n".join(map(json.dumps, RECORDS)),
        "\r\n".join(map(json.dumps, RECORDS)) + "\r\n",
    ],
    ids=["array", "indented array", "array of lines", "indented objects", "lines", "lines with CRLF"],
)
def test_json_in_its_forms(monkeypatch, content, most, frame_bytes):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
    items = read(Dribble(content.encode(), most), "a.json", kind="json")
    assert texts(items) == WANTED
    assert [item.place.number for item in items] == list(range(1, 51))
    assert {item.place.unit for item in items} == {"line" if content.startswith('{"') else "document"}


def test_one_object():
    for indent in (None, 2):
        content = json.dumps({"text": "a\nb", "n": [1]}, indent=indent).encode()
        assert texts(read(content, kind="json")) == ["a\nb"]
    assert summary(read(b"[]", kind="json")) == [("f", "[empty]")]
    assert summary(read(b" \n ", kind="json")) == [("f:1", "[empty]"), ("f:2", "[empty]")]


@pytest.mark.parametrize("frame_bytes", [1, 2**20])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"text": "a"}, {"text": "b"', [("f: document 1", "a"), ("f: document 2", "[not JSON]")]),
        ('[{"text": "a"}, {"text": "b', [("f: document 1", "a"), ("f: document 2", "[not JSON]")]),
        ('[{"text": "a"}, ', [("f: document 1", "a"), ("f: document 2", "[not JSON]")]),
        ('[{"text": "a"}', [("f: document 1", "a"), ("f: document 2", "[not JSON]")]),
        ('[{"text": "a"}] x', [("f: document 1", "a"), ("f: document 2", "[not JSON]")]),
        ('[{"text": "a"} {"text": "b"}]', [("f: document 1", "a"), ("f: document 2", "[not JSON]")]),
        (
            '[{"text": "a"}, {"text": b}, {"text": "c"}, 7, "x", null, {"text": 1}, {"text": "d"}]',
            [
                ("f: document 1", "a"),
                ("f: document 2", "[not JSON]"),
                ("f: document 3", "c"),
                ("f: document 4", "[not an object]"),
                ("f: document 5", "[not an object]"),
                ("f: document 6", "[not an object]"),
                ("f: document 7", "[not a string]"),
                ("f: document 8", "d"),
            ],
        ),
        ('[{"text": "a\x1e"}, {"text": "b"}]', [("f: document 1", "[not JSON]"), ("f: document 2", "b")]),
        ('{\n"text": "a"\n}\n{\n"text": "b"', [("f: document 1", "a"), ("f: document 2", "[not JSON]")]),
        (
            '{\n"text": "a"\n}\n{\n"text": b}\n{\n"text": "c"}',
            [("f: document 1", "a"), ("f: document 2", "[not JSON]"), ("f: document 3", "c")],
        ),
        ('{"text": "a"\n{"text": "b"}', [("f:1", "[not JSON]"), ("f:2", "b")]),
    ],
)  # fmt: skip
def test_broken_json_costs_little(monkeypatch, content, expected, frame_bytes):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
    assert summary(read(content.encode(), kind="json")) == expected


@pytest.mark.parametrize("frame_bytes", [1, 10, 2**20])
def test_a_value_that_is_too_long_costs_itself_alone(monkeypatch, frame_bytes):
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", frame_bytes)
    monkeypatch.setattr("data_preprocessing.readers.json.SNIFFED", 4)
    long = ['{"text": "' + 'b\\"]' * 30 + '"}', '{"n": [' + "1, " * 40 + "{}]}"]
    values = ['{"text": "a"}', *long, '{"text": "c"}', '{"text": "1234567890"}', '{"text": "12345678901"}']
    for between in (",", " ,\n "):
        items = read(f"[{between.join(values)}]".encode(), kind="json", max_document_bytes=22)
        assert [(item.reason, item.num_bytes) if isinstance(item, Rejected) else item.text for item in items] == [
            "a", ("too large", len(values[1])), ("too large", len(values[2])), "c", "1234567890", ("too large", 23),
        ]  # fmt: skip


def test_an_array_needs_memory_for_one_frame_only(monkeypatch):
    """A source without an end, of which only some is ever asked for."""
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", 1000)

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size=-1):
            self.given += size
            return (
                (b"[" + b'{"text": "abcdef"}, ' * (size // 20 + 1))[:size]
                if self.given == size
                else (b'"abcdef"}, {"text": ' * size)[:size]
            )

    stream = Endless()
    frames = reader(kind="json").frames(stream, "f")
    for _ in range(100):
        next(frames)
    assert stream.given < 64 * 2**10 + 120 * 1000


def test_a_value_that_is_too_long_takes_no_memory():
    content = b'[{"text": "' + b"x\\n" * 10_000_000 + b'", "n": [' + b"1, " * 10_000 + b'1]}, {"text": "b"}]'
    tracemalloc.start()  # the content itself was there before
    try:
        long, after = read(content, kind="json", max_document_bytes=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (long.reason, long.num_bytes, after.text) == ("too large", 30_030_022, "b")
    assert peak < 8_000_000


def test_all_readers_of_objects_read_alike():
    lines = [json.dumps(record).encode() for record in ({"a": "x"}, {"a": 1}, {"b": "x"}, {"a": ""}, ["a"])]
    for settings in ({"text_key": "a"}, {"template": "<{a}>"}, {"text_key": ["a", "b"], "optional_keys": ["b"]}):
        as_lines = read(b"\n".join(lines), kind="jsonl", **settings)
        as_array = read(b"[" + b",".join(lines) + b"]", kind="json", **settings)
        for line, element in zip(as_lines, as_array, strict=True):
            assert line._replace(place=None) == element._replace(place=None)
    chosen = reader(kind="jsonl", text_key="a")
    assert list(in_documents(chosen, chosen.frames(io.BytesIO(b"\n".join(lines)), "f"))) == read(
        b"\n".join(lines), kind="jsonl", text_key="a"
    )


def nested(depth, text="deep"):
    """A line that orjson leaves to the parser of the standard library, for its NaN."""
    return b'{"text": "%s", "n": NaN, "x": %s1%s}' % (text.encode(), b"[" * (depth - 1), b"]" * (depth - 1))


def test_how_deep_objects_may_be_does_not_depend_on_the_caller():
    def at_depth(calls, line):
        return one(line) if calls == 0 else at_depth(calls - 1, line)

    for calls in (0, 300):
        assert at_depth(calls, nested(500)).text == "deep"
        refused = at_depth(calls, nested(501))
        assert (refused.reason, refused.detail) == ("not JSON", "more than 500 brackets within each other")
        assert at_depth(calls, nested(2, "[" * 600 + "\\\\")).text == "[" * 600 + "\\"  # of a text, not of the object
        for depth in (600, 1000, 1020):  # orjson takes these
            value = at_depth(calls, b'{"text": %s%s}' % (b"[" * depth, b"]" * depth))
            assert value.detail == f"'text' is {'[' * 40}; expected a string"


def test_a_template_has_numbers_as_they_were_written():
    for number in ("1.10", "-0", "1e400", "12345678901234567890", "0.30000000000000000001", "NaN", "7"):
        assert one(b'{"n": %s}' % number.encode(), template="<{n}>").text == f"<{number}>"
    assert one(b'{"n": 1.10}', text_key="n").detail == "'n' is 1.1; expected a string"
    assert one(b'{"n": [1.10]}', template="<{n}>").reason == "not a string"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b'[{"text":"a"},,{"text":"b"}]', ["a", "not JSON", "b"]),
        (b'[,{"text":"a"}]', ["not JSON", "a"]),
        (b'[{"text":"a"} , ]', ["a", "not JSON"]),
        (b'[{"text":"a"},,]', ["a", "not JSON", "not JSON"]),
        (b"[]", ["empty"]),
        (b'[ {"text":"a"} ]', ["a"]),
    ],
)
def test_an_array_with_holes_is_not_json(content, wanted):
    items = read(content, kind="json")
    assert [item.reason if isinstance(item, Rejected) else item.text for item in items] == wanted
    if b"]" in content and wanted[-1] == "not JSON":
        assert items[-1].detail == "no element follows the array's last comma"
