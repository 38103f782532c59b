"""The page of a study: what came out first, then what it rests on. Drawn from report.json and nothing else."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelzoo.compare.curve_charts import curve_charts, sweep_chart
from modelzoo.compare.effects import NO_DIFFERENCE
from modelzoo.compare.ladder import chain, effect_chart, tone
from modelzoo.compare.results import collect
from modelzoo.files import write_text
from modelzoo.report.charts import IntervalScale, interval_mark
from modelzoo.report.numbers import count, duration, general, percent, percent_interval, probability
from modelzoo.report.page import absent, details, page, section, text
from modelzoo.report.tables import Column, Html, facts, table

JSON_NAME, PAGE_NAME = "report.json", "report.html"
MOST_COLUMNS = 4
"""More domains, or seeds, than these stand in one cell."""
LONGEST_TITLE = 90
MACHINE = {"device": "device", "name": "processor", "threads": "threads", "precision": "precision", "ranks": "ranks",
           "system": "system"}  # fmt: skip


def write_report(study_dir: Path) -> dict[str, Any]:
    """Write `report.json` and `report.html` into a study's folder, and return what the JSON holds.

    Raises UserError where there is no study, or a file of it is damaged.
    """
    report = collect(study_dir)
    write_text(study_dir / JSON_NAME, json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_text(study_dir / PAGE_NAME, compare_page(report))
    return report


def compare_page(report: Mapping[str, Any]) -> str:
    """The whole HTML file."""
    body = [
        *_head(report),
        _effects(report),
        _arms(report),
        curve_charts(report),
        _speed(report),
        _seeds(report),
        _fairness(report["fairness"]),
        _differences(report),
        _sweep(report),
        _reproduce(report),
        _how_to_read(report),
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
    if len(verdicts) == 1 and verdicts[0] in ("better", "worse"):
        return ("good", "✓") if verdicts[0] == "better" else ("bad", "✕")
    if not verdicts or "one seed" in verdicts:
        return "open", "?"
    return "open", "=" if set(verdicts) <= {"equal", NO_DIFFERENCE} else "≠"


def _tiles(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    effects = [effect for effect in report["effects"] if effect["domain"] == report["primary"]]
    arms = {arm["name"]: arm for arm in report["arms"]}
    main = chain(report["arms"])
    if len(effects) == 1:
        (only,) = effects
        training = (report["speed"] or {}).get(only["arm"], {}).get("training")
        yield f"{only['arm']} against {only['against']}", percent(only["relative"]), percent_interval(only["interval"])
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
        lead = f"Each step against the one before it. {lead} The line at the right adds the steps up."
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
            Html(f"{text(effect['arm'])}<small>against {text(effect['against'])}</small>"),
            effect["domain"],
            f"{effect['before']:.4f}",
            f"{effect['after']:.4f}",
            percent(effect["relative"]),
            percent_interval(effect["interval"]),
            Html(_mark(effect["relative"], effect["interval"], scale, effect["verdict"])),
            Html(_pill(effect["verdict"])),
        )
        for effect in effects
    ]
    note = (
        "<p><small>Exploratory: the verdicts of this page are of the mean of the domains. Of many intervals on single "
        "domains some leave out zero by chance.</small></p>"
    )
    return note + table("Effects by domain", columns, rows)


def _mark(value: float, interval: Sequence[float] | None, scale: IntervalScale, verdict: str | None) -> str:
    hint = f"{percent(value)} ({percent_interval(interval)})"
    return interval_mark(
        value, interval, scale, tone({"faster": "better", "slower": "worse"}.get(verdict or "", verdict)), hint=hint
    )


def _pill(verdict: str) -> str:
    return f'<span class="pill {tone(verdict)}">{text(verdict)}</span>'


# ---------------------------------------------------------------------- arms


def _arms(report: Mapping[str, Any]) -> str:
    arms, domains, primary = report["arms"], report["domains"], report["primary"]
    names = [primary, *domains] if 1 < len(domains) <= MOST_COLUMNS else [primary]
    uneven = len({arm["bytes_per_token"] for arm in arms}) > 1
    speeds = {name: found["training"] for name, found in (report["speed"] or {}).items()}
    columns = [Column("arm")]
    columns += [Column("bits per byte" if name == primary else name, number=True) for name in names if domains]
    columns += [Column("parameters", number=True), Column("FLOPs a token", number=True)]
    columns += [Column("bytes a token", number=True)] if uneven else []
    columns += [Column("tokens/s", number=True), Column("memory", number=True)]
    rows = []
    for arm in arms:
        timed = speeds.get(arm["name"])
        speed = timed["per_second"] if timed else arm["tokens_per_second"]
        memory = (report["speed"] or {}).get(arm["name"], {}).get("peak_memory_bytes") or arm["peak_memory_bytes"]
        cells: list[str | Html] = [Html(f"{text(arm['name'])}<small>{text(_against(arm))}</small>")]
        cells += [_number(arm["bits_per_byte"].get(name), "{:.4f}") for name in names if domains]
        cells += [count(arm["parameters"]), count(arm["flops_per_token"])]
        cells += [_number(arm["bytes_per_token"], "{:.2f}")] if uneven else []
        cells += ["–" if speed is None else count(speed), "–" if memory is None else f"{count(memory)}B"]
        rows.append(cells)
    lead = "Bits per byte are means over the seeds, on the same held-out text for all; less is better."
    if len(names) > 1:
        lead += f" The first column is the mean of {', '.join(domains)}."
    return section("The arms", [f'<div class="card">{table("The arms", columns, rows)}</div>'], lead, "arms")


def _against(arm: Mapping[str, Any]) -> str:
    lost = f"; without seed {', '.join(map(str, arm['missing_seeds']))}" if arm["missing_seeds"] else ""
    return (f"against {arm['against']}" if arm["against"] else "the baseline") + lost


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


# ---------------------------------------------------------------------- speed


def _speed(report: Mapping[str, Any]) -> str:
    if report["speed"] is None:
        fill = "Tokens per second above are of the runs' own clocks, one run after the other, so they do not compare."
        return section("Speed", [absent("The arms were not timed side by side.", fill)], name="speed")
    parts = [
        f'<h3>{title}</h3><div class="card">{_speeds(report["speed"], report["arms"], key, title)}</div>'
        for key, title in (("training", "Training"), ("generation", "Generation"))
        if any(found[key] for found in report["speed"].values())
    ]
    if any(found["all_reduces"] for found in report["speed"].values()):
        columns = [
            Column("arm"),
            Column("forward", number=True),
            Column("backward", number=True),
            Column("", wide=True),
        ]
        rows = [
            (name, f"{reduces['forward']:g}", f"{reduces['backward']:g}", "")
            for name, found in report["speed"].items()
            if (reduces := found["all_reduces"])
        ]
        parts.append("<h3>All-reduces of a layer under tensor parallel</h3>")
        parts.append(f'<div class="card">{table("All-reduces a layer", columns, rows)}</div>')
    of = report["speed_of"]
    lead = (
        f"Timed in turn, {of['rounds']} rounds, so that what else the machine did fell on all alike ({of['device']}, "
        f"{of['threads']} threads, {of['precision']}). The change is the median of the rounds; its interval is of the "
        "median, and holds for all comparisons together. Of one machine: another may tell another story."
    )
    return section("Speed", parts, lead, "speed")


def _speeds(speed: Mapping[str, Any], arms: Sequence[Mapping[str, Any]], key: str, title: str) -> str:
    by_name = {arm["name"]: arm for arm in arms}
    timed = {name: found[key] for name, found in speed.items() if found[key]}
    changes = {name: found["ratio"] - 1 for name, found in timed.items() if found["ratio"] is not None}
    intervals = {n: [end - 1 for end in timed[n]["interval"]] if timed[n]["interval"] else None for n in changes}
    scale = IntervalScale(list(changes.values()), list(intervals.values()))
    uneven = key == "training" and len({arm["bytes_per_token"] for arm in arms}) > 1
    columns = [Column("arm"), Column("tokens/s", number=True), *([Column("bytes/s", number=True)] if uneven else []),
               Column("change", number=True), Column("interval", number=True), Column("slower ← 0 → faster", wide=True),
               Column("verdict")]  # fmt: skip
    rows = []
    for name, found in timed.items():
        per_token = by_name[name]["bytes_per_token"]
        read = ["–" if per_token is None else count(found["per_second"] * per_token)] if uneven else []
        compared = name in changes
        rows.append(
            [
                Html(f"{text(name)}<small>{text(_against(by_name[name] | {'missing_seeds': ()}))}</small>"),
                count(found["per_second"]),
                *read,
                percent(changes[name]) if compared else "",
                percent_interval(intervals[name]) if compared else "",
                Html(_mark(changes[name], intervals[name], scale, found["verdict"]) if compared else ""),
                Html(_pill(found["verdict"]) if compared else ""),
            ]
        )
    return table(title, columns, rows)


# ---------------------------------------------------------------------- what it rests on


def _seeds(report: Mapping[str, Any]) -> str:
    effects = [effect for effect in report["effects"] if effect["domain"] == report["primary"]]
    if not effects:
        return ""
    seeds = report["seeds"]
    wide = len(seeds) <= MOST_COLUMNS + 1
    own = [Column(f"seed {seed}", number=True) for seed in seeds] if wide else [Column("seeds", wide=True)]
    columns = [Column("change"), *own, Column("seeds better", number=True), Column("documents better", number=True)]
    rows = []
    for effect in effects:
        by_seed = dict(zip(effect["seeds"], effect["by_seed"], strict=True))
        shown = [percent(by_seed[seed]) if seed in by_seed else "–" for seed in seeds]
        rows.append(
            [
                Html(f"{text(effect['arm'])}<small>against {text(effect['against'])}</small>"),
                *(shown if wide else [" · ".join(shown)]),
                Html(_split(effect["seeds_better"], len(effect["seeds"]), effect["seeds_sign_test"])),
                Html(_split(effect["documents_better"], effect["documents"], effect["documents_sign_test"])),
            ]
        )
    levels = [Column("bits per byte"), *own, Column("mean", number=True)]
    values = []
    for arm in report["arms"]:
        of_seed = {seed["seed"]: seed["bits_per_byte"].get(report["primary"]) for seed in arm["seeds"]}
        shown = [_number(of_seed.get(seed), "{:.4f}") for seed in seeds]
        mean = _number(arm["bits_per_byte"].get(report["primary"]), "{:.4f}")
        values.append([arm["name"], *(shown if wide else [" · ".join(shown)]), mean])
    lead = (
        f"Two runs of one seed have the same order of data, so they are compared in pairs. {len(seeds)} seeds that all "
        f"agree give a sign test of {probability(report['smallest_p'])}, and none smaller. The documents' test is of "
        "these very runs: it knows nothing of other seeds."
    )
    parts = [f'<div class="card">{table("Change by seed", columns, rows)}</div>',
             f'<div class="card">{table("Bits per byte by seed", levels, values)}</div>']  # fmt: skip
    return section("Seed by seed", parts, lead, "seeds")


def _split(better: int, total: int, p: float | None) -> str:
    tested = "" if p is None else f"<small>p {text(probability(p) if p < 0.001 else f'= {p:.3f}')}</small>"
    return f"<span>{better:,} of {total:,}{tested}</span>"


def _fairness(checks: Sequence[Mapping[str, Any]]) -> str:
    signs = {True: ("good", "✓", "held"), False: ("bad", "✕", "not held"), None: ("open", "–", "cannot be known")}
    items = []
    for check in checks:
        color, sign, words = signs[check["held"]]
        items.append(
            f'<li class="{color}"><span class="sign" aria-hidden="true">{sign}</span><div><b>{text(check["check"])}</b>'
            f'<span class="unseen"> ({words})</span><small>{text(check["detail"])}</small></div></li>'
        )
    lead = "Checked before the runs from their configs and data, and after them from what they wrote."
    return section("Fairness", [f'<ul class="checks card">{"".join(items)}</ul>'], lead, "fairness")


def _differences(report: Mapping[str, Any]) -> str:
    columns = [Column("arm"), Column("key"), Column("there"), Column("in this arm", wide=True)]
    rows = []
    for arm in report["arms"]:
        for number, (key, theirs, ours) in enumerate(arm["differences"]):
            name = f"{text(arm['name'])}<small>{text(_against(arm | {'missing_seeds': ()}))}</small>"
            shown = [Html(f"<code>{text(part)}</code>") for part in (key, _value(theirs), _value(ours))]
            rows.append([Html(name if number == 0 else f'<span class="unseen">{text(arm["name"])}</span>'), *shown])
        if arm["against"] and not arm["differences"]:
            rows.append([Html(f"{text(arm['name'])}<small>against {text(arm['against'])}</small>"), "nothing", "", ""])
    lead = "Exactly the keys in which an arm's config differs from that of the arm it is compared with."
    parts = [f'<div class="card">{table("Differences", columns, rows)}</div>'] if rows else []
    return section("What differs", parts, lead, "differences")


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _sweep(report: Mapping[str, Any]) -> str:
    if not report["sweep"]:
        return ""
    columns = [Column("arm"), Column("chosen learning rate", number=True), Column("", wide=True)]
    rows = [
        [
            name,
            general(found["chosen"]),
            "at the edge of the grid: a better one may lie outside" if found["at_edge"] else "",
        ]
        for name, found in report["sweep"].items()
    ]
    chosen = table("Learning rates", columns, rows)
    lead = "The same grid for every arm, on a seed that is not compared; each arm takes the best of its own."
    parts = [f'<div class="grid2">{sweep_chart(report)}<div class="card">{chosen}</div></div>']
    return section("Learning rates", parts, lead, "sweep")


def _reproduce(report: Mapping[str, Any]) -> str:
    shown = {
        label: str(report["machine"][key]) for key, label in MACHINE.items() if report["machine"].get(key) is not None
    }
    shown |= {name: str(version) for name, version in report["versions"].items() if name != "code_sha256"}
    if "code_sha256" in report["versions"]:
        shown["code that trains (sha256)"] = str(report["versions"]["code_sha256"])[:16]
    took = [arm["seconds"] for arm in report["arms"] if arm["seconds"]]
    if took:
        runs = sum(arm["seconds"] * len(arm["seeds"]) for arm in report["arms"] if arm["seconds"])
        shown["updates of all runs"] = duration(runs)
    commands = "".join(f'<code class="command">{text(command)}</code>' for command in report["commands"])
    parts = [facts(shown), f"<p>The same again; runs that are there already are not made again:</p>{commands}"]
    if own := {arm["name"]: arm["command"] for arm in report["arms"] if arm.get("command")}:
        lines = "".join(f'<p>{text(name)}</p><code class="command">{text(line)}</code>' for name, line in own.items())
        parts.append(details("Each arm by itself", lines))
    dirs = [[arm["name"], str(seed["seed"]), seed["dir"]] for arm in report["arms"] for seed in arm["seeds"]]
    if dirs:
        runs_table = table("Runs", [Column("arm"), Column("seed"), Column("folder", wide=True)], dirs)
        parts.append(details("Folders of the runs", runs_table))
    return section("What it was run on, and how to run it again", parts, name="reproduce")


def _how_to_read(report: Mapping[str, Any]) -> str:
    items = "".join(f"<li>{text(note)}</li>" for note in _notes(report))
    return section("How to read this", [f'<ul class="notes">{items}</ul>'], name="notes")


def _notes(report: Mapping[str, Any]) -> Iterator[str]:
    m, confidence = report["comparisons"], report["confidence"]
    yield (
        "Bits per byte: the loss in bits, spread over the bytes of the held-out text. It does not depend on the "
        "tokenizer, and less is better."
    )
    yield "Change: the arm's bits per byte over those of the arm it is compared with, less one; below zero is better."
    yield (
        "Interval: where the change would lie for other seeds and other text of the same kind. Over seeds: Student's t "
        "of the paired differences. Over text: a paired bootstrap over documents (10,000 resamples, bias-corrected and "
        "accelerated). Both are joined by MOVER (Zou & Donner 2008)."
    )
    if m > 1:
        yield (
            f"With {m} comparisons each interval is of {100 * (1 - (1 - confidence) / m):.4g} %, so that all hold "
            f"together with {100 * confidence:g} % (Bonferroni): were all arms equal, at least {100 * confidence:g} of "
            "100 such studies would show no difference at all."
        )
    yield (
        "No difference shown is not the same as equal: the interval says how large a difference could still be. With "
        "few seeds it is wide; more seeds make it narrower."
    )
    if len(report["domains"]) > 1:
        yield "The mean of the domains counts each the same, however long its text."
    if len(chain(report["arms"])) > 2:
        yield (
            "A step's effect holds where the ladder takes it: on top of the steps before. In another order it may be "
            "another. The sum of all steps has no interval of its own."
        )
    yield "The bands of the curves are the least and the greatest of the seeds."
    yield "All numbers of this page, with more digits, are in report.json beside it."
