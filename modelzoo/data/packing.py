"""Whole documents in rows of T tokens: best-fit packing, computed from the documents' lengths alone. No torch.

A document longer than a row is cut into full rows and a rest (Ding et al. 2024, arXiv:2404.10830). The rests and
the shorter documents, longest first, each go into the row with the least room that still holds them. Rows with
equal room are interchangeable, so they are handled together: the work grows with the number of different
lengths, not of documents, and ten million documents take seconds.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from modelzoo.data.stream import concatenated_ranges


class Plan(NamedTuple):
    """Which pieces of the stream make up which row. Row i has the pieces row_starts[i] to row_starts[i + 1]."""

    row_starts: np.ndarray
    """(rows + 1,) int64, into the two below."""
    first: np.ndarray
    """(pieces,) int64: where a piece starts in the stream."""
    length: np.ndarray
    """(pieces,) int32: its tokens, at least 1. Those of a row sum to T at most."""


def best_fit(document_starts: np.ndarray, seq_len: int) -> Plan:
    """Pack the documents [starts[i], starts[i + 1]) into rows of `seq_len` tokens, each token exactly once.

    Args:
        document_starts: (num_documents + 1,) increasing.
        seq_len: T.
    """
    starts = np.asarray(document_starts, dtype=np.int64)
    size = np.int32 if len(starts) < 2**31 else np.int64  # of a document's number
    num_full, rest = (part.astype(np.int32) for part in np.divmod(np.diff(starts), seq_len))
    cut = np.flatnonzero(num_full).astype(size)  # documents with full rows
    full, owner = concatenated_ranges(np.zeros(len(cut), dtype=np.int64), num_full[cut])
    full_first = starts[cut[owner]] + full * seq_len
    del full, owner

    documents = np.flatnonzero(rest).astype(size)
    key = (seq_len - rest[documents]).astype(np.min_scalar_type(seq_len))  # numpy sorts 16 bits in linear time
    documents = documents[np.argsort(key, kind="stable")]  # longest first
    counts = np.bincount(rest[documents])
    lengths = np.flatnonzero(counts)[::-1]
    row = _fit(zip(lengths.tolist(), counts[lengths].tolist(), strict=True), len(documents), seq_len)
    documents = documents[np.argsort(row, kind="stable")]
    per_row = np.concatenate([np.ones(len(full_first), dtype=np.int64), np.bincount(row)])
    return Plan(
        np.concatenate([[0], np.cumsum(per_row)]),
        np.concatenate([full_first, starts[documents + 1] - rest[documents]]),
        np.concatenate([np.full(len(full_first), seq_len, dtype=np.int32), rest[documents]]),
    )


def _fit(lengths: Iterable[tuple[int, int]], num_pieces: int, capacity: int) -> np.ndarray:
    """The row of each piece (num_pieces,) int32, pieces coming as (length, count), longest first."""
    row_of = np.empty(num_pieces, dtype=np.int32)
    rooms: list[int] = []  # what is left in some rows, increasing
    rows_with: dict[int, list[np.ndarray]] = {}
    num_rows = placed = 0

    def keep(room: int, rows: np.ndarray) -> None:
        if room and len(rows):
            if room not in rows_with:
                insort(rooms, room)
                rows_with[room] = []
            rows_with[room].append(rows)

    for length, count in lengths:
        while count:
            at = bisect_left(rooms, length)
            if at == len(rooms):  # nothing has room: new rows
                room = capacity
                rows = np.arange(num_rows, num_rows - (-count // (capacity // length)), dtype=np.int32)
                num_rows += len(rows)
            else:
                room = rooms[at]
                rows = rows_with[room].pop()
                if not rows_with[room]:
                    del rows_with[room], rooms[at]
            # a row that took one piece has the least room of all that may take the next: fill it up
            each = room // length
            filled = rows[: count // each]
            row_of[placed : placed + len(filled) * each] = np.repeat(filled, each)
            placed, count = placed + len(filled) * each, count - len(filled) * each
            keep(room - each * length, filled)
            others = rows[len(filled) :]
            if count and len(others):  # fewer pieces than one more row could take
                row_of[placed : placed + count] = others[0]
                keep(room - count * length, others[:1])
                placed, count, others = placed + count, 0, others[1:]
            keep(room, others)
    assert placed == num_pieces, (placed, num_pieces)
    return row_of


def segments(row: np.ndarray, column: np.ndarray, filled: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and segment ids of rows whose documents start at (row, column), every row having one at column 0.

    Args:
        row, column: (starts,) each.
        filled: (B,) tokens in each row; what follows is padding.

    Returns:
        position_ids, segment_ids: (B, T) int32 each.
    """
    num_rows = len(filled)
    padded = np.flatnonzero(filled < seq_len)
    starts = np.sort(np.concatenate([row * seq_len + column, padded * seq_len + filled[padded]]))  # in the flat batch
    lengths = np.diff(starts, append=num_rows * seq_len)
    first = np.searchsorted(starts, np.arange(num_rows) * seq_len)  # that of each row
    number = np.arange(len(starts)) - first[starts // seq_len] + 1
    number[np.searchsorted(starts, padded * seq_len + filled[padded])] = 0
    segment_ids = np.repeat(number.astype(np.int32), lengths)
    position_ids = np.arange(num_rows * seq_len, dtype=np.int32) - np.repeat(starts.astype(np.int32), lengths)
    return position_ids.reshape(num_rows, seq_len), segment_ids.reshape(num_rows, seq_len)
