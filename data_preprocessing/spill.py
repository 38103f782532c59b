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
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

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


def write_spill(path: Path, digest: str, counts: Counts, places: Mapping[str, Any], columns: Mapping[str, Any]) -> None:
    """Write the file by rename. `places` holds the names of files and their unit."""
    arrays = {name: np.ascontiguousarray(column) for name, column in columns.items()}
    metadata = {"digest": digest, "counts": json.dumps(counts), "places": json.dumps(places)}
    metadata["crc32"] = str(_checksum(arrays))
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(arrays, partial, metadata)
    partial.replace(path)


def find_spill(path: Path, digest: str) -> Counts | None:
    """The counts of the file, if it is there, whole, and of this digest."""
    try:
        spill = Spill(path)
        if spill.metadata["digest"] != digest:
            return None
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, KeyError):
        return None
    # the name was there before the bytes, if the machine itself went down
    return spill.counts if str(_checksum(arrays)) == spill.metadata["crc32"] else None


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    checksum = 0
    for name in sorted(arrays):
        checksum = zlib.crc32(arrays[name].reshape(-1).view(np.uint8), checksum)
    return checksum


class Spill:
    """Reads such a file, each column or a part of it when asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with safe_open(path, "numpy") as file:
            self.metadata: dict[str, str] = file.metadata()
        self.counts = Counts(*json.loads(self.metadata["counts"]))

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The column, or its rows [start, stop)."""
        return self.read_several({name: (start, stop)})[0]

    def read_several(self, rows: Mapping[str, tuple[int, int | None]]) -> list[np.ndarray]:
        """Rows [start, stop) of several columns, opening the file once."""
        with safe_open(self.path, "numpy") as file:
            columns = {name: file.get_slice(name) for name in rows}
            return [  # an empty tensor has no slices
                np.asarray(columns[name][start:stop] if columns[name].get_shape()[0] else file.get_tensor(name))
                for name, (start, stop) in rows.items()
            ]

    def rejections(self) -> list[dict[str, Any]]:
        """The rejected records, in reading order."""
        return list(json.loads(self.read("rejected").tobytes() or b"[]"))

    @property
    def places(self) -> dict[str, Any]:
        """The names of the files that its records stand in, and the unit of each."""
        return dict(json.loads(self.metadata["places"]))
