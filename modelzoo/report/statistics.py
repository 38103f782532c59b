"""How sure a measured difference is: a paired bootstrap over blocks of held-out text, and a sign test.

A block is a run of tokens that both models were measured on. Blocks are drawn with replacement, for both models
the same ones (Efron 1979; Koehn 2004), so what makes a text
hard for both cancels. An interval of this kind speaks of other text from the same place; it knows nothing of other
seeds of the training.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000
MOST_BLOCKS = 1_000
"""More are joined, neighbours with neighbours: what is alike in one document then falls into one block more often."""
FEWEST_BLOCKS = 10
"""With fewer no interval is given: a bootstrap of so few is too narrow."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Change:
    """What became of a loss: `relative` is after / before - 1, below zero where it fell."""

    before: float
    """Mean loss per token, weighted by the blocks' tokens; in the unit of the sums."""
    after: float
    relative: float
    interval: tuple[float, float] | None
    """Of `relative`; None with too few blocks."""
    num_blocks: int
    num_better: int
    """Blocks whose loss fell."""
    sign_test: float | None
    """Probability of so uneven a split of the blocks if neither were better; None where all are equal."""

    @property
    def direction(self) -> int:
        """-1 where the loss is shown to have fallen, 1 to have risen, 0 where neither is shown."""
        if self.interval is None:
            return 0
        low, high = self.interval
        return -1 if high < 0 else 1 if low > 0 else 0


def paired_changes(
    before: np.ndarray, afters: np.ndarray, tokens: np.ndarray, seed: int = 0, confidence: float = CONFIDENCE
) -> list[Change]:
    """The change from `before` (n,) to each row of `afters` (k, n): sums of losses over the same n blocks.

    `tokens` (n,) are the blocks' sizes, in tokens or bytes. All k share their resamples, so a curve's intervals fit
    together. `confidence` is that of each interval.
    """
    assert before.shape == tokens.shape == afters.shape[1:], (before.shape, tokens.shape, afters.shape)
    assert (tokens > 0).all()
    joined = [_joined(row, MOST_BLOCKS) for row in np.vstack([tokens, before, afters]).astype(np.float64)]
    sizes, start, ends = joined[0], joined[1], np.stack(joined[2:])
    gains = ends - start  # zero where nothing changed, and so is all that is computed of it
    relative = gains.sum(1) / start.sum()
    intervals: list[tuple[float, float] | None] = [None] * len(ends)
    if len(start) >= FEWEST_BLOCKS:
        intervals = _intervals(start, gains, relative, seed, confidence)
    better, worse = (gains < 0).sum(1), (gains > 0).sum(1)
    return [
        Change(
            before=float(start.sum() / sizes.sum()),
            after=float(ends[i].sum() / sizes.sum()),
            relative=float(relative[i]),
            interval=intervals[i],
            num_blocks=len(start),
            num_better=int(better[i]),
            sign_test=sign_test(int(better[i]), int(worse[i])),
        )
        for i in range(len(ends))
    ]


def _joined(values: np.ndarray, most: int) -> np.ndarray:
    """Sums over runs of neighbours, (n,) -> (at most `most`,), the runs as equal as can be."""
    if len(values) <= most:
        return values
    edges = np.arange(most) * len(values) // most
    return np.add.reduceat(values, edges)


def _intervals(
    start: np.ndarray, gains: np.ndarray, relative: np.ndarray, seed: int, confidence: float
) -> list[tuple[float, float] | None]:
    """BCa intervals (Efron 1987) of sum(gains) / sum(start): the percentiles, corrected for bias and skew."""
    num_blocks = len(start)
    generator = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, len(gains)))
    for first in range(0, RESAMPLES, 1_000):  # 1,000 × 1,000 counts at a time: 8 MB
        picks = generator.integers(0, num_blocks, (1_000, num_blocks))
        picks += np.arange(1_000)[:, None] * num_blocks
        counts = np.bincount(picks.ravel(), minlength=1_000 * num_blocks).reshape(1_000, num_blocks).astype(np.float64)
        drawn[first : first + 1_000] = (counts @ gains.T) / (counts @ start)[:, None]
    drawn.sort(axis=0)
    without = (gains.sum(1, keepdims=True) - gains) / (start.sum() - start)  # (k, n): one block left out
    away = without.mean(1, keepdims=True) - without
    spread = (away**2).sum(1) ** 1.5
    acceleration = np.divide((away**3).sum(1), 6 * spread, out=np.zeros(len(gains)), where=spread > 0)
    return [_bca(drawn[:, i], float(relative[i]), float(acceleration[i]), confidence) for i in range(len(gains))]


def _bca(drawn: np.ndarray, value: float, acceleration: float, confidence: float) -> tuple[float, float]:
    """The interval from sorted resamples (R,)."""
    if drawn[0] == drawn[-1]:
        return value, value
    below = (np.searchsorted(drawn, value, "left") + np.searchsorted(drawn, value, "right")) / 2 / len(drawn)
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / len(drawn)), 1 - 0.5 / len(drawn)))
    ends = []
    for quantile in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + _NORMAL.inv_cdf(quantile)
        ends.append(float(np.quantile(drawn, _NORMAL.cdf(bias + z / (1 - acceleration * z)))))
    return ends[0], ends[1]


def sign_test(num_better: int, num_worse: int) -> float | None:
    """Two-sided exact probability that a fair coin splits so unevenly; ties do not count. None where all tie."""
    total, fewer = num_better + num_worse, min(num_better, num_worse)
    if total == 0:
        return None
    log_half = total * math.log(2)
    logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(fewer + 1)]
    return min(1.0, 2 * sum(math.exp(value - log_half) for value in logs))
