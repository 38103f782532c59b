import hashlib
import random
import re
from itertools import pairwise

import numpy as np
import pytest
from pydantic import TypeAdapter

from data_preprocessing.deduplication import DeduplicationConfig, Duplicates, buckets, minhash
from data_preprocessing.deduplication import shingles as shingles_module
from data_preprocessing.deduplication.buckets import KeyBuckets
from data_preprocessing.deduplication.clusters import Clusters
from data_preprocessing.deduplication.exact import ExactDeduplication
from data_preprocessing.deduplication.minhash import MinhashDeduplication, bands_and_rows
from data_preprocessing.deduplication.shingles import shingles
from modelzoo.base_config import union_of_kinds
from tests.samples import TRICKY


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


def test_a_kind_is_chosen_by_name():
    adapter = TypeAdapter(union_of_kinds("data_preprocessing.deduplication", DeduplicationConfig))
    assert adapter.validate_python({"kind": "exact"}) == ExactDeduplication()
    assert adapter.validate_python({"kind": "minhash", "threshold": 0.7}) == MinhashDeduplication(threshold=0.7)


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


@pytest.mark.parametrize("bucket_rows", [20, 2**18])
def test_a_match_names_the_first_and_the_previous(bucket_rows, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "BUCKET_ROWS", bucket_rows)
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 2**64, 400, dtype=np.uint64)[rng.integers(0, 400, 1000) * rng.integers(0, 2, 1000)]
    by_key = KeyBuckets(tmp_path / "keys", len(keys), key_width=1)
    by_key.add_keys(keys[:900, None], np.arange(900))
    by_key.add_keys(keys[900:, None], np.arange(900, 1000))
    expected, seen = [], {}
    for number, key in enumerate(keys.tolist()):
        if key in seen:
            expected.append((number, *seen[key]))
        seen[key] = (seen.get(key, (number,))[0], number)
    found = [row for match in by_key.matches() for row in zip(*(column.tolist() for column in match), strict=True)]
    assert sorted(found) == expected


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
    (tmp_path / "hashes" / "0").write_bytes(hashes_of(["b"]).tobytes() + bytes(8))  # as if document 0 were b
    first = pairs_of(ExactDeduplication().find(columns, tmp_path))
    assert first == pairs_of(ExactDeduplication().find(columns, tmp_path)) == [(2, 0)]
    assert all(path.is_file() for path in tmp_path.iterdir())  # the buckets are gone


# -- near duplicates


