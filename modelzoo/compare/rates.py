"""Which rate of the grid each arm is compared with: the one whose run has the fewest bits per byte."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.compare.plan import PlannedRun


def choose_rates(runs: Sequence[PlannedRun], held_out: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Arm -> rate, by the mean over the held-out sets. `held_out` by name of a run.

    UserError where no run of an arm has come to a finite loss.
    """
    best: dict[str, tuple[float, float]] = {}
    for run in runs:
        bits = bits_per_byte(held_out[run.name])
        if math.isfinite(bits) and (run.arm not in best or bits < best[run.arm][0]):
            best[run.arm] = bits, run.lr
    if lost := [arm for arm in dict.fromkeys(run.arm for run in runs) if arm not in best]:
        raise UserError(f"lr_grid: no rate of it has given {', '.join(lost)} a finite loss; use smaller ones")
    return {arm: rate for arm, (_, rate) in best.items()}


def bits_per_byte(found: Mapping[str, Any]) -> float:
    """Of a run, each set with the same weight; infinite where it has diverged."""
    if found.get("diverged"):
        return math.inf
    sets = found["sets"].values()
    return sum(sum(one["loss_sums"]) / math.log(2) / sum(one["num_bytes"]) for one in sets) / len(sets)
