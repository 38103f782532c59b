"""Chunks on their way to a worker, and lines out of frames."""

import mmap
import random

import pytest

from data_preprocessing.chunks import Chunk
from data_preprocessing.objects import ObjectReader
from data_preprocessing.readers import Frame, Place, Rejected
from data_preprocessing.streams import lines
from data_preprocessing.workers import _put, _take

ROOM = 2**16


def chunk_of(*sizes: int | None) -> Chunk:
    """Frames of so many bytes each, a rejected record for None."""
    place, drawn = Place("corpus.jsonl", "line", 1), random.Random(len(sizes))
    items = [
        Rejected(place, "not JSON", "", 1) if size is None else Frame(place._replace(number=n), drawn.randbytes(size))
        for n, size in enumerate(sizes, start=1)
    ]
    return Chunk(0, 3, "corpus", items)


@pytest.mark.parametrize(
    ("sizes", "left"),
    [
        ((100, None, 200, 0), 0),
        ((ROOM,), 0),
        ((ROOM + 1, 5), ROOM + 1),  # a record larger than the memory goes by the pipe
        ((ROOM - 10, 11, 10, None, 1), 12),
    ],
)
def test_a_worker_takes_what_was_put_for_it(sizes, left):
    shared = mmap.mmap(-1, ROOM)
    for chunk in (chunk_of(7, 9), chunk_of(*sizes)):  # the memory holds what was there before
        sent, placed = _put(chunk, shared)
        assert _take(sent, placed, shared) == chunk
    assert sum(len(item.data) for item in sent.items if isinstance(item, Frame)) == left


def test_lines_are_those_of_split():
    drawn = random.Random(0)
    for _ in range(500):
        data = bytes(drawn.choices(b"a\n\r\x1e", k=drawn.randrange(12)))
        assert [line.removesuffix(b"\n") for line in lines(data)] == data.split(b"\n")


def test_records_keep_their_numbers_and_sizes_among_blank_lines():
    data = b'{"text": "a"}\n\n{"other": 1}\n{"text": "b"}\r\nnot JSON\n'
    found = list(ObjectReader(paths=("x",)).json_documents(Frame(Place("f", "line", 5), data), b"\n"))
    assert [(item.place.number, getattr(item, "num_bytes", None)) for item in found] == [
        (5, None), (6, 0), (7, 12), (8, None), (9, 8), (10, 0),
    ]  # fmt: skip
