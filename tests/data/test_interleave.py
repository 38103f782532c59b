"""Which source each sample comes from: proportions that stay, that change, and sources that end."""

from fractions import Fraction

import numpy as np
import pytest

from modelzoo.base_config import UserError
from modelzoo.data.interleave import Interleave, Plan, apportion
from modelzoo.data.weights import Rate, Stretch, stretches

WEIGHTS = [[1], [1, 1], [3, 1], [0.7, 0.2, 0.1], [1] * 20, [1] * 23, [1e-4, 1, 30, 0.5, 2], [1, 1e-6]]


def counted(source, number, num_sources):
    """Samples of each source before each sample, (n + 1, sources); checks that each source's are numbered in turn."""
    seen = np.zeros((len(source) + 1, num_sources), dtype=np.int64)
    seen[np.arange(1, len(source) + 1), source] = 1
    seen = seen.cumsum(axis=0)
    assert np.array_equal(number, seen[np.arange(len(source)), source])  # 0, 1, 2 … in each source
    return seen


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_prefix_keeps_the_proportions(weights):
    samples = 20_000
    seen = counted(*Interleave(weights).locate(np.arange(samples)), len(weights))
    share = np.array(weights) / np.sum(weights)
    height = int(np.ceil(np.log2(len(weights)))) if len(weights) > 1 else 0
    assert np.abs(seen - np.arange(samples + 1)[:, None] * share).max() <= height / 2 + 1e-3 < len(weights)
    for step in (0, 1, 7, 1000, samples):
        assert Interleave(weights).counts(step) == seen[step].tolist()


@pytest.mark.parametrize("weights", WEIGHTS)
def test_far_into_a_run(weights):
    """No table, no overflow: at sample 10**15 the places go on from the counts, and the counts are right."""
    interleave, start = Interleave(weights), 10**15 + 3
    source, number = interleave.locate(np.arange(start, start + 100))
    before, after = interleave.counts(start), interleave.counts(start + 100)
    assert sum(before) == start
    for each in range(len(weights)):
        assert number[source == each].tolist() == list(range(before[each], after[each]))
    total = sum(map(Fraction, weights))
    for count, weight in zip(before, weights, strict=True):
        assert abs(count / start - weight / total) < 1e-9


def test_samples_until_is_the_inverse_of_counts():
    interleave = Interleave([0.7, 0.2, 0.1])
    for source in range(3):
        for count in (1, 2, 17, 1000):
            samples = interleave.samples_until(source, count)
            assert interleave.counts(samples)[source] == count
            assert interleave.counts(samples - 1)[source] == count - 1


def share(*points):
    return Rate(points, is_share=True)


def weight(*points):
    return Rate(points)


COURSES = {
    "falls": {"new": weight((0, 1)), "old": share((0, 0.5), (40, 0.1))},
    "fades": {"new": weight((0, 1)), "old": share((10, 0.3), (30, 0))},
    "jumps": {"a": weight((0, 1)), "b": weight((0, 1), (20, 1), (20, 3), (50, 3), (50, 0))},
    "starts late": {"a": weight((0, 1)), "b": weight((25, 0), (26, 1)), "c": share((0, 0.01))},
    "many": {f"s{n:02}": weight((n, 1 + n), (60 - n, 24 - n)) for n in range(23)},
    "long": {"a": share((0, 0.9), (2500, 0.2)), "b": weight((0, 2))},
}


def ideal(course, num_steps, batch_size):
    """The integral of each source's share at the end of each step, in samples."""
    rows, found = [np.zeros(len(course))], stretches(course)
    for step in range(num_steps):
        (stretch,) = [s for s in found if s.first <= step and (s.stop is None or step < s.stop)]
        rows.append(rows[-1] + batch_size * np.array(stretch.at(step + 0.5)))
    return np.array(rows)


