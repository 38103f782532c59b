"""Which documents of all chunks are written: limits and duplicates, decided over the whole in reading order."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_preprocessing.config import Limits, PreprocessConfig
from data_preprocessing.deduplication import Duplicates
from data_preprocessing.readers import Place
from data_preprocessing.spill import USED, Spill


class Taken(NamedTuple):
    """One chunk as it is taken into the dataset."""

    spill: Spill
    source: str
    num_records: int
    """Records that count; those after them are beyond a limit."""
    num_documents: int
    """Documents among them."""


class Limiter:
    """Takes chunks in reading order until the limits are reached."""

    def __init__(self, config: PreprocessConfig) -> None:
        self._limits: dict[str, list[_Limit]] = {}
        everything = _Limit(config)
        for name, source in config.named_sources.items():
            self._limits[name] = [everything, _Limit(source)]
        self._everything = everything

    @property
    def any_set(self) -> bool:
        """There is a limit at all."""
        return any(limit.is_set for limits in self._limits.values() for limit in limits)

    @property
    def reached(self) -> bool:
        """Nothing more is taken, of any source."""
        return self._everything.reached or all(self.reached_by(source) for source in self._limits)

    def reached_by(self, source: str) -> bool:
        """Nothing more is taken of this source."""
        return any(limit.reached for limit in self._limits[source])

    def take(self, spill: Spill, source: str) -> Taken:
        """The part of the next chunk that is within the limits, which are not reached yet."""
        assert not self.reached_by(source), source
        counts = spill.counts
        limits = [limit for limit in self._limits[source] if limit.is_set]
        if not limits:
            return Taken(spill, source, counts.records, counts.documents)
        used = np.flatnonzero(spill.read("status") == USED)  # the record of each document
        num_bytes = np.cumsum(spill.read("bytes_in")[used])
        tokens = np.cumsum(tokens_of_documents(spill))
        taken = min(limit.documents_within(num_bytes, tokens) for limit in limits)
        for limit in limits:
            limit.count(taken, num_bytes, tokens)
        at_end = taken == len(used) and not any(limit.reached for limit in limits)
        records = counts.records if at_end else int(used[taken - 1]) + 1 if taken else 0
        return Taken(spill, source, records, taken)


class _Limit:
    """How much of what one `Limits` allows has been taken."""

    def __init__(self, limits: Limits) -> None:
        self._max = (limits.max_documents, limits.max_bytes, limits.max_tokens)
        self._taken = [0, 0, 0]
        self.is_set = any(self._max)

    @property
    def reached(self) -> bool:
        return any(most is not None and taken >= most for most, taken in zip(self._max, self._taken, strict=True))

    def documents_within(self, num_bytes: np.ndarray, tokens: np.ndarray) -> int:
        """Of so many documents, with these running sums, those up to the one that reaches the limit."""
        sums = (np.arange(1, len(tokens) + 1), num_bytes, tokens)
        within = len(tokens)
        for most, before, running in zip(self._max, self._taken, sums, strict=True):
            if most is not None:
                within = min(within, int(np.searchsorted(running, most - before)) + 1)
        return within

    def count(self, taken: int, num_bytes: np.ndarray, tokens: np.ndarray) -> None:
        """So many of these documents were taken."""
        if taken:
            added = (taken, int(num_bytes[taken - 1]), int(tokens[taken - 1]))
            self._taken = [before + more for before, more in zip(self._taken, added, strict=True)]


def tokens_of_documents(spill: Spill) -> np.ndarray:
    """The tokens of each document (D,), all its pieces together."""
    lengths = np.empty(spill.counts.pieces, dtype=np.int64)
    lengths[spill.read("order")] = np.diff(spill.read("offsets"))
    sums = np.concatenate(([0], np.cumsum(lengths)))
    ends = np.cumsum(spill.read("pieces"))
    return sums[ends] - sums[ends - spill.read("pieces")]


class Selection:
    """What of each chunk is written."""

    def __init__(self, taken: Sequence[Taken], config: PreprocessConfig, scratch: Path) -> None:
        """Looks for duplicates among what is taken; `scratch` may hold files of its own while it exists."""
        self.taken = [chunk for chunk in taken if chunk.num_records]
        self.num_documents = [chunk.num_documents for chunk in self.taken]
        self._first = np.concatenate(([0], np.cumsum(self.num_documents))).astype(np.int64)
        self.duplicates: Duplicates | None = None
        self.reason = config.deduplication.reason if config.deduplication is not None else ""
        """Why a duplicate is rejected."""
        if config.deduplication is not None:
            self.duplicates = config.deduplication.find(self, scratch)

    def read(self, chunk: int, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """The rows of a column of documents; `deduplication.Columns` asks for them."""
        end = self.num_documents[chunk]
        return self.taken[chunk].spill.mapped(name)[start : end if stop is None else min(stop, end)]

    def duplicates_in(self, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        """Documents of this chunk, by their number in it, that are copies, and their originals among all."""
        if self.duplicates is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        low, high = np.searchsorted(self.duplicates.duplicate, self._first[chunk : chunk + 2])
        return self.duplicates.duplicate[low:high] - self._first[chunk], self.duplicates.original[low:high]

    def kept(self, chunk: int) -> np.ndarray:
        """Which documents of this chunk (D,) bool are written."""
        kept = np.zeros(self.taken[chunk].spill.counts.documents, dtype=np.bool_)
        kept[: self.num_documents[chunk]] = True
        kept[self.duplicates_in(chunk)[0]] = False
        return kept

    def place(self, document: int) -> Place:
        """Where a document stands, by its number among all."""
        chunk = int(np.searchsorted(self._first, document, side="right")) - 1
        return next(self.places(chunk, np.array([document - self._first[chunk]])))

    def places(self, chunk: int, documents: np.ndarray) -> Iterator[Place]:
        """Where documents of one chunk stand, by their numbers in it."""
        spill = self.taken[chunk].spill
        files = list(spill.places.items())
        records = np.flatnonzero(spill.read("status") == USED)[documents]
        file_of, number = spill.read("file")[records], spill.read("number")[records]
        for file, n in zip(file_of.tolist(), number.tolist(), strict=True):
            name, unit = files[file]
            yield Place(name, unit, n)
