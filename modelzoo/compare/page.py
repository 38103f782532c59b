"""The page of a study: what came out first, then what it rests on. Drawn from report.json and nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelzoo.compare.curve_charts import curve_charts
from modelzoo.compare.effects import NO_DIFFERENCE
from modelzoo.compare.evidence import (
    MOST_COLUMNS,
    config_differences,
    fairness,
    how_to_read,
    learning_rates,
    mark,
    named,
    number,
    pill,
    reproduce,
    seed_tables,
    speed,
    tasks,
)
from modelzoo.compare.ladder import chain, effect_chart
from modelzoo.compare.run_results import DIVERGED
from modelzoo.report.charts import IntervalScale, shortened
from modelzoo.report.numbers import count, percent, percent_interval
from modelzoo.report.page import absent, details, page, section, text
from modelzoo.report.tables import Cell, Column, Html, table

LONGEST_TITLE = 90


def compare_page(report: Mapping[str, Any]) -> str:
    """The whole HTML file."""
    body = [
        *_head(report),
        _effects(report),
        _arms(report),
        curve_charts(report),
        speed(report),
        tasks(report),
        seed_tables(report),
        fairness(report["fairness"]),
        config_differences(report),
        learning_rates(report),
        reproduce(report),
        how_to_read(report),
    ]
    return page(f"{report['name']}: compared", [part for part in body if part], f"modelzoo compare · {report['name']}")


# ---------------------------------------------------------------------- what came out


def _head(report: Mapping[str, Any]) -> Iterator[str]:
    description, answer = report["description"], report["answer"]
    title = description if 0 < len(description) <= LONGEST_TITLE else report["name"]
    yield f'<header><p class="kicker">modelzoo compare · {text(report["name"])}</p>'
    yield f"<h1>{text(title)}</h1>"
    if description and title != description:
        yield f"<p>{text(description)}</p>"
    verdicts = [effect["verdict"] for effect in report["effects"] if effect["domain"] == report["primary"]]
    color, mark = _sign(verdicts)
    sentences = "".join(f"<p>{text(sentence)}</p>" for sentence in answer["sentences"][:-1])
    yield (
        f'<div class="answer {color}"><span class="mark" aria-hidden="true">{mark}</span><div>'
        f'<p class="verdict">{text(answer["headline"])}</p>{sentences}'
        f"<p><small>{text(answer['sentences'][-1])}</small></p></div></div>"
    )
    for check in report["fairness"]:
        if check["held"] is False:
            yield f'<p class="warning"><b>Does not hold: {text(check["check"])}.</b> {text(check["detail"])}</p>'
    if report["missing"]:
        items = "".join(f"<li>{text(sentence)}</li>" for sentence in report["missing"])
        yield f'<div class="absent"><b>Missing</b><ul>{items}</ul></div>'
    yield '<dl class="tiles">' + "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for name, value, note in _tiles(report)
    )
    yield "</dl></header>"


def _sign(verdicts: Sequence[str]) -> tuple[str, str]:
    if DIVERGED in verdicts:
        return "bad", "!"
    if len(verdicts) == 1 and verdicts[0] in ("better", "worse"):
        return ("good", "✓") if verdicts[0] == "better" else ("bad", "✕")
    if not verdicts or "one seed" in verdicts:
        return "open", "?"
    if set(verdicts) == {"equal"}:
        return "open", "="
    return "open", "–" if set(verdicts) <= {"equal", NO_DIFFERENCE} else "≠"


def _tiles(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    effects = [effect for effect in report["effects"] if effect["domain"] == report["primary"]]
    arms = {arm["name"]: arm for arm in report["arms"]}
    main = chain(report["arms"])
    if len(effects) == 1:
        (only,) = effects
        training = (report["speed"] or {}).get(only["arm"], {}).get("training")
        pair = f"{only['arm']} against {only['against']}"
        if only["verdict"] == DIVERGED:
            yield pair, DIVERGED, "no verdict"
        else:
            yield pair, percent(only["relative"]), percent_interval(only["interval"])
        if training and training["ratio"] is not None:
            interval = training["interval"] and [end - 1 for end in training["interval"]]
            yield "tokens/s in training", percent(training["ratio"] - 1), percent_interval(interval)
    elif len(main) > 2 and arms[main[-1]]["from_baseline"] is not None:
        yield f"{main[0]} → {main[-1]}", percent(arms[main[-1]]["from_baseline"]), f"all {len(main) - 1} steps together"
    if len(effects) > 1:
        shown = sum(effect["verdict"] in ("better", "worse") for effect in effects)
        yield "differences shown", f"{shown} of {len(effects)}", f"{100 * report['confidence']:g} % for all together"
    runs = sum(len(arm["seeds"]) for arm in report["arms"])
    planned = len(report["arms"]) * len(report["seeds"])
    yield (
        "runs",
        f"{runs}" if runs == planned else f"{runs} of {planned}",
        f"{len(arms)} arms, {len(report['seeds'])} seeds",
    )
    yield (
        "tokens an arm",
        count(max(arm["tokens"] for arm in arms.values())),
        f"{max(arm['steps'] for arm in arms.values()):,} steps",
    )
    held = sum(check["held"] is True for check in report["fairness"])
    yield "checks of fairness", f"{held} of {len(report['fairness'])}", "hold"


# ---------------------------------------------------------------------- effects


def _effects(report: Mapping[str, Any]) -> str:
    if not report["effects"]:
        return section("Effects", [absent("No comparison has been measured.", "")], name="effects")
    ladder = len(chain(report["arms"])) > 2
    domains = report["domains"]
    what = "on the held-out text" if len(domains) == 1 else f"mean of {len(domains)} domains, each counting the same"
    level = f"The intervals are of {100 * report['confidence']:g} %"
    level += f" for all {report['comparisons']} comparisons together." if report["comparisons"] > 1 else "."
    lead = f"Change of bits per byte, {what}; less is better. {level}"
    if ladder:
        lead = f"Each step against the one before it. {lead}"
    parts = [f'<div class="card">{effect_chart(report)}</div>']
    if len(domains) > 1:
        parts.append(details(f"By domain: {', '.join(domains)}", f'<div class="card">{_by_domain(report)}</div>'))
    return section("The ladder, step by step" if ladder else "Effects", parts, lead, "effects")


def _by_domain(report: Mapping[str, Any]) -> str:
    effects = [effect for effect in report["effects"] if effect["domain"] != report["primary"]]
    scale = IntervalScale([e["relative"] for e in effects], [e["interval"] for e in effects])
    columns = [Column("arm"), Column("domain"), Column("before", number=True), Column("after", number=True),
               Column("change", number=True), Column("interval", number=True), Column("better ← 0 → worse", wide=True),
               Column("shown")]  # fmt: skip
    rows = [
        (
            named(effect["arm"], effect["against"]),
            effect["domain"],
            f"{effect['before']:.4f}",
            f"{effect['after']:.4f}",
            percent(effect["relative"]),
            percent_interval(effect["interval"]),
            Html(mark(effect["relative"], effect["interval"], scale, effect["verdict"])),
            Html(pill(effect["verdict"])),
        )
        for effect in effects
    ]
    note = (
        "<p><small>Exploratory: the verdicts of this page are of the mean of the domains. Of many intervals on single "
        "domains some leave out zero by chance.</small></p>"
    )
    return note + table("Effects by domain", columns, rows)


# ---------------------------------------------------------------------- arms


def _arms(report: Mapping[str, Any]) -> str:
    arms, domains, primary = report["arms"], report["domains"], report["primary"]
    names = [primary, *domains] if 1 < len(domains) <= MOST_COLUMNS else [primary]
    uneven = len({arm["bytes_per_token"] for arm in arms}) > 1
    as_trained = report["speed"] is not None and not report["speed_of"]["overrides"]
    speeds = {name: found["training"] for name, found in report["speed"].items()} if as_trained else {}
    columns = [Column("arm")]
    columns += [
        Column("bits per byte" if name == primary else shortened(name), number=True) for name in names if domains
    ]
    columns += [Column("parameters", number=True), Column("FLOPs a token", number=True)]
    columns += [Column("bytes a token", number=True)] if uneven else []
    columns += [Column("tokens/s", number=True), Column("memory", number=True)]
    rows = []
    for arm in arms:
        timed = speeds.get(arm["name"])
        speed = timed["per_second"] if timed else arm["tokens_per_second"]
        alone = report["speed"].get(arm["name"], {}).get("peak_memory_bytes") if as_trained else None
        memory = alone or arm["peak_memory_bytes"]
        without = ", ".join(map(str, arm["missing_seeds"]))
        lost = f"; without seed {without}" if without else ""
        cells: list[Cell] = [named(arm["name"], arm["against"], lost)]
        cells += [number(arm["bits_per_byte"].get(name), "{:.4f}") for name in names if domains]
        cells += [count(arm["parameters"]), count(arm["flops_per_token"])]
        cells += [number(arm["bytes_per_token"], "{:.2f}")] if uneven else []
        cells += ["–" if speed is None else count(speed), "–" if memory is None else f"{count(memory)}B"]
        rows.append(cells)
    lead = "Bits per byte are means over the seeds, on the same held-out text for all; less is better."
    if len(names) > 1:
        lead += f" The first column is the mean of {', '.join(domains)}."
    return section("The arms", [f'<div class="card">{table("The arms", columns, rows)}</div>'], lead, "arms")
