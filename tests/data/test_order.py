import numpy as np
import pytest

from modelzoo.data import order
from modelzoo.data.order import locate, permute

LENGTHS = [*range(1, 70), 255, 256, 257, 1000, 4096, 9_999, 65_537, 100_003]

GOLDEN_12 = [1, 2, 4, 8, 11, 5, 7, 10, 6, 9, 3, 0]
GOLDEN_LARGE = [573006, 459401, 668334, 462183, 239028]
GOLDEN_HUGE = [732976555970596874, 1230334589204812619]


def test_every_length_is_a_permutation():
    for length in LENGTHS:
        for epoch in range(2):
            found = permute(np.arange(length), length, 7, epoch)
            assert np.array_equal(np.sort(found), np.arange(length)), length


def test_one_index_equals_the_whole():
    whole = permute(np.arange(1000), 1000, 3, 2)
    assert [int(permute(i, 1000, 3, 2)[0]) for i in (0, 1, 500, 999)] == whole[[0, 1, 500, 999]].tolist()
    assert np.array_equal(permute(np.arange(1000).reshape(10, 100), 1000, 3, 2), whole.reshape(10, 100))


def test_golden_values():
    """The order is part of every run's record: a change here breaks resuming from every checkpoint."""
    assert permute(np.arange(12), 12, 0, 0).tolist() == GOLDEN_12
    assert permute(np.arange(5), 1_000_003, 1234, 5).tolist() == GOLDEN_LARGE
    assert permute(np.array([0, 2**40]), 2**61 + 1, -1, 0).tolist() == GOLDEN_HUGE


@pytest.mark.parametrize("length", [2, 5, 12, 31])
def test_each_index_goes_anywhere_equally_often(length):
    draws = 3000
    counts = np.zeros((length, length))
    for seed in range(draws):
        counts[np.arange(length), permute(np.arange(length), length, seed, seed % 3)] += 1
    # the sum of the cells' chi-squares is n/(n-1) times a chi-square of (n-1)^2 degrees of freedom
    degrees = (length - 1) ** 2
    statistic = ((counts - draws / length) ** 2 / (draws / length)).sum() * (length - 1) / length
    assert statistic < degrees + 5 * np.sqrt(2 * degrees)


def test_neighbours_are_scattered():
    length = 100_000
    found = permute(np.arange(length), length, 1, 0)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(np.arange(length), found)[0, 1]) < 0.01
    steps = np.diff(found) % length
    assert len(np.unique(steps)) > 0.6 * length  # 1 - 1/e of random ones are distinct


def test_seeds_epochs_and_lengths_differ():
    indices = np.arange(1000)
    orders = [permute(indices, n, s, e) for n, s, e in [(1000, 0, 0), (1000, 1, 0), (1000, 0, 1), (1001, 0, 0)]]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).mean() < 0.02


def test_without_rounds_nothing_is_mixed(monkeypatch):
    monkeypatch.setattr(order, "ROUNDS", 1)
    found = permute(np.arange(100_000), 100_000, 1, 0)
    assert len(np.unique(np.diff(found) % 100_000)) < 60_000


def test_indices_outside_are_refused():
    for index in (-1, 10):
        with pytest.raises(AssertionError):
            permute(index, 10, 0, 0)


def test_locate():
    assert locate(0, 10) == (0, 0)
    assert locate(29, 10) == (2, 9)
