import hashlib

import numpy as np
import pytest

from data_preprocessing.deduplication import DeduplicationConfig, Duplicates, buckets
from data_preprocessing.deduplication.exact import ExactDeduplication
from modelzoo.base_config import union_of_kinds


class Spilled:
    """Columns in memory, of chunks of the given sizes."""

    def __init__(self, columns, sizes):
        self.columns, self.num_documents = columns, sizes
        self.bases = np.cumsum([0, *sizes])
        assert all(len(column) == self.bases[-1] for column in columns.values())

    def read(self, chunk, name, start=0, stop=None):
        stop = self.num_documents[chunk] if stop is None else stop
        assert 0 <= start <= stop <= self.num_documents[chunk]
        return self.columns[name][self.bases[chunk] + start : self.bases[chunk] + stop]


def hashes_of(texts):
    """(len(texts), 2) uint64"""
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def expected(keys):
    """Duplicates by a dictionary of the first document with each key."""
    first, pairs = {}, []
    for number, key in enumerate(keys):
        if first.setdefault(key, number) != number:
            pairs.append((number, first[key]))
    return pairs


def pairs_of(duplicates: Duplicates):
    assert duplicates.duplicate.dtype == duplicates.original.dtype == np.int64
    return list(zip(duplicates.duplicate.tolist(), duplicates.original.tolist(), strict=True))


CHUNKINGS = {
    "one": lambda n: [n],
    "single": lambda n: [1] * n,
    "uneven": lambda n: [0, n // 3, 0, 0, 1, n - n // 3 - 1, 0],
    "sevens": lambda n: [7] * (n // 7) + [n % 7],
}


def test_both_kinds_are_found():
    assert "exact" in str(union_of_kinds("data_preprocessing.deduplication", DeduplicationConfig)).lower()


@pytest.mark.parametrize("bucket_rows", [1, 4, 50, 2**19])
@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_the_first_of_equal_documents_is_kept(chunking, bucket_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "BUCKET_ROWS", bucket_rows)
    # some once, some often, one in a third of all
    draws = np.random.default_rng(0).integers(0, 150, 300)
    texts = ["everywhere" if index % 3 == 1 else f"text {draw}" for index, draw in enumerate(draws)]
    columns = Spilled({"hashes": hashes_of(texts)}, CHUNKINGS[chunking](len(texts)))
    found = ExactDeduplication().find(columns, tmp_path)
    assert len(found.duplicate) > 150
    assert pairs_of(found) == expected(texts)
    kept = found.kept(0, len(texts))
    assert [text for text, keep in zip(texts, kept, strict=True) if keep] == list(dict.fromkeys(texts))
    np.testing.assert_array_equal(found.kept(100, 217), kept[100:217])


@pytest.mark.parametrize("same", [0, 1])
def test_both_halves_of_the_hash_decide(same, tmp_path):
    hashes = np.array([[5, 6], [5, 6], [5, 6]], np.uint64)
    hashes[1, 1 - same] = 7
    found = ExactDeduplication().find(Spilled({"hashes": hashes}, [3]), tmp_path)
    assert pairs_of(found) == [(2, 0)]


@pytest.mark.parametrize("sizes", [[], [0], [1], [5]])
def test_nothing_to_drop(sizes, tmp_path):
    hashes = hashes_of([str(number) for number in range(sum(sizes))])
    found = ExactDeduplication().find(Spilled({"hashes": hashes}, sizes), tmp_path)
    assert pairs_of(found) == []
    assert found.kept(0, sum(sizes)).all()


def test_scratch_may_hold_what_a_killed_run_left(tmp_path):
    columns = Spilled({"hashes": hashes_of(["a", "b", "a"])}, [3])
    (tmp_path / "hashes").mkdir()
    (tmp_path / "hashes" / "0").write_bytes(b"\0" * 24)
    first = pairs_of(ExactDeduplication().find(columns, tmp_path))
    assert first == pairs_of(ExactDeduplication().find(columns, tmp_path)) == [(2, 0)]
    assert all(path.is_file() for path in tmp_path.iterdir())  # the buckets are gone
