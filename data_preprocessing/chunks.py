"""The unit of work: what is read is cut into chunks, which depend on the inputs alone.

Files are taken together into lots, and each lot is cut into chunks of whole frames. A chunk that is encoded
leaves one file behind, which is a pure function of the chunk and the settings. So any number of workers and
machines gives the same bytes, and a run that was killed goes on with what its chunks left.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from data_preprocessing.inputs import InputReader
from data_preprocessing.readers import Frame, Place, Rejected

MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = 2 * 2**20, 16 * 2**20
CHUNKS_AIMED_AT = 256


class Lot(NamedTuple):
    """Consecutive files of one source, no less than a chunk where there are so many."""

    number: int
    source: str
    files: Sequence[str]


class Chunk(NamedTuple):
    """Consecutive frames of one lot."""

    lot: int
    number: int
    source: str
    items: Sequence[Frame | Rejected]

    @property
    def name(self) -> str:
        """Names the file that it leaves; sorts in reading order."""
        return f"{self.lot:06d}-{self.number:06d}"

    @property
    def first(self) -> Place:
        """Where it begins."""
        return self.items[0].first if isinstance(self.items[0], Frame) else self.items[0].place

    @property
    def last(self) -> Place:
        """Where its last frame begins."""
        item = self.items[-1]
        return item.first if isinstance(item, Frame) else item.place

    def digest(self, settings: bytes) -> str:
        """Fingerprint of all that decides what it becomes."""
        digest = hashlib.sha256(settings)
        for item in self.items:
            digest.update(repr(item if isinstance(item, Rejected) else (item.first, len(item.data))).encode())
            if isinstance(item, Frame):
                digest.update(item.data)
        return digest.hexdigest()


def chunk_bytes(total_bytes: int) -> int:
    """The size of a chunk, from the size of all inputs: few enough to merge, many enough to share out."""
    return min(MAX_CHUNK_BYTES, max(MIN_CHUNK_BYTES, total_bytes // CHUNKS_AIMED_AT))


def lots(inputs: dict[str, InputReader], size: int) -> Iterator[Lot]:
    """The lots of all sources, each closed at `size` bytes."""
    number = 0
    for source, reader in inputs.items():
        files: list[str] = []
        for name in reader.names:
            files.append(name)
            if sum_so_far(reader, files) >= size:
                yield Lot(number, source, files)
                number, files = number + 1, []
        if files:
            yield Lot(number, source, files)
            number += 1


def sum_so_far(reader: InputReader, files: Sequence[str]) -> int:
    """Bytes of these files."""
    return sum(reader.sizes[name] for name in files)


def chunks(lot: Lot, items: Iterable[Frame | Rejected], size: int) -> Iterator[Chunk]:
    """Cut a lot into chunks of at least `size` bytes; the last may be smaller."""
    taken: list[Frame | Rejected] = []
    number = num_bytes = 0
    for item in items:
        taken.append(item)
        num_bytes += len(item.data) if isinstance(item, Frame) else 256  # a rejection takes room too
        if num_bytes >= size:
            yield Chunk(lot.number, number, lot.source, taken)
            taken, number, num_bytes = [], number + 1, 0
    if taken:
        yield Chunk(lot.number, number, lot.source, taken)
