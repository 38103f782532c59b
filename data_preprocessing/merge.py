"""All chunks to shards: each split in its final order, block by block, in bounded memory.

Every chunk stands sorted by shuffle key already. So the keys are cut into ranges, and the pieces of one range
lie side by side in each chunk: read, sorted together, written. Without a shuffle a range is a chunk.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_preprocessing.encoder import shuffle_keys
from data_preprocessing.read_ahead import ReadAhead
from data_preprocessing.selection import Selection
from modelzoo.data.schema import Pieces, ShardHeader, ShardInfo, SplitInfo, file_sha256, write_shard

RANGE_TOKENS = 24 * 2**20
"""Tokens held at a time, about."""
RANGE_PIECES = 2**18
"""Pieces held at a time, about."""
BLOCK_TOKENS = 2**21
"""Tokens put in order at a time, about: a copy that is made in the same few pages again and again is cheap."""


class _Rows(NamedTuple):
    """Consecutive rows of one chunk's spill."""

    chunk: int
    start: int
    stop: int


class Merger:
    """Writes the splits of one dataset."""

    def __init__(self, selection: Selection, shuffle_seed: int | None, has_loss_mask: bool) -> None:
        self.selection = selection
        self.shuffle_seed = shuffle_seed
        self.has_loss_mask = has_loss_mask
        self._kept = [self._kept_rows(chunk) for chunk in range(len(selection.taken))]

    def write(self, root: Path, split: str, header: ShardHeader, shard_tokens: int) -> SplitInfo:
        """Write the shards of a split below `root`; the account of it. `header` holds all but the counts."""
        shards: list[ShardInfo] = []
        blocks = _Blocks(self._blocks(split, with_tokens=True))
        for number, (documents, tokens, num_bytes) in enumerate(self._plan(split, shard_tokens)):
            file = root / split / f"{number:05d}.h5"
            file.parent.mkdir(exist_ok=True)
            full = header._replace(num_documents=documents, num_tokens=tokens, num_bytes=num_bytes)
            ahead = ReadAhead(blocks.take(documents))  # one block is put in order while another is written
            try:
                write_shard(file, full, ahead, self.has_loss_mask)
            finally:
                ahead.stop()
            shards.append(
                ShardInfo(
                    file=f"{split}/{file.name}",
                    sha256=file_sha256(file),
                    num_documents=documents,
                    num_tokens=tokens,
                    num_bytes=num_bytes,
                )
            )
        return SplitInfo(
            shards=tuple(shards),
            num_documents=sum(shard.num_documents for shard in shards),
            num_tokens=sum(shard.num_tokens for shard in shards),
            num_bytes=sum(shard.num_bytes for shard in shards),
        )

    def _plan(self, split: str, shard_tokens: int) -> list[tuple[int, int, int]]:
        """Documents, tokens and bytes of each shard: filled up to `shard_tokens`, one longer document apart."""
        shards: list[tuple[int, int, int]] = []
        documents = tokens = num_bytes = 0
        for block in self._blocks(split, with_tokens=False):
            ends, byte_ends = np.cumsum(block.lengths), np.cumsum(block.num_bytes)
            done = 0
            while done < len(ends):
                before, bytes_before = (int(ends[done - 1]), int(byte_ends[done - 1])) if done else (0, 0)
                fitting = int(np.searchsorted(ends, before + shard_tokens - tokens, side="right"))
                fitting = max(fitting, done + 1 if not documents else done)
                if fitting > done:
                    documents += fitting - done
                    tokens += int(ends[fitting - 1]) - before
                    num_bytes += int(byte_ends[fitting - 1]) - bytes_before
                    done = fitting
                if done < len(ends):
                    shards.append((documents, tokens, num_bytes))
                    documents = tokens = num_bytes = 0
        return [*shards, (documents, tokens, num_bytes)] if documents else shards

    def _kept_rows(self, chunk: int) -> np.ndarray | None:
        """One bit for each row of the spill, set where it is written; None where all are."""
        kept, spill = self.selection.kept(chunk), self.selection.taken[chunk].spill
        if kept.all():
            return None
        of_piece = np.repeat(np.arange(len(kept)), spill.read("pieces"))
        return np.packbits(kept[of_piece[spill.read("order")]])

    def _blocks(self, split: str, with_tokens: bool) -> Iterator[Pieces]:
        """The pieces of a split in their final order."""
        for rows in self._ranges(split):
            parts = [part for part in (self._read(row, with_tokens) for row in rows) if len(part[0].lengths)]
            if not parts:
                continue
            if self.shuffle_seed is None:
                yield parts[0][0]
            else:
                order = np.argsort(np.concatenate([keys for _, keys in parts]), kind="stable")
                ends = np.cumsum(np.concatenate([pieces.lengths for pieces, _ in parts])[order])
                cuts = np.searchsorted(ends, np.arange(BLOCK_TOKENS, ends[-1], BLOCK_TOKENS))
                for block in filter(len, np.split(order, cuts)):
                    yield Pieces.merged([pieces for pieces, _ in parts], block)

    def _ranges(self, split: str) -> Iterator[list[_Rows]]:
        """Rows that are read together, in the order of the ranges."""
        rows = []
        for chunk, taken in enumerate(self.selection.taken):
            counts = taken.spill.counts
            start = 0 if split == "validation" else counts.validation_pieces
            stop = counts.validation_pieces if split == "validation" else counts.pieces
            if start < stop:
                rows.append(_Rows(chunk, start, stop))
        if self.shuffle_seed is None:
            yield from ([row] for row in rows)
            return
        tokens = sum(self.selection.taken[row.chunk].spill.counts.tokens for row in rows)
        pieces = sum(row.stop - row.start for row in rows)
        number = max(1, -(-tokens // RANGE_TOKENS), -(-pieces // RANGE_PIECES))
        edges = np.array([(i * 2**64) // number for i in range(1, number)], dtype=np.uint64)
        cuts = np.array([self._cuts(row, edges) for row in rows], dtype=np.int64).reshape(len(rows), number + 1)
        for low, high in zip(cuts.T, cuts.T[1:], strict=False):
            yield [
                _Rows(row.chunk, int(start), int(stop))
                for row, start, stop in zip(rows, low, high, strict=True)
                if start < stop
            ]

    def _cuts(self, row: _Rows, edges: np.ndarray) -> list[int]:
        """Where each range begins and the last one ends among these rows, which are sorted by key."""
        if not len(edges):
            return [row.start, row.stop]
        return [row.start, *(row.start + np.searchsorted(self._keys(row), edges)), row.stop]

    def _keys(self, row: _Rows, order: np.ndarray | None = None) -> np.ndarray:
        chunk = self.selection.taken[row.chunk].spill
        if order is None:
            order = chunk.read("order", row.start, row.stop)
        assert self.shuffle_seed is not None
        return shuffle_keys(self.shuffle_seed, chunk.path.stem, order)

    def _read(self, row: _Rows, with_tokens: bool) -> tuple[Pieces, np.ndarray]:
        """The pieces of these rows that are kept, and their keys (empty without a shuffle)."""
        chunk, start, stop = row
        spill = self.selection.taken[chunk].spill
        order, offsets = spill.read("order", start, stop), spill.read("offsets", start, stop + 1)
        first, last = int(offsets[0]), int(offsets[-1])
        # not mapped: a map keeps its file open, and there may be more chunks than a process may open files
        tokens = spill.read("tokens", first, last) if with_tokens else None
        loss_mask = spill.read("loss_mask", first, last) if with_tokens and self.has_loss_mask else None
        keys = self._keys(row, order) if self.shuffle_seed is not None else order[:0]
        pieces = Pieces(np.diff(offsets), spill.read("num_bytes", start, stop), tokens, loss_mask)
        bits = self._kept[chunk]
        if bits is None:
            return pieces, keys
        kept = np.flatnonzero(np.unpackbits(bits, count=spill.counts.pieces)[start:stop])
        return Pieces.merged([pieces], kept), keys[kept] if len(keys) else keys


class _Blocks:
    """Blocks of pieces, to be taken in other portions than they come in."""

    def __init__(self, blocks: Iterator[Pieces]) -> None:
        self._blocks = blocks
        self._rest: Pieces | None = None

    def take(self, documents: int) -> Iterator[Pieces]:
        """The next so many pieces."""
        while documents:
            block = self._rest or next(self._blocks)
            head, self._rest = block.split(documents)
            documents -= len(head.lengths)
            yield head
