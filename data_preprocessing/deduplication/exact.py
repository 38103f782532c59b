"""Documents with equal content."""

from pathlib import Path
from typing import Literal

import numpy as np

from data_preprocessing.deduplication import Columns, DeduplicationConfig, Duplicates
from data_preprocessing.deduplication.buckets import Buckets, DuplicatesWriter, KeyBuckets, blocks


class ExactDeduplication(DeduplicationConfig):
    """Drop every document whose content, byte for byte, an earlier one has.

    Contents are compared by 128 bits of sha256: two different ones among a billion documents share them
    with a probability of 1e-21.
    """

    kind: Literal["exact"] = "exact"

    def find(self, columns: Columns, scratch: Path) -> Duplicates:
        num_documents = sum(columns.num_documents)
        by_hash = KeyBuckets(scratch / "hashes", num_documents, key_width=2)
        for start, hashes in blocks(columns, "hashes"):
            by_hash.add_keys(hashes, np.arange(start, start + len(hashes)))
        by_number = Buckets(scratch / "duplicates", num_documents, width=2)
        for number, first, _ in by_hash.matches():
            rows = np.column_stack((number, first)).astype(np.uint64)
            by_number.add(rows, number * by_number.num_buckets // num_documents)
        with DuplicatesWriter(scratch) as writer:
            for bucket in by_number:
                duplicate, original = np.concatenate(list(bucket)).astype(np.int64).T
                order = np.argsort(duplicate)
                writer.add(duplicate[order], original[order])
        return writer.duplicates()
