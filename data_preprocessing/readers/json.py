"""JSON as it comes: an array of objects, one object, objects one after the other, or JSON Lines."""

from collections.abc import Iterator
from typing import BinaryIO, Literal

from data_preprocessing import streams
from data_preprocessing.json_values import Tail, values
from data_preprocessing.objects import ObjectReader
from data_preprocessing.readers import EMPTY, Document, Frame, Place, Rejected
from data_preprocessing.streams import Steady, cut_from, damaged, first_bytes, too_large

BETWEEN = b"\x1e"
"""Stands between the values of a frame: a control character, which JSON has nowhere."""

SNIFFED = 2**16
"""Bytes that tell what a file holds."""


class JsonReader(ObjectReader):
    """.json files, also compressed ones, of any size. The first bytes tell what a file holds: `[` starts an array,
    whose elements are the documents. `{` starts an object, which may go over many lines and be followed by others,
    unless the first line looks like JSON Lines."""

    kind: Literal["json"] = "json"

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        source = Steady(stream)
        start = first_bytes(source, name, SNIFFED)
        if isinstance(start, Rejected):
            yield start
        elif _looks_like_lines(start):
            yield from cut_from(start, source, name, "line", b"\n", self.max_document_bytes)
        else:
            yield from self._value_frames(start, source, name)

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        return self.json_documents(frame, b"\n" if frame.first.unit == "line" else BETWEEN)

    def _value_frames(self, start: bytes, source: Steady, name: str) -> Iterator[Frame | Rejected]:
        number, size, run = 1, 0, list[bytes]()  # the next value, and those of the frame before it

        def frame() -> Iterator[Frame]:
            if run:
                yield Frame(Place(name, "document", number - len(run)), BETWEEN.join(run))
            run.clear()

        for value in values(start, source, streams.FRAME_BYTES, self.max_document_bytes):
            place = Place(name, "document", number)
            if isinstance(value, Tail) or not value.whole:
                yield from frame()
                if source.damage:
                    yield from damaged(source, place, value.num_bytes)
                else:
                    detail = value.detail if isinstance(value, Tail) else "the file ends within it"
                    yield Rejected(place, "not JSON", detail, value.num_bytes)
                return
            if value.raw is not None and BETWEEN not in value.raw:
                run.append(value.raw)
                size += len(value.raw)
            else:
                yield from frame()
                if value.raw is None:
                    yield too_large(place, value.num_bytes, self.max_document_bytes)
                else:
                    yield Rejected(place, "not JSON", "it holds the control character 0x1e", value.num_bytes)
            number += 1
            if size >= streams.FRAME_BYTES:
                yield from frame()
                size = 0
        yield from frame()
        if source.damage:
            yield from damaged(source, Place(name, "document", number), 0)
        elif number == 1:
            yield Rejected(Place(name, "file", 1), EMPTY, "the file holds no value", 0)


def _looks_like_lines(start: bytes) -> bool:
    """Whether lines are to be read one by one: nothing opens an array, and no line is left open on purpose."""
    text = start[:SNIFFED].lstrip(b" \t\r\n")
    if text.startswith(b"["):
        return False
    line, newline, _ = text.partition(b"\n")
    return not (text.startswith(b"{") and newline and line.rstrip().endswith((b"{", b"[", b",", b":")))
