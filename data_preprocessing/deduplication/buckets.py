"""Finding equal keys among more than memory holds: rows go to files by a range of keys, a file is sorted at a time.

A row is uint64: the key, of one or more columns whose first is spread evenly (a hash), then the document's number.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_preprocessing.deduplication import Columns, Duplicates

BUCKET_ROWS = 2**18
"""Rows that a bucket is expected to hold; with those of one read, what is sorted in memory at a time."""


class Buckets:
    """Rows (n, width) uint64, spread over files by the range that a value of each falls into."""

    def __init__(self, folder: Path, num_rows: int, width: int) -> None:
        """`num_rows`: of all that will be added; the number of files follows from it."""
        self.folder, self.width = folder, width
        self.num_buckets = min(num_rows // BUCKET_ROWS + 1, 2**16)  # a sort by 16 bits is a radix sort
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def add(self, rows: np.ndarray, bucket: np.ndarray) -> None:
        """Append rows (n, width) to the given buckets (n,), keeping their order within each."""
        bucket = bucket.astype(np.uint16)
        rows = np.take(rows, np.argsort(bucket, kind="stable"), axis=0)
        counts = np.bincount(bucket, minlength=self.num_buckets)
        ends = np.cumsum(counts)
        for index in np.flatnonzero(counts).tolist():
            # opened each time: there may be more buckets than files that a process may hold open
            with open(self.folder / str(index), "ab", buffering=0) as file:
                data = rows[ends[index] - counts[index] : ends[index]].data.cast("B")
                while data:
                    data = data[file.write(data) :]

    def __iter__(self) -> Iterator[Iterator[np.ndarray]]:
        """The buckets in ascending order, each as arrays of up to twice BUCKET_ROWS rows, in the order added."""
        for index in range(self.num_buckets):
            path = self.folder / str(index)
            if path.exists():
                yield self._read(path)
                path.unlink()
        self.folder.rmdir()

    def _read(self, path: Path) -> Iterator[np.ndarray]:
        with open(path, "rb") as file:
            while len(rows := np.fromfile(file, np.uint64, 2 * BUCKET_ROWS * self.width)):
                yield rows.reshape(-1, self.width)


class Match(NamedTuple):
    """Documents with the key of an earlier one, all (n,) int64."""

    number: np.ndarray
    first: np.ndarray
    """The first document with this key."""
    previous: np.ndarray
    """The one before `number` with this key; often the first."""


class KeyBuckets(Buckets):
    """Documents by key. Documents are added in the order of their numbers."""

    def __init__(self, folder: Path, num_rows: int, key_width: int) -> None:
        super().__init__(folder, num_rows, key_width + 1)

    def add_keys(self, keys: np.ndarray, numbers: np.ndarray) -> None:
        """`keys` (n, key_width) uint64 of the documents `numbers` (n,)."""
        rows = np.column_stack((keys, numbers.astype(np.uint64)))
        self.add(rows, (keys[:, 0] >> np.uint64(32)) * np.uint64(self.num_buckets) >> np.uint64(32))

    def matches(self) -> Iterator[Match]:
        """All documents whose key an earlier one has, in no order worth knowing."""
        for bucket in self:
            # A key that is everywhere makes its bucket as large as the corpus. Of what was read before, the first
            # and the last document of each key are enough, so that memory stays bounded.
            rows, enough = np.empty((0, self.width), np.uint64), np.empty(0, np.int64)
            for new in bucket:
                rows, num_seen = np.concatenate((np.take(rows, enough, axis=0), new)), len(enough)
                alone, tied = _by_first_column(rows)
                tied = tied[np.lexsort(rows[tied].T[::-1])]  # by key, then number
                ties = rows[tied]
                starts = np.ones(len(ties), dtype=bool)
                starts[1:] = (ties[1:, :-1] != ties[:-1, :-1]).any(axis=1)
                number = ties[:, -1].astype(np.int64)
                first = number[starts][np.cumsum(starts) - 1]
                later = np.flatnonzero(~starts & (tied >= num_seen))
                yield Match(number[later], first[later], number[later - 1])
                enough = np.append(alone, tied[starts | np.append(starts[1:], True)])


def _by_first_column(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rows whose first value no other has, and of those where another has it; nearly all keys differ."""
    column = np.ascontiguousarray(rows[:, 0])
    order = np.argsort(column)
    ascending = column[order]
    equal = ascending[1:] == ascending[:-1]
    tied = np.append(equal, False) | np.append(False, equal)
    return order[~tied], order[tied]


def blocks(columns: Columns, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """A column, BUCKET_ROWS rows at a time whatever the chunks, each with the number of its first document."""
    first, parts, num_rows = 0, list[np.ndarray](), 0
    for chunk, num_documents in enumerate(columns.num_documents):
        start = 0
        while start < num_documents:
            stop = min(num_documents, start + BUCKET_ROWS - num_rows)
            parts.append(np.array(columns.read(chunk, name, start, stop)))  # a copy: maps of many files use them up
            num_rows += stop - start
            start = stop
            if num_rows == BUCKET_ROWS:
                yield first, np.concatenate(parts)
                first, parts, num_rows = first + num_rows, [], 0
    if parts:
        yield first, np.concatenate(parts)


class DuplicatesWriter:
    """Duplicates, written in ascending order, as files that are then mapped: there may be as many as documents."""

    def __init__(self, scratch: Path) -> None:
        self.paths = (scratch / "duplicate.i64", scratch / "original.i64")
        self.num_duplicates = 0

    def __enter__(self) -> "DuplicatesWriter":
        self.files = [open(path, "wb") for path in self.paths]  # noqa: SIM115 (closed on exit)
        return self

    def add(self, duplicate: np.ndarray, original: np.ndarray) -> None:
        """More of them, (n,) int64 each."""
        for file, numbers in zip(self.files, (duplicate, original), strict=True):
            file.write(np.ascontiguousarray(numbers, np.int64).data)
        self.num_duplicates += len(duplicate)

    def __exit__(self, *_: object) -> None:
        for file in self.files:
            file.close()

    def duplicates(self) -> Duplicates:
        """What was written."""
        if not self.num_duplicates:  # an empty file cannot be mapped
            return Duplicates(np.empty(0, np.int64), np.empty(0, np.int64))
        duplicate, original = (np.memmap(path, np.int64, mode="r") for path in self.paths)
        return Duplicates(duplicate, original)
