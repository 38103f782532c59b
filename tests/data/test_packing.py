import itertools
import time

import numpy as np
import pytest

from modelzoo.data.dataset import TokenDataset
from modelzoo.data.packing import best_fit, segments
from tests.data.datasets import LENGTHS, build

DOCUMENTS = list(itertools.chain(*LENGTHS))


def starts_of(lengths):
    return np.cumsum([0, *lengths])


def naive_best_fit_decreasing(lengths, capacity):
    """The fill of each row, one piece at a time."""
    rows = []
    for length in sorted((rest for length in lengths if (rest := length % capacity)), reverse=True):
        rooms = [(capacity - row, at) for at, row in enumerate(rows) if capacity - row >= length]
        if rooms:
            rows[min(rooms)[1]] += length
        else:
            rows.append(length)
    return rows + [capacity] * sum(length // capacity for length in lengths)


@pytest.mark.parametrize("capacity", [1, 2, 7, 16, 100, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_rows_are_those_of_best_fit_decreasing(capacity, seed):
    draw = np.random.default_rng(seed)
    lengths = np.maximum(1, draw.lognormal(2 + seed % 2, 1.2, 300).astype(int))
    plan = best_fit(starts_of(lengths), capacity)
    fill = np.add.reduceat(plan.length, plan.row_starts[:-1])
    assert sorted(fill) == sorted(naive_best_fit_decreasing(lengths.tolist(), capacity))
    assert fill.max() <= capacity


@pytest.mark.parametrize("capacity", [1, 5, 17, 400])
def test_each_token_stands_in_one_piece_and_short_documents_are_whole(capacity):
    lengths = np.random.default_rng(0).integers(1, 60, 500)
    starts = starts_of(lengths)
    plan = best_fit(starts, capacity)
    tokens = np.concatenate([np.arange(a, a + n) for a, n in zip(plan.first, plan.length, strict=True)])
    assert np.array_equal(np.sort(tokens), np.arange(starts[-1]))
    document = np.searchsorted(starts, plan.first, "right")
    assert np.array_equal(document, np.searchsorted(starts, plan.first + plan.length - 1, "right"))
    pieces = np.bincount(document - 1)
    assert np.array_equal(pieces, -(-lengths // capacity))


def test_the_plan_is_small_fast_and_full():
    lengths = np.maximum(1, np.random.default_rng(0).lognormal(5.5, 1.3, 200_000).astype(np.int64))
    started = time.perf_counter()
    plan = best_fit(starts_of(lengths), 2048)
    assert time.perf_counter() - started < 5  # 0.1 s on an idle core
    assert lengths.sum() / ((len(plan.row_starts) - 1) * 2048) > 0.9995
    pieces = len(plan.length)
    assert sum(array.nbytes for array in plan) <= 20 * pieces + 8
    again = best_fit(starts_of(lengths), 2048)
    assert all(np.array_equal(a, b) for a, b in zip(plan, again, strict=True))


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seq_len", [1, 2, 4, 5, 9, 17, 18, 50])
def test_every_token_of_a_packed_split_is_a_target_once(tmp_path, seq_len, masked, isolate):
    stream = build(tmp_path, masked)
    dataset = TokenDataset(tmp_path, "train", seq_len, "best_fit", isolate)
    batch = dataset.rows(range(len(dataset)))
    inputs = dict(zip(stream.tolist(), [0, *stream[:-1].tolist()], strict=True))  # ids differ but for the ends
    pairs = list(zip(batch["labels"].ravel().tolist(), batch["input_ids"].ravel().tolist(), strict=True))
    if not masked:
        kept = [pair for pair, use in zip(pairs, batch["loss_mask"].ravel(), strict=True) if use]
        assert sorted(label for label, _ in kept) == sorted(stream)
        assert all(inputs[label] == before for label, before in kept if label)
    else:
        kept = batch["labels"][batch["loss_mask"]]
        assert sorted(kept) == sorted(stream[stream % 2 == 1])
    assert not batch["labels"][~batch["loss_mask"]].any() or masked
    assert len(dataset) == len(naive_best_fit_decreasing(DOCUMENTS, seq_len))
    assert ("segment_ids" in batch) == isolate


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
@pytest.mark.parametrize("seq_len", [1, 3, 9, 18, 50])
def test_segments_are_the_documents_of_a_row(tmp_path, seq_len, packing):
    """Read back by segment, each row gives pieces of documents, and all rows together each token once."""
    stream = build(tmp_path).tolist()
    dataset = TokenDataset(tmp_path, "train", seq_len, packing, isolate_documents=True)
    documents = [stream[a:b] for a, b in itertools.pairwise(starts_of(DOCUMENTS))]
    pieces = {(0, *d)[a:b] for d in documents for a, b in itertools.combinations(range(len(d) + 2), 2)}
    batch = dataset.rows(range(len(dataset)))
    assert batch["segment_ids"].dtype == batch["position_ids"].dtype == np.int32
    num_tokens = 0
    for inputs, labels, mask, position, segment in zip(*(batch[name] for name in (
        "input_ids", "labels", "loss_mask", "position_ids", "segment_ids"
    )), strict=True):  # fmt: skip
        assert np.array_equal(segment == 0, ~mask)
        for number in range(1, segment.max() + 1):
            where = np.flatnonzero(segment == number)
            assert position[where].tolist() == list(range(len(where)))
            assert where.tolist() == list(range(where[0], where[-1] + 1))
            assert (inputs[where[0]], *labels[where]) in pieces
            assert np.array_equal(inputs[where[1:]], labels[where[:-1]])
            num_tokens += len(where)
    assert num_tokens == 42


def test_segments_of_a_given_row():
    position_ids, segment_ids = segments(np.array([0, 0, 1]), np.array([0, 3, 0]), np.array([5, 6]), 6)
    assert position_ids[0].tolist()[:5] == [0, 1, 2, 0, 1]
    assert segment_ids.tolist() == [[1, 1, 1, 2, 2, 0], [1] * 6]
