"""Bytes of a file to frames of records, and records to text. Shared by the readers."""

import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from data_preprocessing.readers import EMPTY, FRAME_BYTES, Document, Frame, Place, Rejected, Unit

DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


def unpacked(stream: BinaryIO, name: str) -> BinaryIO:
    """The stream, decompressed where the name says that it is compressed."""
    if name.endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    return cast(BinaryIO, lzma.LZMAFile(stream)) if name.endswith(".xz") else stream


def cut(
    stream: BinaryIO, name: str, unit: Unit, separator: bytes | None, max_bytes: int
) -> Iterator[Frame | Rejected]:
    """Frames of whole records: what stands between separators, or all of the stream where that is None.

    The records of a frame are joined by the separator. A separator at the end of the stream ends the last
    record and starts none. A byte order mark at the start is dropped. A record of more than `max_bytes` is
    skipped and rejected.
    """
    number, rest, skipped = 1, b"", 0  # of the record at the start of rest; bytes of it already thrown away
    try:
        # a chunk no smaller than the rest keeps the copying linear for a record of many chunks
        while chunk := stream.read(max(FRAME_BYTES, len(rest))):
            whole, rest = _split(rest + chunk, separator)
            if number == 1 and not skipped:
                whole, rest = _without_mark(whole, rest)
            if whole is not None:
                count = whole.count(separator) + 1 if separator else 1
                if skipped:
                    head, _, tail = whole.partition(separator or b"")
                    yield _too_long(Place(name, unit, number), skipped + len(head), max_bytes)
                    number, skipped, count = number + 1, 0, count - 1
                    whole = tail
                if count:
                    yield Frame(Place(name, unit, number), whole)
                number += count
            if skipped or len(rest) > max_bytes:
                skipped, rest = skipped + len(rest), b""
        if skipped:
            yield _too_long(Place(name, unit, number), skipped, max_bytes)
        elif rest:
            yield Frame(Place(name, unit, number), rest)
        elif number == 1:
            yield Rejected(Place(name, unit, 1), EMPTY, "the file is empty", 0)
    except DAMAGED as error:
        detail = f"{error}; nothing after this place can be read"
        yield Rejected(Place(name, unit, number), "damaged archive", detail, 0)


def _split(data: bytes, separator: bytes | None) -> tuple[bytes | None, bytes]:
    """The whole records at the start of the data, None for none, and what may be part of one."""
    if separator is None:
        return None, data
    if len(separator) == 1:
        end = data.rfind(separator)
        return (data[:end], data[end + 1 :]) if end >= 0 else (None, data)
    *whole, rest = data.split(separator)  # from the left: occurrences of a longer one may overlap
    return (separator.join(whole) if whole else None), rest


def _without_mark(whole: bytes | None, rest: bytes) -> tuple[bytes | None, bytes]:
    if whole is None:
        return None, rest.removeprefix(codecs.BOM_UTF8)
    return whole.removeprefix(codecs.BOM_UTF8), rest


def _too_long(place: Place, num_bytes: int, max_bytes: int) -> Rejected:
    detail = f"{num_bytes:,} bytes, reader.max_document_bytes={max_bytes:,}"
    return Rejected(place, "too long", detail, num_bytes)


def records(frame: Frame, separator: bytes | None) -> Iterator[tuple[bytes, Place]]:
    """The records of a frame that `cut` made, each with its place."""
    name, unit, first = frame.first
    pieces = frame.data.split(separator) if separator else [frame.data]
    for number, raw in enumerate(pieces, start=first):
        yield raw, Place(name, unit, number)


def decode(raw: bytes, place: Place) -> Document | Rejected:
    """The text of one record; empty ones and those that are not UTF-8 are rejected."""
    if not raw:
        return Rejected(place, EMPTY, "no text", 0)
    try:
        return Document((raw.decode(),), place)
    except UnicodeDecodeError as error:
        detail = f"{error.reason} (0x{raw[error.start]:02x}) at byte {error.start} of this {place.unit}"
        return Rejected(place, "not UTF-8", detail, len(raw))


def members(stream: BinaryIO, name: str) -> Iterator[tuple[str, BinaryIO | Rejected]]:
    """The files that a stream holds, unpacked: those of an archive, or just itself."""
    yield name, unpacked(stream, name)
