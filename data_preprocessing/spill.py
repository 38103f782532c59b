"""What one chunk leaves on disk: its tokens, and tables of its records, documents and pieces.

A record is anything read: a document that is used, one that is rejected, one outside the `fraction`. A
document gives one piece, or several where the mode splits it; a piece is what the dataset calls a document.
The file is safetensors. R records, D documents, P pieces, N tokens:

    status     (R,) uint8    USED, REJECTED, LEFT_OUT, in reading order, as the next three
    bytes_in   (R,) int64    UTF-8 bytes of the text (of a rejected one: bytes in the file)
    file       (R,) uint32   place of each record: an index into the names in the metadata,
    number     (R,) int64    and its number in that file; these two only for deduplication
    hashes     (D, 2) uint64 content hash, in reading order; further columns from the deduplication
    pieces     (D,) int64    pieces of each document, 0 where the mode refuses it
    order      (P,) int64    which piece, in reading order, stands here: validation first, then by shuffle key
    offsets    (P + 1,) int64  where each of them begins in `tokens`
    num_bytes  (P,) int64    UTF-8 bytes of text, in the same order
    tokens     (N,) uint16 or uint32, in the same order
    loss_mask  (N,) uint8    in a mode with one
    rejected   (…,) uint8    JSON, the place, reason and detail of each rejected record
"""

import json
import math
import mmap
import os
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

DTYPES = {"U8": "<u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "I64": "<i8"}
"""numpy's names of safetensors' types."""
USED, REJECTED, LEFT_OUT = 0, 1, 2


class Counts(NamedTuple):
    """What a chunk holds."""

    records: int
    documents: int
    pieces: int
    validation_pieces: int
    tokens: int
    bytes_in: int
    rejected: int
    failure: str
    """The first rejection that stops a run with on_error=stop; empty for none."""
    failure_record: int
    """Its number among the records."""


def write_spill(path: Path, digest: str, counts: Counts, places: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
    """Write the file by rename. `places` holds the names of files and their unit. Raises OSError: no space, say."""
    arrays = {name: np.ascontiguousarray(column) for name, column in columns.items()}
    metadata = {"digest": digest, "counts": json.dumps(counts), "places": json.dumps(places)}
    metadata["crc32"] = str(_checksum(arrays))
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        save_file(arrays, partial, metadata)
    except SafetensorError as error:  # it puts the system's error into the text only
        partial.unlink(missing_ok=True)
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]), str(error), str(partial)) if number else error from error
    partial.replace(path)


def find_spill(path: Path, digest: str) -> Counts | None:
    """The counts of the file, if it is there, whole, and of this digest."""
    try:
        spill = Spill(path)
        if spill.metadata["digest"] != digest:
            return None
        arrays = load_file(path)
    except (OSError, SafetensorError, struct.error, ValueError, KeyError, TypeError):  # TypeError: of another version
        return None
    # the name was there before the bytes, if the machine itself went down
    return spill.counts if str(_checksum(arrays)) == spill.metadata["crc32"] else None


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    checksum = 0
    for name in sorted(arrays):
        checksum = zlib.crc32(arrays[name].data.cast("B") if arrays[name].size else b"", checksum)
    return checksum


class Spill:
    """Reads such a file, each column or a part of it when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:  # the format's own header: its length, then JSON
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        self._start = 8 + length
        self.metadata: dict[str, str] = header.pop("__metadata__")
        self._columns: dict[str, dict[str, Any]] = header
        self.counts = Counts(*json.loads(self.metadata["counts"]))

    def mapped(self, name: str) -> np.ndarray:
        """The column, mapped: what is looked at is read. It holds the file open as long as it lives."""
        dtype, shape, begin = self._layout(name)
        if 0 in shape:  # nothing cannot be mapped
            return np.empty(shape, dtype)
        with self.path.open("rb") as file:  # np.memmap takes ten times as long to make
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(content, dtype, math.prod(shape), begin).reshape(shape)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """A copy of the column, or of its rows [start, stop)."""
        dtype, (rows, *rest), begin = self._layout(name)
        start, stop, _ = slice(start, stop).indices(rows)
        width = math.prod(rest)
        offset, count = begin + start * width * dtype.itemsize, max(0, stop - start) * width
        return np.fromfile(self.path, dtype, count, offset=offset).reshape(-1, *rest)

    def _layout(self, name: str) -> tuple[np.dtype, tuple[int, ...], int]:
        """Type and shape of a column, and where it begins in the file."""
        column = self._columns[name]
        return np.dtype(DTYPES[column["dtype"]]), tuple(column["shape"]), self._start + column["data_offsets"][0]

    def rejections(self) -> list[dict[str, Any]]:
        """The rejected records, in reading order."""
        return list(json.loads(self.read("rejected").tobytes() or b"[]"))

    @property
    def places(self) -> dict[str, Any]:
        """The names of the files that its records stand in, and the unit of each."""
        return dict(json.loads(self.metadata["places"]))
