"""What lm-evaluation-harness said of the runs of a study: means over seeds, and the differences of pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelzoo.compare.effects import mean_interval
from modelzoo.report.run_files import is_number

Json = dict[str, Any]


def metrics_of(found: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """(task, metric) -> value, of a run's tasks.json; without standard errors, which know nothing of seeds."""
    return {
        (task, name.replace(",none", "").replace(",", " ")): float(value)
        for task, values in found.get("results", {}).items()
        for name, value in values.items()
        if is_number(value) and "," in name and not name.partition(",")[0].endswith("_stderr")
    }


def task_results(
    arms: Sequence[Mapping[str, Any]], found: Mapping[tuple[str, int], Mapping[str, Any]], confidence: float
) -> list[Json]:
    """A list: task, metric, arms (name -> mean, by_seed), differences (name -> against, difference, interval).

    `found` is the tasks.json of (arm, seed). The intervals are over seeds (Student's t), each with `confidence`:
    the harness draws no other text.
    """
    by_run = {key: metrics_of(content) for key, content in found.items()}
    results = []
    for task, metric in dict.fromkeys(key for values in by_run.values() for key in values):
        values: dict[str, dict[int, float]] = {}
        for (name, seed), found_here in by_run.items():
            if (task, metric) in found_here:
                values.setdefault(name, {})[seed] = found_here[task, metric]
        differences = {}
        for arm in arms:
            own, theirs = values.get(arm["name"], {}), values.get(arm["against"] or "", {})
            if pairs := [own[seed] - theirs[seed] for seed in own if seed in theirs]:
                interval = mean_interval(pairs, confidence)
                differences[arm["name"]] = {
                    "against": arm["against"], "difference": float(np.mean(pairs)),
                    "interval": None if interval is None else list(interval),
                }  # fmt: skip
        means = {name: {"mean": float(np.mean(list(of.values()))), "by_seed": of} for name, of in values.items()}
        results.append({"task": task, "metric": metric, "arms": means, "differences": differences})
    return results
