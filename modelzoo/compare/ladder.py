"""The effects as a chart: a row for each step, its change with its interval, and where all steps so far have led.

It is a table whose cells are drawn in, so that it reads from top to bottom without a picture too. Rows join: the line
of what was reached leaves one at the place where it enters the next, whatever their heights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from modelzoo.compare.run_results import DIVERGED
from modelzoo.report.charts import IntervalScale
from modelzoo.report.numbers import decimals, percent, percent_interval, ticks
from modelzoo.report.page import text

TONES = {"better": "good", "faster": "good", "worse": "bad", "slower": "bad", DIVERGED: "bad"}


def chain(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """The longest run of arms from the baseline, each compared with the one before it; of two, the one named last."""
    against = {arm["name"]: arm["against"] for arm in arms}
    longest: list[str] = []
    for name in against:
        found, at = [name], against[name]
        while at is not None and at not in found:
            found.insert(0, at)
            at = against[at]
        longest = found if len(found) >= len(longest) else longest
    return longest


def effect_chart(report: Mapping[str, Any]) -> str:
    """All comparisons of the primary domain. Where arms build on one another they stand in order, the rest apart."""
    arms = {arm["name"]: arm for arm in report["arms"]}
    effects = {e["arm"]: e for e in report["effects"] if e["domain"] == report["primary"]}
    known = [e for e in effects.values() if e["relative"] is not None]
    scale = IntervalScale([e["relative"] for e in known], [e["interval"] for e in known])
    main = chain(report["arms"])
    if len(main) < 3:  # no ladder: all against one
        rows = [_row(arms[name], effect, scale) for name, effect in effects.items()]
        return _table("Effects", ["arm", *HEADS], [*rows, _axes(scale)])
    reached = IntervalScale([a["from_baseline"] for a in arms.values() if a["from_baseline"] is not None], [])
    rows = [
        _row(
            arms[name],
            effects.get(name),
            scale,
            _stair(arms, main, number, reached, tone(effects.get(name, {}).get("verdict"))),
            number,
        )
        for number, name in enumerate(main)
    ]
    chart = _table("The steps in order", ["step", *HEADS, "all steps so far"], [*rows, _axes(scale, reached)])
    if aside := [name for name in effects if name not in main]:
        rows = [_row(arms[name], effects[name], scale, "<td></td>") for name in aside]
        heads = ["set apart", *HEADS, ""]
        chart += _table("Set apart from the steps", heads, [*rows, _axes(scale, None, "<td></td>")])
    return chart


HEADS = ("change", "better ← 0 → worse", "verdict", "bits per byte")


def tone(verdict: str | None) -> str:
    """The colour of a verdict."""
    return TONES.get(verdict or "", "open")


def _table(caption: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    kinds = {
        "change": "number",
        "bits per byte": "number",
        HEADS[1]: "fill",
        "all steps so far": "fill stair",
        "": "stair",
    }
    head = "".join(
        f'<th scope="col" role="columnheader" class="{kinds.get(name, "")}">{text(name)}</th>' for name in heads
    )
    return (
        f'<table class="cards rungs" role="table"><caption>{text(caption)}</caption><thead role="rowgroup">'
        f'<tr role="row">{head}</tr></thead><tbody role="rowgroup">{"".join(rows[:-1])}</tbody>{rows[-1]}</table>'
    )


def _row(
    arm: Mapping[str, Any],
    effect: Mapping[str, Any] | None,
    scale: IntervalScale,
    stair: str = "",
    number: int | None = None,
) -> str:
    against = f"against {arm['against']}" if arm["against"] else "the baseline"
    mark = f'<span class="rung">{number}</span>' if number is not None else ""
    note = f"<small>{text(arm['description'])}</small>" if arm["description"] else ""
    compared = f"<small>{text(against)}</small>" if number is None or number == 0 else ""
    level = arm["bits_per_byte"].get(effect["domain"]) if effect else next(iter(arm["bits_per_byte"].values()), None)
    total = arm["from_baseline"]
    since = f"<small>{text(percent(total))} in all</small>" if number and total is not None else ""
    if effect is None:
        missing = "" if arm["against"] is None else "not measured"
        cells = ["<td></td>", f'<td class="fill bare">{_zero(scale)}</td>', f"<td>{missing}</td>"]
    else:
        color, interval = tone(effect["verdict"]), percent_interval(effect["interval"])
        pill = f'<span class="pill {color}">{text(effect["verdict"])}</span>'
        left = effect["relative"] is not None  # some pair that has not diverged
        change = percent(effect["relative"]) if left else "–"
        cells = [
            f'<td role="cell" class="number" data-name="change"><span>{text(change)}'
            f"<small>{text(interval) if left else ''}</small></span></td>",
            f'<td role="cell" class="fill">{_mark(effect, scale, color) if left else _zero(scale)}</td>',
            f'<td role="cell" class="told" data-name="verdict">{pill}</td>',
        ]
    shown = "–" if level is None else f"{level:.4f}"
    named = f"{mark}<span>{text(arm['name'])}{note}{compared}</span>"
    return (
        f'<tr role="row"><th scope="row" role="rowheader">{named}</th>'
        f'{"".join(cells)}<td role="cell" class="number" data-name="bits per byte"><span>{shown}{since}</span></td>'
        f"{stair}</tr>"
    )


def _mark(effect: Mapping[str, Any], scale: IntervalScale, color: str) -> str:
    hint = f"{effect['arm']}: {percent(effect['relative'])} ({percent_interval(effect['interval'])})"
    whisker = ""
    if effect["interval"] is not None:
        low, high = (_at(scale, end) for end in effect["interval"])
        whisker = f'<line class="whisker" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
        whisker += "".join(f'<line class="cap" x1="{end}" x2="{end}" y1="50%" y2="50%"/>' for end in (low, high))
    dot = f'<circle cx="{_at(scale, effect["relative"])}" cy="50%" r="5.5"/>'
    return (
        f'<svg class="interval {color}" aria-hidden="true"><title>{text(hint)}</title>'
        f'<rect class="under" width="100%" height="100%"/>{_line("zero", scale, 0, 0, 100)}{whisker}{dot}</svg>'
    )


def _zero(scale: IntervalScale) -> str:
    return f'<svg class="interval" aria-hidden="true">{_line("zero", scale, 0, 0, 100)}</svg>'


def _stair(
    arms: Mapping[str, Mapping[str, Any]], main: Sequence[str], number: int, scale: IntervalScale, color: str
) -> str:
    """The line enters at the top where the last step had come to, and leaves at the bottom where this one has; what is
    between has the colour of the step's verdict."""
    value = arms[main[number]]["from_baseline"]
    known = [arms[name]["from_baseline"] for name in main[:number] if arms[name]["from_baseline"] is not None]
    parts = [_line("zero", scale, 0, 0, 100)]
    if value is not None:
        before = known[-1] if known else value
        if known:
            parts.append(_line("path", scale, before, 0, 50))
            ends = f'x1="{_at(scale, before)}" x2="{_at(scale, value)}"'
            parts.append(f'<line class="move {color}" {ends} y1="50%" y2="50%"/>')
        if number < len(main) - 1:
            parts.append(_line("path", scale, value, 50, 100))
        parts.append(f'<circle cx="{_at(scale, value)}" cy="50%" r="4.5"/>')
        parts.insert(0, f"<title>{text(f'{main[number]}: {percent(value)} from the baseline')}</title>")
    elif known and number < len(main) - 1:
        parts.append(_line("path", scale, known[-1], 0, 100))
    return f'<td class="fill stair"><svg class="interval" aria-hidden="true">{"".join(parts)}</svg></td>'


def _axes(scale: IntervalScale, reached: IntervalScale | None = None, last: str = "") -> str:
    cells = f'<td></td><td></td><td class="fill">{_axis(scale)}</td><td></td><td></td>'
    cells += last or ("" if reached is None else f'<td class="fill stair">{_axis(reached, 2)}</td>')
    return f'<tfoot aria-hidden="true"><tr>{cells}</tr></tfoot>'


def _axis(scale: IntervalScale, most: int = 4) -> str:
    at = ticks(scale.low, scale.high, most)
    digits = max(0, decimals(at) - 2)
    labels = "".join(
        f'<text x="{_at(scale, value)}" y="1.1em" text-anchor="middle">{text(percent(value, digits))}</text>'
        for value in at
    )
    return f'<svg class="axis">{labels}</svg>'


def _line(kind: str, scale: IntervalScale, x: float, top: int, bottom: int) -> str:
    return f'<line class="{kind}" x1="{_at(scale, x)}" x2="{_at(scale, x)}" y1="{top}%" y2="{bottom}%"/>'


def _at(scale: IntervalScale, value: float) -> str:
    return f"{100 * scale.place(value):.2f}%"
