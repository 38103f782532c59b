"""Best learning rates of benchmarks.mup_transfer: a table of them, and the plot of docs/mup.md."""

from pathlib import Path
from typing import Any

import numpy as np

Curve = dict[float, float]
"""Validation loss by log2 of the learning rate."""
NAMES = {"mup": "muP", "standard": "standard"}
COLOURS = ("#e0912f", "#2f7f5f", "#2b6cb3", "#b3432b")


def report(results: list[dict[str, Any]], plot: Path | None) -> None:
    """Print the best rate of each width, and how far it is from the narrowest one's."""
    for kind, name in NAMES.items():
        by_width = curves(results, kind)
        narrow = min(by_width)
        start = np.mean([m for m in map(minimum, by_width[narrow].values()) if m is not None])
        for width, by_seed in sorted(by_width.items()):
            found = {seed: minimum(curve) for seed, curve in by_seed.items()}
            bracketed = [m for m in found.values() if m is not None]
            if not bracketed:
                print(f"{name:9s} width {width}: no minimum within the rates")
                continue
            mean, shift = np.mean(bracketed), np.mean(bracketed) - start
            seeds = ", ".join("–" if m is None else f"{m:.2f}" for m in found.values())
            verdict = "" if width == narrow else f", × {2**shift:.2f}: {'within' if abs(shift) <= 0.5 else 'beyond'} √2"
            print(f"{name:9s} width {width}: best log2 rate {mean:.2f} (seeds: {seeds}), rate {2**mean:.2e}{verdict}")
            for log2_lr in sorted({lr for curve in by_seed.values() for lr in curve}):
                losses = [curve[log2_lr] for curve in by_seed.values() if log2_lr in curve]
                print(f"    2^{log2_lr:g}: {np.mean(losses):.3f} ({len(losses)} seeds)")
    if plot:
        draw(results, plot)
        print(f"wrote {plot}")


def curves(results: list[dict[str, Any]], kind: str) -> dict[int, dict[int, Curve]]:
    """width → seed → curve. What ran at the base width counts for both kinds."""
    found: dict[int, dict[int, Curve]] = {}
    for result in results:
        if result["parametrisation"] in (kind, "both"):
            curve = found.setdefault(result["width"], {}).setdefault(result["seed"], {})
            curve[result["log2_lr"]] = result["loss"]
    return found


def minimum(curve: Curve) -> float | None:
    """The vertex of the parabola through the lowest point and its two neighbours; None if it lies at an end."""
    rates = sorted(curve)
    lowest = min(range(len(rates)), key=lambda i: curve[rates[i]])
    if not 0 < lowest < len(rates) - 1:
        return None
    around = rates[lowest - 1 : lowest + 2]
    a, b, _ = np.polyfit(around, [curve[rate] for rate in around], 2)
    return float(-b / (2 * a))


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Loss over rate, muP left and standard right: seeds as dots, means as lines, best rates as ticks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, name) in zip(figure.subplots(1, 2, sharey=True, sharex=True), NAMES.items(), strict=True):
        for colour, (width, by_seed) in zip(COLOURS, sorted(curves(results, kind).items()), strict=False):
            rates = sorted({rate for curve in by_seed.values() for rate in curve})
            means = [np.mean([curve[rate] for curve in by_seed.values() if rate in curve]) for rate in rates]
            axes.plot(rates, means, "-", color=colour, label=f"hidden_size {width}")
            for curve in by_seed.values():
                axes.plot(list(curve), list(curve.values()), ".", color=colour, alpha=0.5)
            best = [m for m in map(minimum, by_seed.values()) if m is not None]
            if best:
                axes.axvline(float(np.mean(best)), color=colour, linestyle="--", linewidth=1)
        axes.set(title=name, xlabel="log2 of the learning rate at the base width")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("validation loss (nats per token)")
    figure.savefig(path)
