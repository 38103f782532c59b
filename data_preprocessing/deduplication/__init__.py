"""Deduplication: which documents are dropped because an earlier one stands for them. One file a kind.

Workers fingerprint the documents; when all are read, one process looks for the duplicates among the
fingerprints. It holds few of them at a time (`buckets.py`), so that memory does not grow with the corpus.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from modelzoo.base_config import Config


class Columns(Protocol):
    """Arrays with a row for each document, in reading order, on disk and cut into chunks.

    `hashes`, (documents, 2) uint64, is always there: 128 bits of sha256 over all of a document's content.
    The others are what `fingerprint` gave.
    """

    @property
    def num_documents(self) -> Sequence[int]:
        """Of each chunk; 0 is allowed."""

    def read(self, chunk: int, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start to stop of a chunk. Better a mapped file than a copy: of large chunks few rows are looked at."""


class Duplicates(NamedTuple):
    """Documents to drop. Numbers count the documents of all chunks, in reading order, from 0."""

    duplicate: np.ndarray
    """(num_duplicates,) int64, ascending, each once. Both arrays may be maps of files in `scratch`."""
    original: np.ndarray
    """(num_duplicates,) int64: the document that is kept for it; it stands earlier and is no duplicate."""

    def kept(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) bool: which of the documents start to stop are kept."""
        kept = np.ones(stop - start, dtype=bool)
        first, last = np.searchsorted(self.duplicate, (start, stop))
        kept[self.duplicate[first:last] - start] = False
        return kept


class DeduplicationConfig(Config):
    """A kind adds its options and `find`, and `fingerprint` where it compares more than the hashes.

    The first of the documents that are alike is kept. The result is a function of the documents and their
    order; how they were cut into chunks, and by how many workers, changes nothing.
    """

    reason: ClassVar[str] = "duplicate"
    """What the list of rejected documents says."""

    def fingerprint(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns for these documents: by name, arrays of len(texts) rows.

        A pure function of each text on its own, equal on every platform; called in the workers.
        """
        return {}

    def find(self, columns: Columns, scratch: Path) -> Duplicates:
        """The documents to drop.

        `scratch` is an existing directory for temporary files, to be deleted after the result is used: some
        back it. What an earlier run left there does not matter.
        """
        raise NotImplementedError
