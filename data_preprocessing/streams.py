"""Bytes of a file to documents: unpacking, splitting, decoding. Shared by the readers."""

import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from data_preprocessing.readers import EMPTY, Document, Place, Rejected, Unit

CHUNK = 2**20
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


def split_documents(stream: BinaryIO, name: str, separator: str | None) -> Iterator[Document | Rejected]:
    """The documents of one file: what stands between separators, or all of it where that is None.

    A separator at the end of the file ends the last document and starts none. Lines may end in CR LF. A
    byte order mark at the start is dropped.
    """
    unit: Unit = "file" if separator is None else "line" if separator == "\n" else "document"
    number = 0
    try:
        for number, piece in enumerate(_pieces(_unpacked(stream, name), separator), start=1):
            raw = piece.removeprefix(codecs.BOM_UTF8) if number == 1 else piece
            raw = raw.removesuffix(b"\r") if unit == "line" else raw
            yield _decode(raw, Place(name, unit, number))
    except DAMAGED as error:
        detail = f"{error}; nothing after this place can be read"
        yield Rejected(Place(name, unit, number + 1), "damaged archive", detail, 0)


def _unpacked(stream: BinaryIO, name: str) -> BinaryIO:
    if name.endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    return cast(BinaryIO, lzma.LZMAFile(stream)) if name.endswith(".xz") else stream


def _pieces(stream: BinaryIO, separator: str | None) -> Iterator[bytes]:
    if separator is None:
        yield stream.read()
        return
    rest = b""
    # a chunk no smaller than the rest keeps the copying linear for a document of many chunks
    while chunk := stream.read(max(CHUNK, len(rest))):
        *whole, rest = (rest + chunk).split(separator.encode())
        yield from whole
    if rest:
        yield rest


def _decode(raw: bytes, place: Place) -> Document | Rejected:
    if not raw:
        return Rejected(place, EMPTY, "no text", 0)
    try:
        return Document((raw.decode(),), place)
    except UnicodeDecodeError as error:
        detail = f"{error.reason} (0x{raw[error.start]:02x}) at byte {error.start} of this {place.unit}"
        return Rejected(place, "not UTF-8", detail, len(raw))
