"""Intervals against closed forms, against scipy where it is installed, and against their own promise."""

import math

import numpy as np
import pytest

from modelzoo.report import statistics
from modelzoo.report.statistics import paired_changes, sign_test


def blocks(num_blocks, change, noise, seed=0):
    """Losses before and after, whose change scatters by `noise` from block to block, and the blocks' tokens."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(500, 1000, num_blocks)
    before = tokens * (3 + 0.5 * draw.standard_normal(num_blocks))
    return before, before * (1 + change + noise * draw.standard_normal(num_blocks)), tokens


def test_means_are_weighted_by_tokens():
    before, after, tokens = np.array([10.0, 90.0]), np.array([5.0, 90.0]), np.array([10, 30])
    (change,) = paired_changes(before, after[None], tokens)
    assert (change.before, change.after) == (2.5, 95 / 40)
    assert change.relative == pytest.approx(-0.05)
    assert (change.num_blocks, change.num_better, change.interval) == (2, 1, None)


def test_the_interval_is_the_normal_one_where_there_are_many_blocks():
    """Of a ratio of sums, by the delta method: the residuals' standard error over the mean."""
    before, after, tokens = blocks(800, -0.5, 0.05)
    (change,) = paired_changes(before, after[None], tokens)
    rest = after - before - change.relative * before
    error = math.sqrt(len(rest)) * rest.std(ddof=1) / before.sum()
    low, high = change.interval
    assert low == pytest.approx(change.relative - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(change.relative + 1.96 * error, abs=0.1 * error)


def test_more_confidence_is_a_wider_interval():
    before, after, tokens = blocks(800, -0.5, 0.05)
    widths = []
    for confidence in (0.95, 0.99):
        (change,) = paired_changes(before, after[None], tokens, confidence=confidence)
        widths.append(change.interval[1] - change.interval[0])
    assert widths[1] / widths[0] == pytest.approx(2.5758 / 1.96, rel=0.04)


def test_pairing_makes_the_interval_narrow():
    before, after, tokens = blocks(200, -0.01, 0.01)
    (paired,) = paired_changes(before, after[None], tokens)
    (other,) = paired_changes(before, np.random.default_rng(1).permutation(after)[None], tokens)
    assert paired.direction == -1
    assert other.direction == 0
    assert other.interval[1] - other.interval[0] > 10 * (paired.interval[1] - paired.interval[0])


def test_it_agrees_with_scipy():
    scipy = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    before, after, tokens = blocks(60, 0.01, 0.1, seed=3)
    after[:4] *= 1.6  # skewed, so that the corrections matter
    (change,) = paired_changes(before, after[None], tokens)
    theirs = scipy.bootstrap(
        (before, after), lambda b, a, axis: a.sum(axis) / b.sum(axis) - 1, paired=True, vectorized=True,
        n_resamples=20_000, method="BCa", random_state=1,
    ).confidence_interval  # fmt: skip
    width = theirs.high - theirs.low
    assert change.interval == pytest.approx((theirs.low, theirs.high), abs=0.03 * width)
    assert sign_test(15, 4) == pytest.approx(scipy.binomtest(4, 19).pvalue)


def test_skew_is_corrected():
    """Few blocks that rose by much: the plain percentiles reach too low, and not high enough."""
    before, after, tokens = blocks(40, 0.0, 0.01, seed=5)
    after[:3] *= 1.5
    (change,) = paired_changes(before, after[None], tokens)
    draw = np.random.default_rng(0).integers(0, 40, (10_000, 40))
    low, high = np.quantile(after[draw].sum(1) / before[draw].sum(1) - 1, [0.025, 0.975])
    assert change.interval[0] > low + 0.05 * (high - low)
    assert change.interval[1] > high + 0.1 * (high - low)


def test_no_change_is_found_in_about_a_twentieth_of_the_cases(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 1_000)
    found = sum(paired_changes(*_same(seed))[0].direction != 0 for seed in range(300))
    assert 5 <= found <= 30  # 15 expected, give or take 3.8


def _same(seed):
    before, after, tokens = blocks(60, 0.0, 0.02, seed=seed)
    return before, after[None], tokens


def test_equal_models_have_an_interval_of_zero():
    before, _, tokens = blocks(50, 0, 0)
    (change,) = paired_changes(before, before[None], tokens)
    assert (change.relative, change.interval, change.direction, change.sign_test) == (0.0, (0.0, 0.0), 0, None)


def test_the_same_blocks_give_the_same_interval():
    before, after, tokens = blocks(50, -0.01, 0.05)
    one, two = paired_changes(before, np.stack([after, after * 1.01]), tokens)
    (alone,) = paired_changes(before, after[None], tokens)
    assert one.interval == pytest.approx(alone.interval, rel=1e-12)
    assert alone == paired_changes(before, after[None], tokens)[0]
    assert two.relative > one.relative


def test_too_few_blocks_have_no_interval():
    assert paired_changes(*_few(9))[0].interval is None
    assert paired_changes(*_few(9))[0].direction == 0
    assert paired_changes(*_few(10))[0].interval is not None


def _few(number):
    before, after, tokens = blocks(number, -0.5, 0.01)
    return before, after[None], tokens


def test_neighbours_are_joined_where_blocks_are_many():
    before, after, tokens = blocks(2_500, -0.01, 0.05)
    (change,) = paired_changes(before, after[None], tokens)
    assert change.num_blocks == 1_000
    assert change.relative == pytest.approx(after.sum() / before.sum() - 1)


@pytest.mark.parametrize(
    ("better", "worse", "probability"),
    [(0, 0, None), (1, 0, 1.0), (5, 5, 1.0), (10, 0, 2 / 1024), (0, 10, 2 / 1024), (8, 2, 112 / 1024)],
)
def test_the_sign_test_counts_coins(better, worse, probability):
    assert sign_test(better, worse) == (None if probability is None else pytest.approx(probability))


def test_the_sign_test_of_many_does_not_overflow():
    assert sign_test(5_000, 5_000) == pytest.approx(1.0)
    assert sign_test(5_200, 4_800) == pytest.approx(6.6e-5, rel=0.05)  # z = 3.99
