"""The order of the samples: a pure function of (seed, epoch, index), computed without a table.

A Feistel network over the pairs (x, y) of [0, a) x [0, b) adds to one half a keyed hash of the other, so
each round, and hence the whole, is one-to-one. a * b exceeds the length by less than a, and the few
indices that land beyond it walk on until they are back inside (cycle walking; Black and Rogaway, 2002).
"""

import hashlib
import math

import numpy as np

ROUNDS = 8
SUBSET_SEED = 0
"""Of the choice of a part of the rows: the part belongs to the data, so a run's seed does not change it."""
ORDER_BLOCK = 8192
"""Indices permuted at a time: a batch of 32 on its own would pay numpy's cost per call each step."""


def locate(sample: int, length: int) -> tuple[int, int]:
    """The (epoch, index in the epoch) of the sample-th sample of a run over `length` windows an epoch."""
    return divmod(sample, length)


def permute(index: np.ndarray | int, length: int, seed: int, epoch: int) -> np.ndarray:
    """Where each index of [0, length) stands in the order of this epoch: a permutation of [0, length).

    Args:
        index: any shape, values in [0, length).
        length: number of windows, at least 1 and below 2**62.
        seed: any integer.
        epoch: any integer.

    Returns:
        int64, of index's shape (one-dimensional for an int).
    """
    position = np.atleast_1d(np.asarray(index, dtype=np.int64))
    assert 1 <= length < 2**62, length
    assert position.size == 0 or (position.min() >= 0 and position.max() < length), (index, length)
    a = math.isqrt(length - 1) + 1
    b = -(-length // a)
    keys = _keys(length, seed, epoch)
    position = _network(position.astype(np.uint64), a, b, keys)
    while (outside := position >= length).any():
        position[outside] = _network(position[outside], a, b, keys)
    return position.astype(np.int64)


def _network(position: np.ndarray, a: int, b: int, keys: np.ndarray) -> np.ndarray:
    x, y = np.divmod(position, np.uint64(b))
    for round_, key in enumerate(keys):
        if round_ % 2:
            y = (y + _hash(x, key)) % np.uint64(b)
        else:
            x = (x + _hash(y, key)) % np.uint64(a)
    return x * np.uint64(b) + y


def _hash(value: np.ndarray, key: np.uint64) -> np.ndarray:
    """splitmix64's finalizer of value and key, 63 bits: the sum with a half must not overflow."""
    mixed = (value ^ key) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(32)
    return mixed >> np.uint64(1)


def _keys(length: int, seed: int, epoch: int) -> np.ndarray:
    digest = hashlib.blake2b(f"{length} {seed} {epoch}".encode(), digest_size=8 * ROUNDS).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


class Order:
    """Which row each sample of a run is: epoch after epoch, each in an order of its own, or all as they are stored."""

    def __init__(self, length: int, seed: int, shuffle: bool = True, out_of: int | None = None) -> None:
        """`length` rows an epoch. With `out_of` they are a part of so many, drawn alike for every seed; without
        `shuffle` the first of them."""
        assert out_of is None or length <= out_of, (length, out_of)
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.out_of = out_of
        self._kept: tuple[tuple[int, int], np.ndarray] | None = None

    def rows(self, first: int, count: int) -> np.ndarray:
        """The rows of `count` consecutive samples, (count,) int64."""
        parts = [np.empty(0, dtype=np.int64)]
        while count:
            epoch, index = locate(first, self.length)
            block, offset = divmod(index, ORDER_BLOCK)
            part = self._block(epoch, block)[offset : offset + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return np.concatenate(parts)

    def _block(self, epoch: int, block: int) -> np.ndarray:
        """The order of up to ORDER_BLOCK consecutive indices of an epoch; the last one asked for is kept."""
        if self._kept is None or self._kept[0] != (epoch, block):
            rows = np.arange(block * ORDER_BLOCK, min((block + 1) * ORDER_BLOCK, self.length))
            if self.shuffle:
                rows = permute(rows, self.length, self.seed, epoch)
                if self.out_of is not None:
                    rows = permute(rows, self.out_of, SUBSET_SEED, 0)
            self._kept = ((epoch, block), rows)
        return self._kept[1]
