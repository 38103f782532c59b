"""Curves of a study as charts: bits per byte over what was spent, and the learning rates that were tried."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modelzoo.report.charts import Series, line_chart
from modelzoo.report.numbers import count, duration, general, percent
from modelzoo.report.page import absent, details, section

X_NAMES = {"tokens": "tokens", "bytes": "bytes of text", "flops": "FLOPs", "seconds": "seconds of updates"}
LATER = 0.2
"""Of the budget: differences are drawn from there on; before, they are those of the beginning."""


def curve_charts(report: Mapping[str, Any]) -> str:
    """Of the primary domain over each x, and of each domain over tokens."""
    primary = report["primary"]
    charts = [chart for x in X_NAMES if (chart := _curves(report, primary, x))]
    if not charts:
        why = "No validation was measured during the runs (the callback `evaluate` does it)."
        return section("Over the runs", [absent(why, "")], name="curves")
    parts = []
    if difference := _differences(report):
        parts.append(f'<div class="large">{difference}</div>')
    parts.append(f'<div class="grid2">{"".join(charts)}</div>')
    if len(report["domains"]) > 1:
        of_domains = "".join(_curves(report, domain, "tokens") for domain in report["domains"])
        parts.append(details("Each domain over tokens", f'<div class="grid2">{of_domains}</div>'))
    lead = (
        "Validation during the runs, mean of the seeds; the bands are the least and the greatest of them. Point at a "
        "chart, or focus it and use the arrow keys."
    )
    return section("Over the runs", parts, lead, "curves")


def _curves(report: Mapping[str, Any], domain: str, x: str) -> str:
    series = []
    for number, (arm, domains) in enumerate(report["curves"].items()):
        found = [p for p in domains.get(domain, []) if p[x] is not None and (p[x] > 0 or x == "tokens")]
        if len(found) > 1:
            points = [(p[x], p["mean"]) for p in found]
            bands = [(p["low"], p["high"]) if p["high"] > p["low"] else None for p in found]
            series.append(Series(arm, points, bands if any(bands) else (), number))
    if not series:
        return ""
    title = f"Over {X_NAMES[x]}" if domain == report["primary"] else domain
    form: Callable[[float], str] = _flops if x == "flops" else duration if x == "seconds" else count
    name = f"curve-{x}-{list(report['domains']).index(domain) if domain in report['domains'] else 'all'}"
    return line_chart(name, title, series, X_NAMES[x], "bits per byte", x_format=form)


def _differences(report: Mapping[str, Any]) -> str:
    series = []
    for number, (arm, domains) in enumerate(report["curves"].items()):
        found = [p for p in domains.get(report["primary"], []) if p["from_baseline"] is not None]
        end = max((p["tokens"] for p in found), default=0)
        points = [(p["tokens"], p["from_baseline"]) for p in found if p["tokens"] >= LATER * end]
        if arm != report["baseline"] and len(points) > 1:
            series.append(Series(arm, points, color=number))
    if not series:
        return ""
    of = f"{series[0].name} against " if len(series) == 1 else "Change from "
    title = f"{of}{report['baseline']}"
    return line_chart(
        "curve-differences", title, series, "tokens",
        "of the means over the seeds, at the same tokens; less is better", y_format=percent,
        y_tick=lambda y, digits: percent(y, max(0, digits - 2)), rules=[(0.0, "")],
    )  # fmt: skip


def sweep_chart(report: Mapping[str, Any]) -> str:
    """Bits per byte by learning rate, a line an arm."""
    series: Sequence[Series] = [
        Series(arm, found["points"], color=list(report["curves"]).index(arm)) for arm, found in report["sweep"].items()
    ]
    return line_chart(
        "sweep", "Learning rates", series, "peak learning rate", "bits per byte of the held-out text",
        x_format=general, log_x=True,
    )  # fmt: skip


def _flops(value: float) -> str:
    return f"{value:.3g}".replace("e+", "e")
