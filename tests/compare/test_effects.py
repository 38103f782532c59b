"""Effects against a computation by hand, against tables, and against their own promise over simulated studies."""

import math

import numpy as np
import pytest

from modelzoo.compare.effects import (
    Losses,
    effect,
    equal_weight,
    mean_interval,
    mover,
    shared_confidence,
    smallest_p,
    student_t,
)
from modelzoo.report import statistics


@pytest.mark.parametrize(
    ("confidence", "degrees", "value"),
    [
        (0.95, 1, 12.7062047362), (0.95, 2, 4.3026527297), (0.95, 3, 3.1824463053), (0.95, 4, 2.7764451052),
        (0.95, 9, 2.2621571628), (0.95, 29, 2.0452296421), (0.95, 30, 2.0422724563), (0.95, 120, 1.9799304051),
        (0.9, 2, 2.9199855804), (0.99, 2, 9.9248432009), (0.99, 4, 4.6040948714),
        (0.5, 1, 1.0), (1 - 0.05 / 8, 1, 1 / math.tan(math.pi / 2 * 0.05 / 8)),
    ],
)  # fmt: skip
def test_students_t_is_that_of_the_tables(confidence, degrees, value):
    assert student_t(confidence, degrees) == pytest.approx(value, abs=1e-6)


def test_an_effect_by_hand():
    """Two seeds, two documents; bits of 8 and 24 bytes, so that bits per byte are round."""
    nats = math.log(2)
    before = Losses(np.array([[8.0, 24.0], [12.0, 24.0]]) * nats, np.array([8, 24]))
    after = Losses(np.array([[6.0, 22.0], [10.0, 24.0]]) * nats, np.array([8, 24]))
    found = effect(before, after, 0.95)
    # bits per byte: 32/32 and 36/32 before, 28/32 and 34/32 after
    assert (found.before, found.after) == pytest.approx((1.0625, 0.96875))
    assert found.by_seed == pytest.approx((-0.125 / 1.0625, -0.0625 / 1.0625))
    assert found.relative == pytest.approx(-0.09375 / 1.0625)
    half = 12.7062047362 * 0.03125 / 1.0625  # t of one degree, half the distance between the two
    assert found.interval_seeds == pytest.approx((found.relative - half, found.relative + half))
    assert (found.seeds_better, found.seeds_sign_test) == (2, 0.5)
    assert (found.documents_better, found.documents, found.documents_sign_test) == (2, 2, 0.5)
    assert (found.interval_text, found.interval, found.verdict) == (None, None, "no difference shown")


def test_the_joined_interval_reaches_as_far_as_both_together():
    assert mover(1.0, (-2.0, 4.0), (-3.0, 5.0)) == pytest.approx((-4.0, 6.0))  # 3 and 4 below, 3 and 4 above
    assert mover(1.0, (1.0, 1.0), (0.5, 3.0)) == (0.5, 3.0)


def test_each_domain_counts_the_same():
    long = Losses(np.full((2, 3), 30.0), np.array([10, 10, 10]))
    short = Losses(np.full((2, 1), 1.0), np.array([1]))
    both = equal_weight([long, short])
    assert both.num_bytes.sum() == pytest.approx(2)
    assert both.bits_per_byte == pytest.approx((long.bits_per_byte + short.bits_per_byte) / 2)


def test_means():
    assert mean_interval([1.0], 0.95) is None
    assert mean_interval([1.0, 2.0, 3.0], 0.95) == pytest.approx((2 - 4.3026527 / 3**0.5, 2 + 4.3026527 / 3**0.5))
    assert mean_interval([2.0, 2.0], 0.95) == (2.0, 2.0)
    assert [smallest_p(n) for n in (1, 3, 6)] == [1.0, 0.25, 0.03125]


# ---------------------------------------------------------------------- simulated studies

DOCUMENTS = 40
SEED_NOISE, TEXT_NOISE = 0.004, 0.02
"""Standard deviations of what a seed does to all documents alike, and of what it does to each by itself."""


def arms(draw, effects, seeds=3):
    """An arm for each effect (relative, of every document): documents differ, and what an arm does to them too."""
    num_bytes = draw.integers(500, 3_000, DOCUMENTS)
    hard = num_bytes * (1 + 0.3 * draw.random(DOCUMENTS))
    for change in effects:
        own = TEXT_NOISE * draw.standard_normal(DOCUMENTS)  # of the arm, for every seed: another text, another mean
        noise = SEED_NOISE * draw.standard_normal((seeds, 1)) + TEXT_NOISE * draw.standard_normal((seeds, DOCUMENTS))
        yield Losses(hard * (1 + change + own + noise), num_bytes)


def studies(number, effects, interval="interval", seeds=3):
    """The share of simulated studies in which any of the comparisons with a baseline shows a difference."""
    draw = np.random.default_rng(0)
    confidence = shared_confidence(0.95, len(effects))
    shown = 0
    for _ in range(number):
        baseline, *others = arms(draw, [0.0, *effects], seeds)
        found = [getattr(effect(baseline, other, confidence), interval) for other in others]
        shown += any(low > 0 or high < 0 for low, high in found)
    return shown / number


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 1_000)


@pytest.mark.parametrize(("comparisons", "number"), [(1, 400), (8, 80)])
def test_equal_arms_come_out_equal_in_95_of_100_studies(few_resamples, comparisons, number):
    assert studies(number, [0.0] * comparisons) <= 0.05


def test_the_text_alone_would_find_differences_that_are_none(few_resamples):
    """What the simulation must catch: an interval that knows nothing of seeds."""
    assert studies(100, [0.0], "interval_text") > 0.08
    assert studies(20, [0.0] * 8, "interval_text") > 0.15


def test_what_was_planted_is_found(few_resamples):
    assert studies(40, [-0.05]) > 0.95
    assert studies(40, [0.05]) > 0.95
    assert studies(10, [0.0] * 7 + [-0.2]) > 0.9


def test_verdicts():
    draw = np.random.default_rng(1)
    one, better, worse = arms(draw, [0.0, -0.2, 0.2])
    assert effect(one, better, 0.95).verdict == "better"
    assert effect(one, worse, 0.95).verdict == "worse"
    assert effect(one, one, 0.95).verdict == "equal"
    assert effect(one, one, 0.95).interval == (0.0, 0.0)
    single = effect(Losses(one.sums[:1], one.num_bytes), Losses(better.sums[:1], one.num_bytes), 0.95)
    assert (single.verdict, single.interval, single.interval_seeds) == ("one seed", None, None)
    assert single.interval_text is not None
