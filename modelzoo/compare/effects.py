"""What an arm of a study changes, and how sure that is: paired over seeds of the training and over held-out documents.

Two things would come out otherwise another time: the seeds (weights and order of the data) and the text measured on.
Each gets an interval of its own, of the same effect: Student's t over the seeds' differences, and a paired bootstrap
over documents of the losses averaged over seeds. MOVER joins them (Zou & Donner 2008, Statistics in Medicine 27),
which is exact where both are normal and keeps the skew of either. An interval over the text alone would call nearly
every difference of two seeds an effect.

A study of m comparisons shares its confidence among them (Bonferroni): where no arm differs, it says so of all m at
once in at least 95 of 100 studies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelzoo.report.statistics import paired_changes, sign_test

NO_DIFFERENCE = "no difference shown"
Interval = tuple[float, float]


@dataclass(frozen=True)
class Losses:
    """What an arm's runs lose on the held-out documents of one domain."""

    sums: np.ndarray
    """(seeds, documents), nats."""
    num_bytes: np.ndarray
    """(documents,) of UTF-8 text; the same for every arm, whatever its tokenizer."""

    @property
    def bits_per_byte(self) -> np.ndarray:
        """(seeds,)"""
        return self.sums.sum(1) / math.log(2) / self.num_bytes.sum()


@dataclass(frozen=True)
class Effect:
    """Of an arm against another on one domain. `relative` and its intervals are changes: below zero is better."""

    before: float
    """Bits per byte of the other arm, mean over the seeds that both have."""
    after: float
    relative: float
    """after / before - 1"""
    interval: Interval | None
    """Over seeds and text; None with one seed, or with too few documents."""
    interval_seeds: Interval | None
    interval_text: Interval | None
    by_seed: tuple[float, ...]
    """Each seed's difference over the mean `before`; their mean is `relative`."""
    seeds_better: int
    seeds_sign_test: float | None
    documents_better: int
    documents: int
    documents_sign_test: float | None
    verdict: str
    """better, worse, no difference shown, equal (bit by bit), or one seed."""


def shared_confidence(confidence: float, comparisons: int) -> float:
    """Of each comparison's interval, so that all of them hold together with `confidence`."""
    return 1 - (1 - confidence) / max(1, comparisons)


def effect(before: Losses, after: Losses, confidence: float) -> Effect:
    """The effect of `after` against `before`: row s of both is the same seed, column i the same document."""
    assert before.sums.shape == after.sums.shape, (before.sums.shape, after.sums.shape)
    assert np.array_equal(before.num_bytes, after.num_bytes)
    first, second = before.bits_per_byte, after.bits_per_byte
    by_seed = (second - first) / first.mean()
    relative = float(by_seed.mean())
    averaged, changed = before.sums.mean(0), after.sums.mean(0)
    sizes = np.ones(len(averaged))  # they do not enter a ratio of sums over the same documents
    (of_text,) = paired_changes(averaged, changed[None], sizes, confidence=confidence)
    over_seeds = mean_interval(by_seed, confidence)
    interval = None
    if over_seeds is not None and of_text.interval is not None:
        interval = mover(relative, over_seeds, of_text.interval)
    seeds_better, documents_better = int((by_seed < 0).sum()), int((changed < averaged).sum())
    return Effect(
        before=float(first.mean()),
        after=float(second.mean()),
        relative=relative,
        interval=interval,
        interval_seeds=over_seeds,
        interval_text=of_text.interval,
        by_seed=tuple(by_seed.tolist()),
        seeds_better=seeds_better,
        seeds_sign_test=sign_test(seeds_better, int((by_seed > 0).sum())),
        documents_better=documents_better,
        documents=len(averaged),
        documents_sign_test=sign_test(documents_better, int((changed > averaged).sum())),
        verdict=_verdict(np.array_equal(before.sums, after.sums), len(by_seed), interval),
    )


def _verdict(equal: bool, num_seeds: int, interval: Interval | None) -> str:
    if equal:
        return "equal"
    if num_seeds < 2:
        return "one seed"
    if interval is None:
        return NO_DIFFERENCE
    return "better" if interval[1] < 0 else "worse" if interval[0] > 0 else NO_DIFFERENCE


def equal_weight(domains: Sequence[Losses]) -> Losses:
    """All domains as one, in which each counts the same however long its text: its bytes add up to 1."""
    totals = [float(losses.num_bytes.sum()) for losses in domains]
    return Losses(
        sums=np.concatenate([losses.sums / total for losses, total in zip(domains, totals, strict=True)], axis=1),
        num_bytes=np.concatenate([losses.num_bytes / total for losses, total in zip(domains, totals, strict=True)]),
    )


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float) -> Interval | None:
    """Of the mean of independent draws, by Student's t; None with fewer than two."""
    if len(values) < 2:
        return None
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    half = student_t(confidence, len(values) - 1) * deviation / math.sqrt(len(values))
    return mean - half, mean + half


def mover(value: float, first: Interval, second: Interval) -> Interval:
    """The interval of a value that two independent sources of error move, from the interval that each gives alone."""
    low = math.hypot(value - first[0], value - second[0])
    high = math.hypot(first[1] - value, second[1] - value)
    return value - low, value + high


def smallest_p(num_seeds: int) -> float:
    """Of the sign test: what even seeds that all agree give."""
    return min(1.0, 2 * 0.5**num_seeds)


def student_t(confidence: float, degrees: int) -> float:
    """The t that lies between -t and t with probability `confidence`, for a whole number of degrees of freedom.

    With t = sqrt(degrees) tan(angle) that probability is a finite sum (Abramowitz & Stegun 26.7.3 and 26.7.4), which
    rises with the angle from 0 to 1, so bisection finds the angle to the last digit.
    """
    assert 0 < confidence < 1, confidence
    assert degrees >= 1, degrees
    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(angle: float, degrees: int) -> float:
    """P(|t| < sqrt(degrees) tan(angle))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(odd, degrees - 1, 2):  # cosine^power with its coefficient
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    return (angle + sine * total) * 2 / math.pi if odd else sine * total
