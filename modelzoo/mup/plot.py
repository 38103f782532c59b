"""Draws a coordinate check: a line for each part of the model, level if its muP is right."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from modelzoo.mup.report import CoordinateReport

COLOURS = {
    "embedding": "#7f7f7f",
    "attention logits": "#b3432b",
    "attention": "#e0912f",
    "MLP": "#2f7f5f",
    "output": "#2b6cb3",
    "head": "#9467bd",
    "logits": "#111111",
}
DASHES = ("-", "--", ":", "-.")
"""By block; from the fifth on again."""


def plot(reports: Sequence[CoordinateReport], path: Path, title: str) -> None:
    """A row of two panels for each parametrisation: changes on the left, sizes on the right, over the width."""
    figure = Figure(figsize=(10, 0.8 + 3.6 * len(reports)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    grid = figure.subplots(len(reports), 2, squeeze=False, sharex=True, sharey="row")
    for (left, right), report in zip(grid, reports, strict=True):
        steps = report.settings.steps
        for axes, quantity, which in ((left, "change", "change over"), (right, "trained", "size after")):
            for part in report.parts:
                if quantity == "trained" and part.judged == "change":
                    continue  # falls by design: no line to judge
                values = [getattr(size, quantity) for size in part.sizes.values()]
                in_block = part.name.startswith("block ")
                number, _, kind = part.name.removeprefix("block ").partition(" ") if in_block else ("0", "", part.name)
                style = {"linestyle": DASHES[int(number) % len(DASHES)], "color": COLOURS[kind]}
                axes.plot(list(part.sizes), values, marker="o", markersize=3.5, label=part.name, **style)
            axes.set(xscale="log", yscale="log", title=f"{report.parametrisation}: {which} {steps} steps")
            widths = list(report.parts[0].sizes)
            axes.set_xticks(widths, [str(width) for width in widths])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        left.set_ylabel("root mean square")
    for axes in grid[-1]:
        axes.set_xlabel("hidden_size")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    figure.savefig(partial)
    partial.replace(path)
