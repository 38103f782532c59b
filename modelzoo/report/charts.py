"""Charts as inline SVG that fits any width: lines are stretched, while text, dots and strokes keep their size.

A chart carries its numbers as a table below it: for readers of screens, for those who want the digits, and for the
script, which reads from there what to show under the pointer. Without the script nothing is lost but that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from modelzoo.report.numbers import count, decimals, log_ticks, signed, ticks
from modelzoo.report.page import details, text

NUM_COLORS = 6
MOST_LABELS = 8
"""More series than these are named in the legend alone."""
LABEL_HEIGHT = 0.07
"""Of a label beside the plot, as a part of the plot's height."""
Format = Callable[[float], str]
Place = Callable[[float], float]
"""A value as a part of the plot, 0 to 1."""


@dataclass(frozen=True)
class Series:
    """A line."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y), x rising."""
    band: Sequence[tuple[float, float] | None] = ()
    """An interval of y for each point; empty where there are none."""
    color: int = 0
    dashed: bool = False


def line_chart(
    name: str,
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    x_format: Format = count,
    y_format: Format = lambda y: f"{y:.4f}",
    y_tick: Callable[[float, int], str] = lambda y, digits: signed(y, digits).removeprefix("+"),
    include: Sequence[float] = (),
    rules: Sequence[tuple[float, str]] = (),
    log_x: bool = False,
) -> str:
    """A figure: lines with their bands, named at their ends, values under the pointer or at the arrow keys.

    `name` is unique on the page; `y_tick` also hears how many decimals
    tell the ticks apart. `include` are values of y that must be seen, `rules` horizontal lines, named.
    """
    series = [one for one in series if one.points]
    assert series, f"{name}: nothing to draw"
    x_of, x_ticks = _x_scale([x for one in series for x, _ in one.points], log_x)
    ys = [y for one in series for _, y in one.points] + [e for one in series for b in one.band if b for e in b]
    y_of, y_ticks = _y_scale([*ys, *include, *(value for value, _ in rules)])
    described = f"{y_label} over {x_label}. " + " ".join(
        f"{one.name}: from {y_format(one.points[0][1])} to {y_format(one.points[-1][1])}." for one in series
    )
    labelled = 1 < len(series) <= MOST_LABELS
    parts = [
        f'<figure class="chart{" labelled" if labelled else ""}"><figcaption><b>{text(title)}</b> '
        f'<span class="dim">{text(y_label)}</span></figcaption>',
        _legend(series) if len(series) > 1 else "",
        f'<div class="plot" data-title="{text(title)}"><svg class="canvas" role="img" '
        f'aria-labelledby="{name}-title {name}-description">',
        f'<title id="{name}-title">{text(title)}</title><desc id="{name}-description">{text(described)}</desc>',
        *_grid(x_of, x_ticks, x_format, y_of, y_ticks, lambda y: y_tick(y, decimals(y_ticks)), rules, x_label),
        '<svg class="lines" viewBox="0 0 1000 1000" preserveAspectRatio="none">',
        *(_band(one, x_of, y_of) for one in series if one.band),
        *(_line(one, x_of, y_of) for one in series),
        "</svg>",
        *(_end(one, x_of, y_of) for one in series),
        *(_labels(series, y_of) if labelled else ()),
        '<g class="cursor"></g></svg><div class="tip" hidden></div></div>',
        details("Numbers", _numbers(series, x_label, x_of, y_of, x_format, y_format)),
        "</figure>",
    ]
    return "\n".join(part for part in parts if part)


