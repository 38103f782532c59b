"""How much faster one arm is than another, from timings that were taken in turn. No torch.

A ratio is the median of the rounds' own ratios: a machine that runs at half its speed for a while slows both sides of
a round, and leaves their ratio alone, whereas the medians of the two arms may fall on either side of the change. Its
interval is the one between two of the sorted ratios that holds the median with at least the confidence asked for,
whatever the distribution (Thompson 1936; the sign test turned around).
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

CONFIDENCE = 0.95


def speed_ratios(
    speed: Mapping[str, Any], pairs: Sequence[tuple[str, str]], confidence: float = CONFIDENCE
) -> dict[str, dict[str, Any]]:
    """For each pair (arm, against) of a speed.json, what the arm's tokens per second are over the other's:

    {arm: {"against", "training": {"ratio", "interval"}, "generation": {"ratio", "interval"} or null}}

    `interval` is [low, high], or null where the rounds are too few for the confidence.
    """
    return {
        arm: {
            "against": against,
            "training": _of_pair(speed["training"], arm, against, "step_seconds", "tokens_per_step", confidence),
            "generation": _of_pair(speed["generation"], arm, against, "seconds", "new_tokens", confidence)
            if speed["generation"]
            else None,
        }
        for arm, against in pairs
    }


def tokens_per_second(speed: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Of each arm, in training and in generation (null where it was not timed): the median of the rounds."""
    generation = speed["generation"] or {}
    return {
        arm: {
            "training": own["tokens_per_step"] / median(own["step_seconds"]),
            "generation": generation[arm]["new_tokens"] / median(generation[arm]["seconds"]) if generation else None,
        }
        for arm, own in speed["training"].items()
    }


def _of_pair(
    timed: Mapping[str, Any], arm: str, against: str, seconds: str, tokens: str, confidence: float
) -> dict[str, Any]:
    ours, theirs = timed[arm], timed[against]
    ratios = [
        (ours[tokens] / own) / (theirs[tokens] / other)
        for own, other in zip(ours[seconds], theirs[seconds], strict=True)
    ]
    return {"ratio": median(ratios), "interval": median_interval(ratios, confidence)}


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> list[float] | None:
    """The narrowest interval between the k-th least and the k-th largest value that holds the median of the
    distribution with at least this confidence; None where even that between the ends does not."""
    ordered, count, outside, best = sorted(values), len(values), 0.0, None
    for k in range(count // 2):  # k values lie below the interval, and k above it
        outside += 2 * math.comb(count, k) / 2**count
        if outside > 1 - confidence:
            break
        best = [ordered[k], ordered[count - 1 - k]]
    return best
