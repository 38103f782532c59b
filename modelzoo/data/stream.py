"""Arrays that are spread over several HDF5 files and read as one. No torch.

A contiguous dataset is mapped, and read at the speed of a plain binary file; any other goes through h5py.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np


class Stream:
    """The same datasets of several files, end to end: element i of the stream lies in exactly one file.

    Files are opened when they are first read, anew in every process: neither HDF5's handles nor the maps
    survive a fork, a spawn or a pickle.
    """

    def __init__(self, files: Sequence[Path], lengths: Sequence[int]) -> None:
        """`lengths` are the elements that each file adds to the stream."""
        assert len(files) == len(lengths), (len(files), len(lengths))
        self.files = list(files)
        self.starts = np.cumsum([0, *lengths], dtype=np.int64)  # (files + 1,)
        self._opened: dict[tuple[int, str], Any] = {}
        self._owner = os.getpid()

    def __len__(self) -> int:
        """Elements in all."""
        return int(self.starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}

    def open(self, file: int, name: str) -> Any:
        """Dataset `name` of one file: mapped (np.ndarray) where its layout allows it, else an h5py dataset."""
        if self._owner != os.getpid():
            self._opened, self._owner = {}, os.getpid()
        if (file, name) not in self._opened:
            self._opened[file, name] = _map(self.files[file], name)
        return self._opened[file, name]

    def gather(self, name: str, first: np.ndarray, length: int, padding: int) -> np.ndarray:
        """stream[f : f + length] for each f of `first` (B,), as (B, length); `padding` outside the stream.

        In the files' own type: a conversion of the whole batch at once costs half of one for each row.
        """
        if not len(first):
            return np.empty((0, length), dtype=np.int64)
        low, stop = int(first.min()), int(first.max()) + length
        if low >= 0 and stop <= len(self):
            file = self._file_of(low)
            array = self.open(file, name) if stop <= self.starts[file + 1] else None
            if isinstance(array, np.ndarray):  # all in one map: one copy in C, twice the speed of the slices below
                shape, strides = (len(array) - length + 1, length), 2 * array.strides
                windows: np.ndarray = np.ndarray(shape, array.dtype, array.data, strides=strides)
                return np.asarray(windows[first - self.starts[file]])
        number = np.searchsorted(self.starts[1:], first, side="right")
        inside = (first >= 0) & (first + length <= self.starts[number + 1])
        opened = {file: self.open(file, name) for file in set(number.tolist())}
        out: np.ndarray = np.empty((len(first), length), np.result_type(*(array.dtype for array in opened.values())))
        local = (first - self.starts[number]).tolist()
        for row, (file, start, whole) in enumerate(zip(number.tolist(), local, inside.tolist(), strict=True)):
            if whole:
                out[row] = opened[file][start : start + length]
            else:
                self.read(name, int(first[row]), out[row], padding)
        return out

    def scatter(self, name: str, first: np.ndarray, length: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """out[a : a + n] = stream[f : f + n] for each f of `first`, n of `length`, a of `at` (pieces,); `out` is
        flat. No piece crosses files."""
        number = np.searchsorted(self.starts[1:], first, side="right")
        local = first - self.starts[number]
        opened = {file: self.open(file, name) for file in set(number.tolist())}
        for file, f, n, a in zip(number.tolist(), local.tolist(), length.tolist(), at.tolist(), strict=True):
            out[a : a + n] = opened[file][f : f + n]

    def read(self, name: str, first: int, out: np.ndarray, padding: int) -> None:
        """Fill `out` (length,) with stream[first : first + length], across files; `padding` outside the stream."""
        stop = first + len(out)
        if first < 0 or stop > len(self):
            out[:] = padding
        low = max(first, 0)
        file = self._file_of(low)
        while low < min(stop, len(self)):
            begin, end = int(self.starts[file]), int(self.starts[file + 1])
            high = min(stop, end)
            out[low - first : high - first] = self.open(file, name)[low - begin : high - begin]
            low, file = high, file + 1

    def _file_of(self, element: int) -> int:
        """The file that holds this element of the stream; the number of files for what lies beyond."""
        return bisect_right(self.starts, element) - 1


def concatenated_ranges(start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """range(start[i], stop[i]) one after another, and the i of each."""
    counts = stop - start
    owner = np.repeat(np.arange(len(start)), counts)
    return np.arange(counts.sum()) + (start - np.cumsum(counts) + counts)[owner], owner


def _map(path: Path, name: str) -> Any:
    file = h5py.File(path, "r")
    dataset = file[name]
    offset = dataset.id.get_offset()
    if offset is None:  # chunked, compressed or empty
        return dataset
    shape, dtype = dataset.shape, dataset.dtype
    file.close()
    # memmap's own slicing costs a microsecond a call; the plain view keeps the map alive
    return np.asarray(np.memmap(path, mode="r", offset=offset, shape=shape, dtype=dtype))