def shingles_by_definition(text, num_words=5):
    words = re.findall(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+", text.lower())
    return [tuple(words[i : i + num_words]) for i in range(max(1, len(words) - num_words + 1))] if words else [text]


def jaccard(first, second):
    return len(first & second) / len(first | second)


def corpus(num_families=60, seed=0):
    """Texts of 40 to 200 words, some with variants in which a few words are replaced, in random order."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 8))) for _ in range(3000)]
    texts = []
    for _ in range(num_families):
        words = rng.choices(vocabulary, k=rng.randint(40, 200))
        texts.append(" ".join(words))
        for _ in range(rng.randint(0, 4)):
            changed = list(words)
            for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5, 10))):
                changed[rng.randrange(len(words))] = rng.choice(vocabulary)
            texts.append(rng.choice((" ", "  ", ", ")).join(changed))
    rng.shuffle(texts)
    return texts


def columns_of(config, texts, sizes):
    """Each chunk fingerprinted on its own, as the workers do."""
    bases = np.cumsum([0, *sizes])
    given = [config.fingerprint(texts[start:stop]) for start, stop in pairwise(bases)]
    joined = {name: np.concatenate([columns[name] for columns in given]) for name in given[0]}
    return Spilled({"hashes": hashes_of(texts), **joined}, sizes)


TEXTS = [
    "",
    " ",
    "one",
    "two words",
    "Two, WORDS!",
    "words two",
    "one two three four five",
    "one two three four five six",
    "no_break under_score 42 x2",
    "ÄÖÜ ß İstanbul ﬁ ΣΊΣΥΦΟΣ naïve cafe\u0301 x\u00b2",
    "a\nb\tc\u00a0d\u3000e",
    "emoji 🙂🙂 between 👩‍👩‍👧 words and \ud800 alone",
    *TRICKY,
    *corpus(5),
]


@pytest.mark.parametrize("num_words", [1, 2, 5])
def test_shingles_are_the_runs_of_words(num_words):
    [(hashes, counts)] = shingles(TEXTS, num_words)
    assert counts.sum() == len(hashes)
    of_hash, of_shingle = {}, {}
    for text, mine in zip(TEXTS, np.split(hashes, np.cumsum(counts)[:-1]), strict=True):
        expected = shingles_by_definition(text, num_words)
        assert len(mine) == len(expected)
        for key, shingle in zip(mine.tolist(), expected, strict=True):  # equal exactly where the shingles are
            assert of_hash.setdefault(key, shingle) == shingle
            assert of_shingle.setdefault(shingle, key) == key
    assert len(of_hash) > 100


def test_wide_letters_are_words():
    def alike(first, second):
        [(first, _)], [(second, _)] = shingles([first], 2), shingles([second], 2)
        return first.tolist() == second.tolist()

    assert alike("機械学習", "機 械 学 習")
    assert alike("GPTを使うx", "gpt を 使 う X")
    assert alike("한국어。𠮷野", "한 국 어 𠮷 野")
    assert not alike("機械学習", "機学械習")
    assert not alike("abcd", "a b c d")


@pytest.mark.parametrize("piece", [50, 100, 700])
def test_shingles_of_long_texts_are_the_same(piece, monkeypatch):
    texts = ["few" + " " * 2000 + "words", "." * 2000, *TEXTS]
    texts = [text for text in texts if max(map(len, re.findall(r"\w+", text)), default=0) < 50]
    config = MinhashDeduplication()
    whole = config.fingerprint(texts)
    monkeypatch.setattr(shingles_module, "PIECE_CHARACTERS", piece)
    for name, column in config.fingerprint(texts).items():
        np.testing.assert_array_equal(column, whole[name])


def test_a_fingerprint_is_of_one_text_alone_and_never_changes():
    config = MinhashDeduplication()
    together = config.fingerprint(TEXTS)
    for index, text in enumerate(TEXTS):
        for name, column in config.fingerprint([text]).items():
            np.testing.assert_array_equal(column[0], together[name][index])
    texts = [text for text in TEXTS[:12] if text.isascii()]  # others follow Python's Unicode tables
    digest = hashlib.sha256()
    for column in config.fingerprint(texts).values():
        digest.update(np.ascontiguousarray(column).astype(column.dtype.newbyteorder("<")).tobytes())
    assert digest.hexdigest() == "29948898f135c6accd593428ea3feed886384cec98125d5f5a4bd9b833888ca1"
    other = MinhashDeduplication(seed=1).fingerprint(TEXTS)
    assert (other["minhash"] != together["minhash"]).mean() > 0.9


@pytest.mark.parametrize("num_shingles", [3, 20, 300])
@pytest.mark.parametrize("num_permutations", [63, 128])
def test_the_estimate_is_as_good_as_theory_says(num_permutations, num_shingles):
    rng = np.random.default_rng(num_shingles)
    config = MinhashDeduplication(num_permutations=num_permutations)
    errors, deviations = [], []
    for _ in range(300):
        num_common = int(rng.integers(0, num_shingles + 1))
        words = [f"w{number}" for number in rng.integers(0, 10**9, 2 * num_shingles - num_common)]
        first, second = words[:num_shingles], words[num_shingles - num_common :]
        truth = num_common / len(words)
        minima = config._minima(*next(shingles([" ".join(first), " ".join(second)], 1)))
        low = (minima * np.uint32(0x9E3779B1)) >> np.uint32(24)
        errors.append(float(minhash._similarity(low[:1].astype(np.uint8), low[1:].astype(np.uint8))[0]) - truth)
        deviations.append((truth * (1 - truth) / num_permutations) ** 0.5)
    assert np.abs(errors).mean() < 1.2 / num_permutations**0.5
    assert np.sqrt(np.mean(np.square(errors))) < 1.15 * np.sqrt(np.mean(np.square(deviations)))
    assert abs(np.mean(errors)) < 4 * np.sqrt(np.mean(np.square(deviations)) / len(errors))  # no bias


def test_unrelated_signatures_have_no_similarity():
    first, second = np.random.default_rng(0).integers(0, 256, (2, 5000, 128), dtype=np.uint8)
    assert abs(minhash._similarity(first, second).mean()) < 5e-4
    assert (minhash._similarity(first, first) == 1).all()


def test_bands_are_those_that_datasketch_chooses(monkeypatch):
    monkeypatch.setattr(minhash, "MISS_WEIGHT", 1)
    bands_and_rows.cache_clear()
    chosen = [bands_and_rows(threshold, 128) for threshold in (0.5, 0.7, 0.8, 0.9)]
    bands_and_rows.cache_clear()
    assert chosen == [(25, 5), (14, 9), (9, 13), (5, 25)]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_near_duplicates_are_found_and_others_are_not(threshold, tmp_path):
    texts = corpus()
    sets = [set(shingles_by_definition(text)) for text in texts]
    similarity = np.array([[jaccard(first, second) for first in sets] for second in sets])
    config = MinhashDeduplication(threshold=threshold)
    found = config.find(columns_of(config, texts, [len(texts)]), tmp_path)
    pairs = pairs_of(found)
    original = np.arange(len(texts))
    original[found.duplicate] = found.original
    assert all(kept < dropped and original[kept] == kept for dropped, kept in pairs)
    for dropped, kept in pairs:  # a link of the cluster may be another one than the first
        cluster = np.flatnonzero((original == kept) & (np.arange(len(texts)) != dropped))
        assert similarity[dropped, cluster].max() > threshold - 0.15
    alike = np.argwhere(np.triu(similarity >= min(threshold + 0.1, 1), k=1))
    assert len(alike) > 20
    assert (original[alike[:, 0]] == original[alike[:, 1]]).mean() >= 0.95


def test_a_shared_band_is_not_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(minhash, "bands_and_rows", lambda threshold, num_permutations: (num_permutations, 1))
    texts = corpus(20)
    sets = [set(shingles_by_definition(text)) for text in texts]
    config = MinhashDeduplication(threshold=0.9)
    compared = []
    monkeypatch.setattr(
        minhash, "_similarity", lambda a, b, of=minhash._similarity: compared.append(of(a, b)) or of(a, b)
    )
    found = config.find(columns_of(config, texts, [len(texts)]), tmp_path)
    assert (np.concatenate(compared) < 0.7).sum() > 10
    original = np.arange(len(texts))
    original[found.duplicate] = found.original
    for dropped in found.duplicate:
        cluster = np.flatnonzero((original == original[dropped]) & (np.arange(len(texts)) != dropped))
        assert max(jaccard(sets[dropped], sets[other]) for other in cluster) > 0.75


def test_each_pair_of_a_band_is_a_candidate_once(tmp_path):
    bands = np.random.default_rng(0).integers(0, 60, (200, 4)).astype(np.uint64)
    bands = minhash.mix(bands * np.uint64(4) + np.arange(4, dtype=np.uint64))
    exact = Duplicates(np.array([7, 90]), np.array([3, 0]))
    expected = set()
    for band in bands.T:
        for key in np.unique(band):
            numbers = [number for number in np.flatnonzero(band == key).tolist() if number not in (7, 90)]
            expected |= {(numbers[0], number) for number in numbers[1:]} | set(pairwise(numbers))
    columns = Spilled({"minhash_bands": bands}, [50, 150])
    found = [
        pair
        for first, second in minhash._candidates(columns, tmp_path, exact, 4)
        for pair in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize("chunking", CHUNKINGS)
@pytest.mark.parametrize("small", [False, True])
def test_chunks_and_sizes_in_memory_change_nothing(chunking, small, tmp_path, monkeypatch):
    texts = ["the same " * 30, *corpus(30, seed=1), "the same " * 30, "no", "No!", "...", "...", "!", "no"]
    config = MinhashDeduplication(num_permutations=64)
    (tmp_path / "reference").mkdir()
    reference = pairs_of(config.find(columns_of(config, texts, [len(texts)]), tmp_path / "reference"))
    if small:
        monkeypatch.setattr(buckets, "BUCKET_ROWS", 40)
        monkeypatch.setattr(minhash, "PAIRS_AT_ONCE", 3)
        monkeypatch.setattr(minhash, "SHINGLES_AT_ONCE", 11)
        monkeypatch.setattr("data_preprocessing.deduplication.clusters.ROWS_AT_ONCE", 10)
    found = config.find(columns_of(config, texts, CHUNKINGS[chunking](len(texts))), tmp_path)
    assert pairs_of(found) == reference
    n = len(texts)
    assert [pair for pair in reference if pair[0] >= n - 7] == [
        (n - 7, 0),  # exact
        (n - 5, n - 6),  # equal words
        (n - 3, n - 4),  # without words: exact copies alone
        (n - 1, n - 6),  # exact copy of the first of its cluster
    ]


def test_every_document_much_like_the_first_costs_two_comparisons(tmp_path, monkeypatch):
    compared = []
    monkeypatch.setattr(
        minhash, "_similarity", lambda a, b, of=minhash._similarity: compared.append(len(a)) or of(a, b)
    )
    body = " ".join(f"word{number}" for number in range(100))
    config = MinhashDeduplication(num_permutations=32)
    texts = [f"{body} {number}" for number in range(300)]
    found = config.find(columns_of(config, texts, [300]), tmp_path)
    assert found.original.tolist() == [0] * 299
    num_bands, _ = bands_and_rows(config.threshold, 32)
    assert sum(compared) <= 2 * num_bands * 300


@pytest.mark.parametrize("num_pairs", [1, 5, 20, 40, 100])
def test_clusters_are_the_connected_components(num_pairs, tmp_path):
    rng = np.random.default_rng(num_pairs)
    chain = np.arange(30)
    for first, second in [*rng.integers(0, 30, (20, 2, num_pairs)), (chain[:-1], chain[1:])]:
        expected = np.arange(30)
        for a, b in [(29, 0), *zip(first, second, strict=True)]:
            a, b = expected[a], expected[b]
            expected[expected == max(a, b)] = min(a, b)
        clusters = Clusters(tmp_path / "clusters", 30, Duplicates(np.array([29]), np.array([0])))
        for part in range(2):  # the second call joins what the first made
            clusters.unite(first[part::2], second[part::2])
        assert not clusters.apart(first, second).any()
        found = clusters.duplicates(tmp_path)
        original = np.arange(30)
        original[found.duplicate] = found.original
        np.testing.assert_array_equal(original, expected)


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1.5])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        MinhashDeduplication(threshold=threshold)
