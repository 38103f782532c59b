"""How long documents are: exact counts of every length, in memory bounded by the lengths that occur."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

SHORT = 2**16
"""Lengths below it are counted in an array, by one numpy call a block; longer documents are few."""
QUANTILES = {"min": 0.0, "p1": 0.01, "p25": 0.25, "median": 0.5, "p75": 0.75, "p99": 0.99, "max": 1.0}


class Bin(NamedTuple):
    """Documents of `low` to `high` tokens, both included."""

    low: int
    high: int
    documents: int


class Lengths(NamedTuple):
    """The lengths that occur, and how often."""

    values: np.ndarray
    """(distinct,) int64, ascending"""
    counts: np.ndarray
    """(distinct,) int64"""

    @classmethod
    def of(cls, blocks: Iterable[np.ndarray]) -> "Lengths":
        """Count lengths that come block by block."""
        short = np.zeros(SHORT, dtype=np.int64)
        long: Counter[int] = Counter()
        for lengths in blocks:
            few = lengths >= SHORT
            long.update(lengths[few].tolist())
            counted = np.bincount(lengths[~few])
            short[: len(counted)] += counted
        values = np.concatenate([np.flatnonzero(short), np.array(sorted(long), dtype=np.int64)])
        return cls(values, np.concatenate([short[short > 0], np.array([long[v] for v in sorted(long)], np.int64)]))

    def quantile(self, q: float) -> int:
        """The shortest length that a share of at least `q` of the documents does not exceed."""
        reached = np.cumsum(self.counts)
        return int(self.values[min(np.searchsorted(reached, q * reached[-1]), len(self.values) - 1)])

    def summary(self) -> dict[str, Any]:
        """Mean and quantiles; empty where there are no documents."""
        if not len(self.values):
            return {}
        mean = float(np.dot(self.values, self.counts) / self.counts.sum())
        return {"mean": mean, **{name: self.quantile(q) for name, q in QUANTILES.items()}}

    def histogram(self) -> list[Bin]:
        """Up to 26 bins whose edges grow by a factor of 2, of its square root, or of its fourth root."""
        if not len(self.values):
            return []
        low, high = max(1, int(self.values[0])), int(self.values[-1])
        octaves = high.bit_length() - low.bit_length() + 1
        steps = 4 if octaves <= 6 else 2 if octaves <= 12 else 1
        first = steps * (low.bit_length() - 1)
        powers = 2 ** (np.arange(first, first + steps * octaves + 1) / steps)
        edges = np.unique(np.ceil(powers - 1e-9).astype(np.int64))
        edges = np.unique([0, *edges]) if self.values[0] == 0 else edges
        inside = np.searchsorted(self.values, edges)
        bins = [
            Bin(int(edges[i]), int(edges[i + 1]) - 1, int(self.counts[inside[i] : inside[i + 1]].sum()))
            for i in range(len(edges) - 1)
        ]
        used = [i for i, bin_ in enumerate(bins) if bin_.documents]
        return bins[used[0] : used[-1] + 1]
