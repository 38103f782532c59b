"""How the arms fell: bits per byte of the validation text over what was spent, with a band over the seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelzoo.compare.run_results import RunResult

X_AXES = ("tokens", "bytes", "flops", "seconds")
Points = list[dict[str, float | None]]


def arm_curves(arm: Mapping[str, Any], runs: Sequence[RunResult], all_domains: str | None) -> dict[str, Points]:
    """By domain: at each evaluation that every seed had, the mean over seeds and their least and greatest.

    `all_domains` names the mean of the domains, if there is one. What is not known of an x is None.
    """
    by_domain: dict[str, dict[int, list[tuple[RunResult, float]]]] = {}
    for run in runs:
        for domain, tokens, value in run.validation():
            by_domain.setdefault(domain, {}).setdefault(tokens, []).append((run, value))
    whole = {
        domain: {tokens: found for tokens, found in points.items() if len(found) == len(runs)}
        for domain, points in by_domain.items()
    }
    if all_domains and len(whole) > 1:
        common = sorted(set.intersection(*(set(points) for points in whole.values())))
        whole[all_domains] = {
            tokens: [
                (run, float(np.mean([points[tokens][number][1] for points in list(whole.values())])))
                for number, run in enumerate(runs)
            ]
            for tokens in common
        }
    return {
        domain: [_point(arm, tokens, points[tokens]) for tokens in sorted(points)]
        for domain, points in whole.items()
        if points
    }


def _point(arm: Mapping[str, Any], tokens: int, found: Sequence[tuple[RunResult, float]]) -> dict[str, float | None]:
    values = [value for _, value in found]
    seconds = float(np.mean([np.interp(tokens, *run.seconds) for run, _ in found]))
    return {
        "tokens": tokens,
        "bytes": None if arm["bytes_per_token"] is None else tokens * arm["bytes_per_token"],
        "flops": tokens * arm["flops_per_token"],
        "seconds": seconds if np.isfinite(seconds) else None,
        "mean": float(np.mean(values)),
        "low": min(values),
        "high": max(values),
    }
