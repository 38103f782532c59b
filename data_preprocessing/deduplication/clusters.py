"""Union-find over all documents of a corpus, with numpy."""

from pathlib import Path

import numpy as np

from data_preprocessing.deduplication import Duplicates
from data_preprocessing.deduplication.buckets import DuplicatesWriter

ROWS_AT_ONCE = 2**20


class Clusters:
    """Union-find over all documents, in a mapped file: 4 bytes a document."""

    def __init__(self, path: Path, num_documents: int, exact: Duplicates) -> None:
        dtype = np.uint32 if num_documents < 2**32 else np.int64
        with open(path, "wb") as file:  # written before it is mapped: a disk that is full is an error here, not a crash
            for start in range(0, num_documents, ROWS_AT_ONCE):
                stop = min(start + ROWS_AT_ONCE, num_documents)
                parent = np.arange(start, stop, dtype=dtype)
                first, last = np.searchsorted(exact.duplicate, (start, stop))
                parent[exact.duplicate[first:last] - start] = exact.original[first:last]
                file.write(parent.data)
        self.parent = np.asarray(np.memmap(path, dtype, mode="r+"))
        """(num_documents,) An earlier document of the cluster; the first of a cluster is its own."""

    def _roots(self, numbers: np.ndarray) -> np.ndarray:
        """The first document, as far as is known, of the clusters of these."""
        root = self.parent[numbers]
        while not np.array_equal(above := self.parent[root], root):
            root = self.parent[numbers] = above
        return root

    def apart(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(n,) bool: which pairs are not in one cluster yet."""
        return self._roots(first) != self._roots(second)

    def unite(self, first: np.ndarray, second: np.ndarray) -> None:
        """Make one cluster of the two documents of each pair."""
        while len(first):
            first, second = self._roots(first), self._roots(second)
            apart = first != second
            first, second = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
            np.minimum.at(self.parent, second, first)  # where a root has several partners, the next round sees to it

    def duplicates(self, scratch: Path) -> Duplicates:
        """All documents but the first of each cluster."""
        with DuplicatesWriter(scratch) as writer:
            for start in range(0, len(self.parent), ROWS_AT_ONCE):
                numbers = np.arange(start, min(start + ROWS_AT_ONCE, len(self.parent)))
                roots = self._roots(numbers).astype(np.int64)
                later = roots != numbers
                writer.add(numbers[later], roots[later])
        return writer.duplicates()
