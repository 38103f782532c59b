"""A long document in windows that overlap, so that no token is predicted without context. No torch.

A document of n tokens is read as [end-of-document, token 1, …, token n, end-of-document]: each of its tokens is a
target once, the first after an end-of-document, and so is the end-of-document that closes it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """What the model reads, and the tokens that are scored: those after the last places of it."""

    input_ids: np.ndarray
    """(T,) integers."""
    targets: np.ndarray
    """(n,) integers, n at most T: targets[-1] comes after input_ids[-1]."""


def windows(num_targets: int, seq_len: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows of at most `seq_len` inputs over a document of `num_targets` targets: (start, stop, scored).

    A window has the inputs start … stop - 1, counted in the document; the targets after the last `scored` of them
    count. The first window scores all its targets, each later one starts `stride` further and scores what no
    earlier one has: tokens that had at least `seq_len - stride` others before them. As in Hugging Face's guide to
    the perplexity of fixed-length models, but that every target counts, the first too.
    """
    assert 0 < stride <= seq_len, (stride, seq_len)
    done = 0
    for start in range(0, num_targets, stride):
        stop = min(start + seq_len, num_targets)
        yield start, stop, stop - done
        done = stop
        if done == num_targets:
            return


def rows_of(tokens: np.ndarray, end_of_document_id: int, seq_len: int, stride: int) -> Iterator[Row]:
    """The windows of a document, its `tokens` (n,) without an end-of-document: n + 1 targets in all."""
    stream = np.empty(len(tokens) + 2, dtype=np.uint32)
    stream[0] = stream[-1] = end_of_document_id
    stream[1:-1] = tokens
    for start, stop, scored in windows(len(tokens) + 1, seq_len, stride):
        yield Row(stream[start:stop], stream[stop + 1 - scored : stop + 1])
