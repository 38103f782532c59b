"""Documents that are nearly equal: MinHash signatures, locality-sensitive hashing, then clusters.

Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman, Ullman, "Mining of Massive
Datasets", chapter 3; b-bit signatures: Li and König (2010).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, reduce
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from data_preprocessing.deduplication import Columns, DeduplicationConfig, Duplicates
from data_preprocessing.deduplication.buckets import Buckets, KeyBuckets, blocks
from data_preprocessing.deduplication.clusters import Clusters
from data_preprocessing.deduplication.exact import ExactDeduplication
from data_preprocessing.deduplication.shingles import groups, mix, shingles

MISS_WEIGHT = 9
"""A similar pair that is never compared is lost; a comparison in vain costs a little time."""
SHINGLES_AT_ONCE = 2**10
PAIRS_AT_ONCE = 2**17


class MinhashDeduplication(DeduplicationConfig):
    """Drop documents that are copies, or nearly, of an earlier one.

    The similarity of two documents is the Jaccard index of their sets of shingles (see `ngram_words`), estimated
    from MinHash signatures. Documents that are linked by similar pairs form a cluster; the first of it is kept.
    Exact duplicates go too. Pairs are looked for among documents that share a band of their signatures; each is
    compared with the first document of its band and with the one before, so that a text that is everywhere
    costs no more than any other.
    """

    kind: Literal["minhash"] = "minhash"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Similarity from which a pair is alike."""
    num_permutations: Annotated[int, Field(ge=16, le=1024)] = 128
    """Size of a signature. The estimate's standard error is sqrt(s (1 - s) / num_permutations) at similarity s."""
    ngram_words: Annotated[int, Field(ge=1, le=100)] = 5
    """A shingle is a run of so many words. Words are the runs of letters, digits and `_` of the lower-cased
    text, and each Chinese, Japanese or Korean letter. A document of fewer words is one shingle; one without
    words is alike only to its exact copies."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the permutations."""

    def fingerprint(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """`minhash_bands` (len(texts), bands) uint64, `minhash` (len(texts), num_permutations) uint8."""
        num_bands, num_rows = bands_and_rows(self.threshold, self.num_permutations)
        bands = np.empty((len(texts), num_bands), np.uint64)
        signature = np.empty((len(texts), self.num_permutations), np.uint8)
        for group in groups(texts):
            parts = shingles(texts[group], self.ngram_words)
            minima = reduce(np.minimum, (self._minima(*part) for part in parts))
            bands[group] = _band_keys(minima, num_bands, num_rows)
            # 8 bits of a hash of the minimum are enough to compare, see `_similarity`
            signature[group] = (minima * np.uint32(0x9E3779B1)) >> np.uint32(24)
        return {"minhash_bands": bands, "minhash": signature}

    def find(self, columns: Columns, scratch: Path) -> Duplicates:
        num_documents = sum(columns.num_documents)
        if not num_documents:
            return Duplicates(np.empty(0, np.int64), np.empty(0, np.int64))
        num_bands, _ = bands_and_rows(self.threshold, self.num_permutations)
        (scratch / "exact").mkdir(exist_ok=True)
        exact = ExactDeduplication().find(columns, scratch / "exact")
        clusters = Clusters(scratch / "clusters", num_documents, exact)
        for first, second in _candidates(columns, scratch, exact, num_bands):
            apart = clusters.apart(first, second)
            if not apart.any():
                continue
            first, second = first[apart], second[apart]
            similarity = _similarity(_rows(columns, "minhash", first), _rows(columns, "minhash", second))
            alike = similarity >= self.threshold
            clusters.unite(first[alike], second[alike])
        return clusters.duplicates(scratch)

    def _minima(self, hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The signatures (len(counts), num_permutations) uint32 of sets of `counts` shingles each."""
        multiplier, offset = _permutations(self.num_permutations, self.seed)
        owner = np.repeat(np.arange(len(counts)), counts)
        minima = np.full((self.num_permutations, len(counts)), np.iinfo(np.uint32).max, np.uint32)
        # Each half of the permutations has its own 32 bits of the hash: with the same ones for all, two documents
        # of one shingle each would be taken for equal once in 2**32 pairs, and a corpus has more pairs than that.
        halves = np.array_split(np.arange(self.num_permutations), 2)
        bits = ((hashes >> np.uint64(32)).astype(np.uint32), hashes.astype(np.uint32))
        permuted = np.empty((self.num_permutations, SHINGLES_AT_ONCE), np.uint32)
        for start in range(0, len(hashes), SHINGLES_AT_ONCE):
            part = slice(start, start + SHINGLES_AT_ONCE)
            owners = owner[part]
            values = permuted[:, : len(owners)]
            for half, half_bits in zip(halves, bits, strict=True):
                np.multiply(half_bits[part], multiplier[half], out=values[half[0] : half[-1] + 1])
            values += offset
            starts = np.flatnonzero(np.diff(owners, prepend=-1))
            lowest = np.minimum.reduceat(values, starts, axis=1)
            np.minimum(lowest[:, 0], minima[:, owners[0]], out=lowest[:, 0])  # begun in the part before
            minima[:, owners[starts]] = lowest
        return minima.T


@lru_cache
def _permutations(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of 32 bits: x * multiplier + offset modulo 2**32, both (num, 1) uint32, the multiplier odd."""
    drawn = mix(mix(np.arange(2 * num, dtype=np.uint64)) + np.uint64(seed)).astype(np.uint32)
    return drawn[:num, None] | np.uint32(1), drawn[num:, None]


@lru_cache
def bands_and_rows(threshold: float, num_permutations: int) -> tuple[int, int]:
    """How a signature is cut: documents are compared when all rows of at least one band are equal.

    With similarity s that happens with probability 1 - (1 - s**rows)**bands. The choice makes least of
    comparisons in vain below the threshold plus, MISS_WEIGHT times, misses above it, all similarities alike.
    """
    similarity = (np.arange(1000) + 0.5) / 1000
    weight = np.where(similarity < threshold, -1, MISS_WEIGHT)

    def cost(bands: int, rows: int) -> float:
        # the weighted misses, all but for a constant
        return float((weight * (1 - similarity**rows) ** bands).sum())

    all_rows = range(1, num_permutations + 1)
    choices = [(bands, rows) for rows in all_rows for bands in range(1, num_permutations // rows + 1)]
    return min(choices, key=lambda choice: cost(*choice))


def _band_keys(minima: np.ndarray, num_bands: int, num_rows: int) -> np.ndarray:
    """(documents, num_bands) uint64, equal where all rows of the band are."""
    keys = np.tile(np.arange(num_bands, dtype=np.uint64), (len(minima), 1))
    for row in range(num_rows):
        keys = mix(keys * np.uint64(0x9E3779B97F4A7C15) + minima[:, row : num_bands * num_rows : num_rows])
    return keys


def _similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Estimated Jaccard index (pairs,) of signatures (pairs, num_permutations) uint8."""
    equal = (first == second).mean(axis=1)
    return (equal - 1 / 256) / (1 - 1 / 256)  # different minima share their 8 bits once in 256


def _candidates(
    columns: Columns, scratch: Path, exact: Duplicates, num_bands: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of documents that share a band, (n,) int64 each, n up to PAIRS_AT_ONCE, the earlier document first."""
    num_documents = sum(columns.num_documents)
    by_band = KeyBuckets(scratch / "bands", (num_documents - len(exact.duplicate)) * num_bands, key_width=1)
    for block_start, block in blocks(columns, "minhash_bands"):
        for bands in np.array_split(block, num_bands):  # as many rows at a time as a block has
            numbers = block_start + np.flatnonzero(exact.kept(block_start, block_start + len(bands)))
            by_band.add_keys(
                np.take(bands, numbers - block_start, axis=0).reshape(-1, 1), np.repeat(numbers, num_bands)
            )
            block_start += len(bands)
    # a pair may share several bands: sorted, it is compared once
    by_number = Buckets(scratch / "pairs", num_documents, width=2)
    for number, first, previous in by_band.matches():
        between = previous != first
        later = np.append(number, number[between])
        pairs = np.column_stack((later, np.append(first, previous[between]))).astype(np.uint64)
        by_number.add(pairs, later * by_number.num_buckets // num_documents)
    for bucket in by_number:
        for rows in bucket:
            rows = rows[np.lexsort(rows.T)].astype(np.int64)
            rows = rows[np.append(True, (rows[1:] != rows[:-1]).any(axis=1))]
            for start in range(0, len(rows), PAIRS_AT_ONCE):
                number, earlier = rows[start : start + PAIRS_AT_ONCE].T
                yield earlier, number


def _rows(columns: Columns, name: str, numbers: np.ndarray) -> np.ndarray:
    """The rows of a column that belong to the documents `numbers` (n,), in any order; n at least 1."""
    order = np.argsort(numbers)
    ascending = numbers[order]
    bases = np.cumsum([0, *columns.num_documents])
    bounds = np.searchsorted(ascending, bases)
    rows: np.ndarray | None = None
    for chunk in np.flatnonzero(np.diff(bounds)).tolist():
        part = slice(bounds[chunk], bounds[chunk + 1])
        local = ascending[part] - bases[chunk]
        found = columns.read(chunk, name, int(local[0]), int(local[-1]) + 1)[local - local[0]]
        if rows is None:
            rows = np.empty((len(numbers), *found.shape[1:]), found.dtype)
        rows[order[part]] = found
    assert rows is not None
    return rows