@pytest.mark.parametrize("name", COURSES)
@pytest.mark.parametrize("batch_size", [1, 30])
def test_changing_shares_are_kept_to_a_few_samples_at_every_step(name, batch_size):
    course, num_steps = COURSES[name], 80 if name != "long" else 2600
    plan = Plan(stretches(course), batch_size, [None] * len(course))
    samples = num_steps * batch_size
    seen = counted(*plan.locate(0, samples), len(course))
    at_steps = seen[::batch_size]
    within = 2 * len(course) ** 0.5 + (0 if name != "long" else 5 * batch_size / 8000)
    assert np.abs(at_steps - ideal(course, num_steps, batch_size)).max() <= within
    for at in {0, 1, samples // 3, 20 * batch_size, 20 * batch_size + 1, samples}:
        assert plan.counts(at) == seen[at].tolist()
    for start in (0, 1, samples // 2, 19 * batch_size):  # any part is found without the samples before it
        source, number = plan.locate(start, start + 3 * batch_size)
        assert all(np.array_equal(*pair) for pair in zip((source, number), plan_part(seen, start, source), strict=True))


def plan_part(seen, start, source):
    """The sources and numbers from `start` on, from the counts of every sample."""
    grown = np.diff(seen[start : start + len(source) + 1], axis=0).argmax(axis=1)
    return grown, seen[np.arange(start, start + len(source)), grown]


def test_nothing_comes_of_a_source_while_its_weight_is_zero():
    plan = Plan(stretches(COURSES["fades"]), 7, [None, None])
    source, _ = plan.locate(30 * 7, 300 * 7)
    assert set(source) == {0}
    assert plan.samples_until(1, plan.counts(300 * 7)[1] + 1) is None


def test_a_change_costs_no_more_the_further_the_run_is():
    """A ramp of 10**9 steps: as many segments as one of a thousand, and counts that are still right."""
    course = {"new": weight((0, 1)), "old": share((0, 0.5), (10**9, 0.1))}
    plan = Plan(stretches(course), 512, [None, None])
    assert len(plan.segments) == 1025
    for part in (0.25, 0.5, 1.0, 3.0):
        step = int(part * 10**9)
        expected = (0.5 * part - 0.2 * part**2 if part <= 1 else 0.3 + 0.1 * (part - 1)) * 512e9
        assert plan.counts(step * 512)[1] == pytest.approx(expected, abs=4, rel=3e-7)
    source, number = plan.locate(7 * 10**8 * 512, (7 * 10**8 + 1) * 512)
    assert number[source == 1][0] == plan.counts(7 * 10**8 * 512)[1]


def test_a_source_ends_at_its_limit_and_the_others_take_its_part():
    course = {"a": weight((0, 2)), "b": weight((0, 1)), "c": weight((0, 1))}
    plan = Plan(stretches(course), 8, [300, None, None])
    seen = counted(*plan.locate(0, 2000), 3)
    at = plan.samples_until(0, 300)
    assert abs(at - 600) <= 2
    assert seen[at].tolist() == [300, *seen[at][1:]]
    assert abs(seen[at] - [300, 150, 150]).max() <= 1
    assert abs(seen[-1] - [300, 850, 850]).max() <= 1
    assert plan.samples_until(0, 301) is None
    assert plan.counts(2000) == seen[-1].tolist()
    assert plan.end is None


def test_all_sources_may_end():
    plan = Plan(stretches({"a": weight((0, 2)), "b": weight((0, 1))}), 8, [30, 40])
    assert plan.end == 70
    assert plan.counts(70) == [30, 40]
    source, _ = plan.locate(60, 70)
    assert set(source) == {1}
    with pytest.raises(AssertionError):
        plan.locate(60, 71)


def test_a_source_that_ends_within_a_change():
    course = {"a": share((0, 0.8), (100, 0.2)), "b": weight((0, 1)), "c": weight((0, 3))}
    plan = Plan(stretches(course), 10, [250, None, None])
    seen = counted(*plan.locate(0, 1500), 3)
    at = plan.samples_until(0, 250)
    assert seen[at][0] == 250 == seen[-1][0]
    assert seen[at - 1][0] == 249
    later = seen[-1] - seen[at]
    assert abs(later[1] - later.sum() / 4) < 3


@pytest.mark.parametrize(
    ("due", "total"), [([0.5, 0.5], 1), ([2.4, 2.4, 1.2], 6), ([-0.9, -0.9, 1, 1, 1.8], 2), ([0.2, 3.9], 3), ([5.0], 4)]
)
def test_apportion(due, total):
    parts = apportion(due, total)
    assert sum(parts) == total
    assert min(parts) >= 0
    assert max(abs(part - each) for part, each in zip(parts, due, strict=True)) <= 1.2


def test_shares_and_weights():
    def at_start(**rates):
        return stretches(rates)[0].start

    assert at_start(a=weight((0, 3)), b=weight((0, 1))) == (0.75, 0.25)
    assert at_start(a=weight((0, 3)), b=share((0, 0.25)), c=weight((0, 1))) == pytest.approx((0.5625, 0.25, 0.1875))
    assert at_start(a=share((0, 0.7)), b=share((0, 0.2)), c=share((0, 0.1))) == pytest.approx((0.7, 0.2, 0.1))
    found = stretches({"a": weight((0, 1)), "b": share((4, 0.5), (10, 0.2), (10, 1.0))})
    assert found == [
        Stretch(0, 4, (0.5, 0.5), (0.5, 0.5)),
        Stretch(4, 10, (0.5, 0.5), (0.8, 0.2)),
        Stretch(10, None, (0.0, 1.0), (0.0, 1.0)),
    ]


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"a": weight((0, 1), (10, 0)), "b": weight((5, 1), (7, 0))}, "at step 10 the weights sum to 0"),
        (
            {"a": share((0, 0.5), (10, 0.9)), "b": share((0, 0.5))},
            r"at step 10 the shares sum to 1\.4 \(a 0\.9, b 0\.5",
        ),
        ({"a": share((0, 0.5)), "b": share((0, 0.4))}, r"at step 0 the shares sum to 0\.9 .* no source has a weight"),
        ({"a": share((0, 0.5)), "b": weight((0, 1), (9, 0))}, r"at step 9 the shares sum to 0\.5"),
    ],
)
def test_steps_at_which_there_is_nothing_or_too_much_to_read(rates, message):
    with pytest.raises(UserError, match=message):
        stretches(rates)
