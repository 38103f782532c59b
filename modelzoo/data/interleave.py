"""Which source of a mixture each sample of a run comes from, as a closed form of the sample's number. No torch.

`Interleave` serves weights that stay. The sources are the leaves of a balanced binary tree. A node hands the n
samples it has had so far on as round(n·p) to its left and the others to its right side, p being the left side's
part of the node's weight; either number grows by one or not at all with each sample. Each level adds half a sample
of error at most, so after any number of samples no source is further from its share than half the tree's height.

`Plan` serves weights that change, and sources that end. It cuts the run into segments, each with an `Interleave` of
its own, and knows what each source has given before each of them: a sample is found by bisection. Where shares go
in a straight line, there is a segment for every step, or MAX_SEGMENTS of many steps, each with the shares of its
middle, hence with just what the line gives over the segment; what rounding leaves owed, the next segment pays.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from modelzoo.data.weights import Stretch

UNIT = 2**32
"""Shares are kept in this many parts; rounding them moves a source by one sample in a billion at most."""
MAX_SEGMENTS = 1024
"""Of one stretch: within a segment of n samples a source is then at most n/8,000 from its line."""


class Interleave:
    """Which source each sample comes from, and how many of that source came before it."""

    def __init__(self, weights: Sequence[float]) -> None:
        """`weights` are positive and need not sum to 1."""
        assert min(weights) > 0, weights
        self.weights = list(weights)
        self._known: dict[tuple[int, int], int] = {}

    def locate(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source (n,) of each sample (n,), and the sample's number among that source's."""
        samples = np.asarray(samples, dtype=np.uint64)
        source = np.zeros(len(samples), dtype=np.int64)
        number = np.zeros(len(samples), dtype=np.int64)

        def descend(low: int, high: int, where: np.ndarray, index: np.ndarray) -> None:
            if high - low == 1:
                source[where], number[where] = low, index
            elif len(where):
                before = self._left(low, high, index)
                goes_left = self._left(low, high, index + np.uint64(1)) > before
                descend(low, (low + high) // 2, where[goes_left], before[goes_left])
                descend((low + high) // 2, high, where[~goes_left], (index - before)[~goes_left])

        descend(0, len(self.weights), np.arange(len(samples)), samples)
        return source, number

    def counts(self, num_samples: int) -> list[int]:
        """How many of the first `num_samples` come from each source."""

        def descend(low: int, high: int, count: int) -> list[int]:
            if high - low == 1:
                return [count]
            left = (count * self._share(low, high) + UNIT // 2) >> 32
            middle = (low + high) // 2
            return descend(low, middle, left) + descend(middle, high, count - left)

        return descend(0, len(self.weights), num_samples)

    def samples_until(self, source: int, count: int) -> int:
        """How many samples of the run it takes until `count` have come from this source."""
        high = 1
        while self.counts(high)[source] < count:
            high *= 2
        low = high // 2
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.counts(middle)[source] < count else (low, middle)
        return high

    def _left(self, low: int, high: int, count: np.ndarray) -> np.ndarray:
        """round(count · p) in 64 bits: the counts' upper half apart from the lower one, for both to fit."""
        share = np.uint64(self._share(low, high))
        half, shift, mask = np.uint64(UNIT // 2), np.uint64(32), np.uint64(UNIT - 1)
        return np.asarray((count >> shift) * share + (((count & mask) * share + half) >> shift))

    def _share(self, low: int, high: int) -> int:
        """p of a node, in parts of UNIT."""
        if (low, high) not in self._known:
            left, both = sum(self.weights[low : (low + high) // 2]), sum(self.weights[low:high])
            self._known[low, high] = min(max(round(UNIT * left / both), 1), UNIT - 1)
        return self._known[low, high]


class Segment(NamedTuple):
    """Samples of a run over which the weights stay."""

    start: int
    """Its first sample."""
    before: tuple[int, ...]
    """Samples that each source has given before it."""
    sources: tuple[int, ...]
    """Those that give samples here, as the interleave numbers them."""
    interleave: Interleave


class Plan:
    """`Interleave` for weights that change over the run, and for sources that end."""

    def __init__(self, stretches: Sequence[Stretch], batch_size: int, limits: Sequence[int | None]) -> None:
        """`stretches` in steps of `batch_size` samples. A source ends once it has given as many samples as its
        limit says, and the others take its part."""
        self.segments: list[Segment] = []
        self.end: int | None = None
        """The sample after which all sources have ended."""
        self._limits = list(limits)
        self._owed = [0.0] * len(limits)
        self._taken = [0] * len(limits)
        for stretch in stretches:
            for first, stop, shares in _pieces(stretch):
                self._add(first * batch_size, None if stop is None else stop * batch_size, shares)
        self._starts = [segment.start for segment in self.segments]

    def locate(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The source (n,) of each of these samples, and the sample's number among that source's."""
        assert self.end is None or stop <= self.end, (stop, self.end)
        parts = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        while start < stop:
            at = bisect_right(self._starts, start) - 1
            segment = self.segments[at]
            until = min(stop, self._starts[at + 1]) if at + 1 < len(self.segments) else stop
            local, number = segment.interleave.locate(np.arange(start - segment.start, until - segment.start))
            source = np.array(segment.sources)[local]
            parts.append((source, number + np.array(segment.before)[source]))
            start = until
        sources, numbers = zip(*parts, strict=True)
        return np.concatenate(sources), np.concatenate(numbers)

    def counts(self, num_samples: int) -> list[int]:
        """How many of the first `num_samples` come from each source."""
        assert self.end is None or num_samples <= self.end, (num_samples, self.end)
        segment = self.segments[max(0, bisect_left(self._starts, num_samples) - 1)]
        counts = list(segment.before)
        for source, count in zip(segment.sources, segment.interleave.counts(num_samples - segment.start), strict=True):
            counts[source] += count
        return counts

    def samples_until(self, source: int, count: int) -> int | None:
        """How many samples of the run it takes until `count` have come from this source; None: they never do."""
        at = bisect_left(self.segments, count, key=lambda segment: segment.before[source]) - 1
        if at < 0:
            return 0
        segment = self.segments[at]
        if source not in segment.sources or (self.end is not None and self.counts(self.end)[source] < count):
            return None
        local = segment.sources.index(source)
        return segment.start + segment.interleave.samples_until(local, count - segment.before[source])

    def _add(self, start: int, stop: int | None, shares: Sequence[float]) -> None:
        """The segments of samples with these shares: one, and another after each source that ends in it."""
        position: int | None = start
        while position != stop and self.end is None:
            assert position is not None
            sources = [i for i, share in enumerate(shares) if share > 0 and self._taken[i] != self._limits[i]]
            if sources:
                total = sum(shares[i] for i in sources)
                position = self._add_segment(position, stop, {i: shares[i] / total for i in sources})
            else:
                self.end = position

    def _add_segment(self, start: int, stop: int | None, shares: dict[int, float]) -> int | None:
        """Add a segment and return where it ends: at `stop`, or where the first of its sources does."""
        parts: dict[int, float] = shares
        if stop is not None:
            due = [self._owed[i] + share * (stop - start) for i, share in shares.items()]
            parts = {i: part for i, part in zip(shares, apportion(due, stop - start), strict=True) if part}
        interleave = Interleave(list(parts.values()))
        self.segments.append(Segment(start, tuple(self._taken), tuple(parts), interleave))
        for local, i in enumerate(parts):
            limit = self._limits[i]
            if limit is not None:
                left = limit - self._taken[i]
                if stop is None or interleave.counts(stop - start)[local] >= left:
                    stop = start + interleave.samples_until(local, left)
        if stop is not None:
            for i, share in shares.items():
                self._owed[i] += share * (stop - start)
            for i, count in zip(parts, interleave.counts(stop - start), strict=True):
                self._taken[i] += count
                self._owed[i] -= count
        return stop


def apportion(due: Sequence[float], total: int) -> list[int]:
    """Whole numbers that sum to `total`, near those that are due (largest remainders)."""
    parts = [max(0, math.floor(each)) for each in due]
    most_due = sorted(range(len(due)), key=lambda i: parts[i] - due[i])
    while missing := total - sum(parts):
        if missing > 0:
            for i in most_due[:missing]:
                parts[i] += 1
        else:  # debts of others were forgiven: those that are owed least give
            for i in [i for i in reversed(most_due) if parts[i]][:-missing]:
                parts[i] -= 1
    return parts


def _pieces(stretch: Stretch) -> Iterator[tuple[int, int | None, tuple[float, ...]]]:
    """Steps of a stretch over which its shares are taken to stay, and those shares."""
    if stretch.stop is None or stretch.start == stretch.end:
        yield stretch.first, stretch.stop, stretch.start
        return
    steps = stretch.stop - stretch.first
    number = min(steps, MAX_SEGMENTS)
    cuts = [stretch.first + steps * cut // number for cut in range(number + 1)]
    for first, stop in pairwise(cuts):
        yield first, stop, stretch.at((first + stop) / 2)
