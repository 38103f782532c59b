"""The picture of a tokenizer report."""

from pathlib import Path
from typing import Any

from data_preprocessing.tokenizer_report import KINDS, Report

MARKERS = "osD^vPX*<>"
SPREAD = 0.3
"""Of a row's height, over which the marks of the tokenizers are set apart: equal ones stay visible."""

Row = tuple[str, list[float | None]]


def plot(report: Report, path: Path) -> None:
    """Write bytes per token by domain and by kind of text, and fertility: a row each, a mark per tokenizer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    numbers = range(len(report.tokenizers))
    domains: list[Row] = []
    words: list[Row] = []
    for index, domain in enumerate(report.domains):
        domains.append((domain.name, [report.bytes_per_token(t, index) for t in numbers]))
        words.append((domain.name, [report.tokens_per_word(t, index) for t in numbers]))
    kinds: list[Row] = [(kind, [report.kind_bytes_per_token(t, k) for t in numbers]) for k, kind in enumerate(KINDS)]
    kinds = [(name, values) for name, values in kinds if any(values)]
    heights = [len(rows) + 0.6 for rows in (domains, kinds, words)]
    figure = Figure(figsize=(8, 0.36 * sum(heights) + 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    by_domain, by_kind, fertility = figure.subplots(3, 1, height_ratios=heights)
    _draw(by_domain, report.names, domains, "by domain", "bytes per token (more is better)")
    _draw(by_kind, report.names, kinds, "by kind of text", "bytes per token (more is better)")
    _draw(fertility, report.names, words, "fertility by domain", "tokens per word (fewer is better)")
    longest = max(axes.get_xlim()[1] for axes in (by_domain, by_kind))
    for axes in (by_domain, by_kind):
        axes.set_xlim(0, longest)
    handles, labels = by_domain.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(4, len(labels)), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw(axes: Any, names: list[str], rows: list[Row], title: str, label: str) -> None:
    for y, (_, values) in enumerate(rows):
        known = [value for value in values if value is not None]
        axes.plot([min(known), max(known)], [y, y], color="0.85", linewidth=3, zorder=1, solid_capstyle="round")
    for number, name in enumerate(names):
        shift = SPREAD * (number / (len(names) - 1) - 0.5) if len(names) > 1 else 0.0
        marks = [(values[number], y + shift) for y, (_, values) in enumerate(rows) if values[number] is not None]
        look = {"marker": MARKERS[number % len(MARKERS)], "color": f"C{number % 10}", "edgecolors": "white"}
        axes.scatter([x for x, _ in marks], [y for _, y in marks], s=55, label=name, zorder=2, **look)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(label, fontsize=9)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