def interval_mark(
    value: float,
    interval: Sequence[float] | None,
    scale: "IntervalScale",
    color: str = "",
    limit: float | None = None,
    hint: str = "",
) -> str:
    """A dot with its interval, beside others on the same scale; `limit` is marked. The numbers stand next to it, and
    `hint` shows under the pointer."""
    x = f"{100 * scale.place(value):.2f}%"
    whisker = ""
    if interval is not None:
        low, high = (f"{100 * scale.place(end):.2f}%" for end in interval)
        whisker = f'<line class="whisker" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
    zero = f"{100 * scale.place(0):.2f}%"
    if limit is not None and scale.low < limit < scale.high:
        at = f"{100 * scale.place(limit):.2f}%"
        whisker = f'<line class="limit" x1="{at}" x2="{at}" y1="0" y2="100%"/>' + whisker
    return (
        f'<svg class="interval {color}" aria-hidden="true">{_hint(hint)}<line class="zero" x1="{zero}" x2="{zero}" '
        f'y1="0" y2="100%"/>{whisker}<circle cx="{x}" cy="50%" r="4"/></svg>'
    )


def _hint(hint: str) -> str:
    return f"<title>{text(hint)}</title>" if hint else ""


class IntervalScale:
    """What several interval marks have in common: zero, and room for all of them."""

    def __init__(
        self, values: Sequence[float], intervals: Sequence[Sequence[float] | None], include: Sequence[float] = ()
    ):
        ends = [0.0, *values, *(end for interval in intervals if interval for end in interval), *include]
        low, high = min(ends), max(ends)
        room = 0.06 * (high - low) or 1.0
        self.low, self.high = low - room, high + room

    def place(self, value: float) -> float:
        """0 at the left, 1 at the right."""
        return (value - self.low) / (self.high - self.low)


def thinned(points: Sequence[tuple[float, float]], most: int = 200) -> list[tuple[float, float]]:
    """At most so many points: means over neighbours, but the first and the last as they are."""
    if len(points) <= most:
        return list(points)
    inner = np.array_split(np.array(points[1:-1]), most - 2)
    return [points[0], *((float(x), float(y)) for x, y in (part.mean(0) for part in inner)), points[-1]]


def _x_scale(xs: Sequence[float], log: bool) -> tuple[Place, list[float]]:
    low, high = min(xs), max(xs)
    if not log and 0 < low <= 0.05 * high:
        low = 0.0
    if low == high:
        return (lambda x: 0.5), [low]
    if log and low > 0:
        span = np.log(high / low)
        return (lambda x: float(np.log(x / low) / span)), log_ticks(low, high)
    return (lambda x: (x - low) / (high - low)), ticks(low, high, 4)


def _y_scale(ys: Sequence[float]) -> tuple[Place, list[float]]:
    """0 at the top, 1 at the bottom, as SVG counts."""
    low, high = min(ys), max(ys)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - room, high + room
    return (lambda y: (high - y) / (high - low)), ticks(low, high, 5)


def _grid(
    x_of: Place,
    x_ticks: Sequence[float],
    x_format: Format,
    y_of: Place,
    y_ticks: Sequence[float],
    y_tick: Format,
    rules: Sequence[tuple[float, str]],
    x_label: str,
) -> list[str]:
    ruled = {value for value, _ in rules}
    parts = []
    for y in y_ticks:
        at = f"{100 * y_of(y):.2f}%"
        if y not in ruled:
            parts.append(f'<line class="grid" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick" x="-8" y="{at}" dy=".32em" text-anchor="end">{text(y_tick(y))}</text>')
    for value, label in rules:
        at = f"{100 * y_of(value):.2f}%"
        kind = "rule limit" if label else "rule"
        parts.append(f'<line class="{kind}" x1="0" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text class="tick" x="100%" dx="-2" y="{at}" dy="-.4em" text-anchor="end">{text(label)}</text>'
            if label
            else ""
        )
    for x in x_ticks:
        place = x_of(x)
        anchor = "start" if place < 0.02 else "end" if place > 0.98 else "middle"
        parts.append(
            f'<text class="tick" x="{100 * place:.2f}%" y="100%" dy="1.5em" text-anchor="{anchor}">'
            f"{text(x_format(x))}</text>"
        )
    parts.append(f'<text class="tick" x="50%" y="100%" dy="3em" text-anchor="middle">{text(x_label)}</text>')
    return parts


