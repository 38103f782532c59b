"""What benchmarks.replay found: each arm against the naive one of the same seed, with intervals over the seeds."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

NAIVE = "naive"
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 %, from 1 degree of freedom on."""
HALF, LOSS = 0.5, 0.02
"""The goal: the old domain's regression cut by so much, the new domain's loss higher by no more."""


class Outcome(NamedTuple):
    """A run against the naive run of its seed; all but `new` as parts of 1."""

    seed: int
    old_change: float
    """Of the old domain's bits per byte, from before the continuation to its end."""
    cut: float
    """Of the naive run's regression: 1 where nothing was forgotten, above 1 where the old domain got better; NaN where
    the naive run forgot nothing."""
    new: float
    """Bits per byte at the end."""
    new_loss: float
    """Its excess over the naive run's."""


def outcomes(runs: list[dict[str, Any]]) -> dict[str, list[Outcome]]:
    """By arm, a run of each seed, in the order of the runs."""
    naive = {run["seed"]: run for run in runs if run["arm"] == NAIVE}
    found: dict[str, list[Outcome]] = {}
    for run in runs:
        base = naive[run["seed"]]
        forgotten = base["old"]["change"]
        outcome = Outcome(
            run["seed"],
            run["old"]["change"],
            1 - run["old"]["change"] / forgotten if forgotten > 0 else math.nan,
            run["new"]["after"],
            run["new"]["after"] / base["new"]["after"] - 1,
        )
        found.setdefault(run["arm"], []).append(outcome)
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean's, of 95 %, by Student's t: of differences within seeds it is the paired one. NaN for a single value."""
    if len(values) < 2:
        return math.nan, math.nan
    half = T_95[min(len(values) - 2, len(T_95) - 1)] * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def table(runs: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown: a row an arm, means with intervals; then a row a run; then what meets the goal."""
    by_arm = outcomes(runs)
    tokens = {run["arm"]: run["tokens"] for run in runs}
    lines = [
        "| arm | tokens new + old | old domain | regression cut by | new, bits per byte | new against naive |",
        "|---|---|---|---|---|---|",
    ]
    for arm, found in by_arm.items():
        seen = f"{tokens[arm]['new'] / 1e3:.0f} k + {tokens[arm].get('old', 0) / 1e3:.0f} k"
        compared = (
            ["–", "–"] if arm == NAIVE else [_percent([o.cut for o in found], 0), _percent([o.new_loss for o in found])]
        )
        cells = [arm, seen, _percent([o.old_change for o in found]), compared[0], f"{mean(o.new for o in found):.4f}"]
        lines.append(f"| {' | '.join([*cells, compared[1]])} |")
    lines += ["", "| arm, seed | old before | old after | new before | new after |", "|---|---|---|---|---|"]
    for run in runs:
        values = [run[domain][when] for domain in ("old", "new") for when in ("before", "after")]
        lines.append(f"| {run['arm']}, {run['seed']} | {' | '.join(f'{value:.4f}' for value in values)} |")
    return [*lines, "", *(_verdict(arm, found) for arm, found in by_arm.items() if arm != NAIVE)]


def _percent(values: list[float], digits: int = 1) -> str:
    if any(map(math.isnan, values)):
        return "–"
    low, high = interval(values)
    shown = f"{100 * mean(values):+.{digits}f} %"
    return shown if math.isnan(low) else f"{shown} ({100 * low:+.{digits}f} … {100 * high:+.{digits}f})"


def _verdict(arm: str, found: list[Outcome]) -> str:
    """Whether the means meet the goal, and whether the intervals show it."""
    cuts, losses = [o.cut for o in found], [o.new_loss for o in found]
    if any(map(math.isnan, cuts)):
        return f"{arm}: a naive run forgot nothing, so there is nothing to cut"
    met = mean(cuts) >= HALF and mean(losses) <= LOSS
    shown = interval(cuts)[0] >= HALF and interval(losses)[1] <= LOSS
    return f"{arm}: {'met, and the intervals show it' if shown else 'met in the mean' if met else 'not met'}"


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """What was forgotten over what was given up: seeds as dots, means as larger ones, the goal as an area."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_arm = outcomes(runs)
    figure = Figure(figsize=(7.5, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for number, (arm, found) in enumerate(by_arm.items()):
        x, y = [100 * o.new_loss for o in found], [100 * o.old_change for o in found]
        axes.plot(x, y, ".", color=f"C{number}", alpha=0.6)
        axes.plot(mean(x), mean(y), "o", color=f"C{number}", markersize=9, label=arm)
    forgotten = 100 * mean(o.old_change for o in by_arm[NAIVE])
    axes.axhline(0, color="grey", linewidth=0.8, zorder=0)
    left, bottom = axes.get_xlim()[0], min(axes.get_ylim()[0], 0)
    axes.fill_between(
        [left, 100 * LOSS], bottom, HALF * forgotten, color="grey", alpha=0.15, label="the goal", linewidth=0
    )
    axes.set_xlim(left=left)
    axes.set_ylim(bottom=bottom)
    axes.set(
        xlabel="new domain: bits per byte above the naive arm's (%)",
        ylabel="old domain: change of bits per byte (%)",
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)
