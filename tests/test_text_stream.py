"""Text from tokens one by one: characters stay whole, and a stop string never shows, not half of it either."""

import random

import pytest

from modelzoo.text_stream import TextStream
from tests.samples import TRICKY, small_tokenizer


def as_bytes(ids):
    return bytes(ids)


def streamed(data: bytes, *stop: str) -> tuple[list[str], bool]:
    """The pieces of text, when each byte is a token of its own, and whether a stop string ended it."""
    stream = TextStream(as_bytes, stop)
    pieces = [stream.push(byte) for byte in data]
    pieces.append(stream.finish())
    assert sum(map(len, pieces)) == stream.num_released == stream.num_decoded
    return pieces, stream.stopped


@pytest.mark.parametrize("text", TRICKY)
def test_characters_over_several_tokens_stay_whole(text):
    tokenizer = small_tokenizer()
    stream = TextStream(tokenizer.decode_bytes)
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text  # all of it before the end: nothing is held back without a stop string
    assert stream.finish() == ""
    assert all("�" not in piece for piece in pieces)


def test_a_character_appears_with_its_last_byte():
    assert streamed("aé😀b".encode())[0] == ["a", "", "é", "", "", "", "😀", "b", ""]


@pytest.mark.parametrize(
    "data", [b"ab\xe2\x82", b"\xff\xfeok", b"\xf0\x9f\x98", b"a\xe2b", b"\xf0\x9f\x98\xe2\x82\xac"]
)
def test_bytes_that_are_no_text_read_as_they_do_at_once(data):
    assert "".join(streamed(data)[0]) == data.decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one END two", ["END"], "one "),
        ("one EN two", ["END"], "one EN two"),
        ("one EN", ["END"], "one EN"),  # half of it at the end is text
        ("ENENDx", ["END"], "EN"),  # begins inside a false start
        ("aaab", ["aab"], "a"),
        ("END", ["END"], ""),
        ("x\n\ny", ["\n\n"], "x"),
        ("abcd", ["bc", "abcde"], "a"),  # a longer one was begun earlier, and stays incomplete
        ("abcd", ["bc", "abc"], ""),  # complete at the same character: the longest
        ("prix: 5€!", ["€"], "prix: 5"),
        ("a😀b", ["😀b"], "a"),
        ("a😀c", ["😀b"], "a😀c"),
        ("no stop here", [], "no stop here"),
    ],
)
def test_stop_strings(text, stop, expected):
    pieces, stopped = streamed(text.encode(), *stop)
    assert "".join(pieces) == expected
    assert stopped == any(s in text for s in stop)
    rest = expected
    for piece in pieces:  # at no time was more shown than the end result
        assert rest.startswith(piece)
        rest = rest.removeprefix(piece)


def first_end(text: str, stop: list[str]) -> str:
    """The definition: the text up to the first character at which it ends with a stop string, without that."""
    for end in range(1, len(text) + 1):
        lengths = [len(s) for s in stop if text[:end].endswith(s)]
        if lengths:
            return text[: end - max(lengths)]
    return text


def test_the_borders_of_tokens_do_not_matter():
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choices("abé", k=12))
        stop = ["".join(draw.choices("abé", k=draw.randint(1, 4))) for _ in range(draw.randint(1, 3))]
        data, chunks = text.encode(), []
        while data:
            size = draw.randint(1, 5)
            chunks.append(data[:size])
            data = data[size:]
        stream = TextStream(lambda ids, chunks=chunks: b"".join(chunks[i] for i in ids), stop)
        found = "".join(stream.push(i) for i in range(len(chunks))) + stream.finish()
        assert found == first_end(text, stop), (text, stop, chunks)


def test_nothing_comes_after_the_stop():
    stream = TextStream(as_bytes, ["b"])
    assert [stream.push(byte) for byte in b"abc"] == ["a", "", ""]
    assert stream.finish() == ""