def _line(one: Series, x_of: Place, y_of: Place) -> str:
    path = "L".join(f"{1000 * x_of(x):.1f} {1000 * y_of(y):.1f}" for x, y in one.points)
    return f'<path class="{_style(one)}" d="M{path}"/>'


def _band(one: Series, x_of: Place, y_of: Place) -> str:
    """A gap where a point has no interval."""
    runs: list[list[tuple[float, float, float]]] = [[]]
    for (x, _), interval in zip(one.points, one.band, strict=True):
        if interval is None:
            runs.append([])
        else:
            runs[-1].append((1000 * x_of(x), 1000 * y_of(interval[0]), 1000 * y_of(interval[1])))
    edges = [[(x, low) for x, low, _ in run] + [(x, high) for x, _, high in reversed(run)] for run in runs if run]
    path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in edge) + "Z" for edge in edges)
    return f'<path class="band c{one.color % NUM_COLORS}" d="{path}"/>' if path else ""


def _end(one: Series, x_of: Place, y_of: Place) -> str:
    x, y = one.points[-1]
    return (
        f'<circle class="end c{one.color % NUM_COLORS}" cx="{100 * x_of(x):.2f}%" cy="{100 * y_of(y):.2f}%" r="3.5"/>'
    )


def _labels(series: Sequence[Series], y_of: Place) -> list[str]:
    """The names at the lines' ends, moved apart where they would overlap."""
    wanted = sorted((y_of(one.points[-1][1]), number) for number, one in enumerate(series))
    places: list[float] = []
    for place, _ in wanted:
        places.append(max(place, places[-1] + LABEL_HEIGHT) if places else place)
    for i in reversed(range(len(places))):  # back up from the bottom edge
        below = places[i + 1] - LABEL_HEIGHT if i + 1 < len(places) else 1.0
        places[i] = min(places[i], below)
    return [
        f'<text class="label c{series[number].color % NUM_COLORS}" x="100%" dx="10" y="{100 * place:.2f}%" dy=".32em" '
        f'aria-hidden="true">{text(shortened(series[number].name))}</text>'
        for place, (_, number) in zip(places, wanted, strict=True)
    ]


def shortened(name: str, most: int = 16) -> str:
    """A name that fits beside a plot."""
    return name if len(name) <= most else name[: most - 1] + "…"


def _legend(series: Sequence[Series]) -> str:
    keys = "".join(
        f'<li><svg class="key" aria-hidden="true"><line class="{_style(one)}" x1="0" x2="100%" y1="50%" y2="50%"/>'
        f"</svg>{text(one.name)}</li>"
        for one in series
    )
    return f'<ul class="legend">{keys}</ul>'


def _numbers(
    series: Sequence[Series], x_label: str, x_of: Place, y_of: Place, x_format: Format, y_format: Format
) -> str:
    """The table: one row for each x of any series. `data-x` and `data-y` are places in the plot."""
    cells: list[dict[float, str]] = []
    for one in series:
        bands = one.band or [None] * len(one.points)
        cells.append(
            {
                x: f'<td data-y="{y_of(y):.4f}">{text(y_format(y))}'
                + (f" <small>({text(y_format(band[0]))} … {text(y_format(band[1]))})</small>" if band else "")
                + "</td>"
                for (x, y), band in zip(one.points, bands, strict=True)
            }
        )
    heads = "".join(f'<th scope="col" class="c{one.color % NUM_COLORS}">{text(one.name)}</th>' for one in series)
    rows = [
        f'<tr data-x="{x_of(x):.4f}"><th scope="row">{text(x_format(x))}</th>'
        + "".join(column.get(x, "<td></td>") for column in cells)
        + "</tr>"
        for x in sorted({x for one in series for x, _ in one.points})
    ]
    return (
        f'<div class="scroll"><table class="data"><thead><tr><th scope="col">{text(x_label)}</th>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _style(one: Series) -> str:
    again = " dotted" if one.color // NUM_COLORS % 2 else ""
    return f"line c{one.color % NUM_COLORS}" + (" dashed" if one.dashed else "") + again
