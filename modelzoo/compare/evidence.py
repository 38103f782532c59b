"""The lower part of a study's page: speed, seeds, checks, differences and how to run it again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelzoo.compare.curve_charts import sweep_chart
from modelzoo.compare.ladder import chain, tone
from modelzoo.report.charts import IntervalScale, interval_mark
from modelzoo.report.numbers import count, duration, general, percent, percent_interval, probability
from modelzoo.report.page import absent, details, section, text
from modelzoo.report.tables import Cell, Column, Html, facts, table

MOST_COLUMNS = 4
"""More domains, or seeds, than these stand in one cell."""
MACHINE = {"device": "device", "name": "processor", "threads": "threads", "precision": "precision", "ranks": "ranks",
           "system": "system"}  # fmt: skip


def mark(value: float, interval: Sequence[float] | None, scale: IntervalScale, verdict: str | None) -> str:
    """A change with its interval, in the verdict's colour."""
    return interval_mark(value, interval, scale, tone(verdict), hint=f"{percent(value)} ({percent_interval(interval)})")


def pill(verdict: str) -> str:
    """A verdict in its colour."""
    return f'<span class="pill {tone(verdict)}">{text(verdict)}</span>'


def named(arm: str, against: str | None, more: str = "") -> Html:
    """The head of a row: an arm, and what it is compared with."""
    note = f"against {against}" if against else "the baseline"
    return Html(f"{text(arm)}<small>{text(note + more)}</small>")


def number(value: float | None, form: str) -> str:
    """A dash where there is none."""
    return "–" if value is None else form.format(value)


# ---------------------------------------------------------------------- speed


def speed(report: Mapping[str, Any]) -> str:
    """Tokens per second of training and of generating, against the arm that each is compared with."""
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
    changed = f" The arms were timed with {', '.join(of['overrides'])}." if of["overrides"] else ""
    busy = " Other processes were busy in many of the rounds." if of["quiet"] is False else ""
    lead = (
        f"Timed in turn, {of['rounds']} rounds, so that what else the machine did fell on all alike ({of['device']}, "
        f"{of['threads']} threads, {of['precision']}).{changed}{busy} The change is the median of the rounds' own; its "
        "interval is of that median, and holds for all comparisons together. Another machine may tell another story."
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
    rows: list[list[Cell]] = []
    for name, found in timed.items():
        per_token = by_name[name]["bytes_per_token"]
        read = ["–" if per_token is None else count(found["per_second"] * per_token)] if uneven else []
        compared = name in changes
        rows.append(
            [
                named(name, by_name[name]["against"]),
                count(found["per_second"]),
                *read,
                percent(changes[name]) if compared else "",
                percent_interval(intervals[name]) if compared else "",
                Html(mark(changes[name], intervals[name], scale, found["verdict"]) if compared else ""),
                Html(pill(found["verdict"]) if compared else ""),
            ]
        )
    return table(title, columns, rows)


def tasks(report: Mapping[str, Any]) -> str:
    """What lm-evaluation-harness said, where it was asked."""
    if not report["tasks"]:
        return ""
    columns = [Column("task"), Column("arm"), Column("mean", number=True), Column("difference", number=True)]
    columns.append(Column("interval over seeds", number=True))
    rows: list[list[Cell]] = []
    for one in report["tasks"]:
        for arm, values in one["arms"].items():
            apart = one["differences"].get(arm)
            against = "" if apart is None else f"{apart['difference']:+.4f}"
            interval = (
                "" if apart is None or apart["interval"] is None else "{:+.4f} … {:+.4f}".format(*apart["interval"])
            )
            rows.append([f"{one['task']}, {one['metric']}", arm, f"{values['mean']:.4f}", against, interval])
    lead = (
        "Tasks of lm-evaluation-harness, means over the seeds; differences are from the arm that each is compared "
        "with. The intervals are over seeds, at the confidence that all comparisons share; of other questions they "
        "know nothing."
    )
    return section("Tasks", [f'<div class="card">{table("Tasks", columns, rows)}</div>'], lead, "tasks")


# ---------------------------------------------------------------------- what it rests on


def seed_tables(report: Mapping[str, Any]) -> str:
    """The change, and bits per byte, of each seed."""
    effects = [effect for effect in report["effects"] if effect["domain"] == report["primary"]]
    if not effects:
        return ""
    seeds = report["seeds"]
    wide = len(seeds) <= MOST_COLUMNS + 1
    own = [Column(f"seed {seed}", number=True) for seed in seeds] if wide else [Column("seeds", wide=True)]
    columns = [Column("change"), *own, Column("seeds better", number=True), Column("documents better", number=True)]
    columns.append(Column("training losses part", number=True))
    rows: list[list[Cell]] = []
    for effect in effects:
        by_seed = dict(zip(effect["seeds"], effect["by_seed"], strict=True))
        shown = [percent(by_seed[seed]) if seed in by_seed else "–" for seed in seeds]
        rows.append(
            [
                named(effect["arm"], effect["against"]),
                *(shown if wide else [" · ".join(shown)]),
                Html(_split(effect["seeds_better"], len(effect["seeds"]), effect["seeds_sign_test"])),
                Html(_split(effect["documents_better"], effect["documents"], effect["documents_sign_test"])),
                Html(_parting(effect["parting"])) if effect["seeds"] else "–",
            ]
        )
    levels = [Column("bits per byte"), *own, Column("mean", number=True)]
    values: list[list[Cell]] = []
    for arm in report["arms"]:
        of_seed = {seed["seed"]: seed["bits_per_byte"].get(report["primary"]) for seed in arm["seeds"]}
        shown = [number(of_seed.get(seed), "{:.4f}") for seed in seeds]
        mean = number(arm["bits_per_byte"].get(report["primary"]), "{:.4f}")
        values.append([arm["name"], *(shown if wide else [" · ".join(shown)]), mean])
    most = max(len(effect["seeds"]) for effect in effects)
    agree = f"{most} seeds that all agree give" if most > 1 else "One seed gives"
    lead = (
        f"Runs are compared in pairs, seed by seed. {agree} the sign test p = "
        f"{probability(report['smallest_p'])}; it cannot be smaller. The documents' test is of these very runs: it "
        "knows nothing of other seeds. Where a pair's training losses part, and how far at that record, shows whether "
        "the arms compute the same function before any training has told them apart."
    )
    parts = [f'<div class="card">{table("Change by seed", columns, rows)}</div>',
             f'<div class="card">{table("Bits per byte by seed", levels, values)}</div>']  # fmt: skip
    return section("Seed by seed", parts, lead, "seeds")


def _parting(pairs: Sequence[Mapping[str, Any] | None]) -> str:
    """The earliest step at which a pair's losses differ, and by how much there."""
    apart = [pair for pair in pairs if pair is not None]
    if not apart:
        return "never"
    first = min(apart, key=lambda pair: pair["step"])
    return f"<span>step {first['step']:,}<small>{text(percent(first['after'] / first['before'] - 1, 4))}</small></span>"


def _split(better: int, total: int, p: float | None) -> str:
    if not total:
        return "–"
    tested = "" if p is None else f"<small>p {text(probability(p) if p < 0.001 else f'= {p:.3f}')}</small>"
    return f"<span>{better:,} of {total:,}{tested}</span>"


def fairness(checks: Sequence[Mapping[str, Any]]) -> str:
    """Every check, with what was found."""
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


def config_differences(report: Mapping[str, Any]) -> str:
    """Key by key, against the arm that each is compared with."""
    columns = [Column("arm"), Column("key"), Column("there"), Column("in this arm")]
    rows: list[list[Cell]] = []
    for arm in report["arms"]:
        for number, (key, theirs, ours) in enumerate(arm["differences"]):
            shown = [Html(f"<code>{text(part)}</code>") for part in (key, _value(theirs), _value(ours))]
            again = Html(f'<span class="unseen">{text(arm["name"])}</span>')
            rows.append([again if number else named(arm["name"], arm["against"]), *shown])
        if arm["against"] and not arm["differences"]:
            rows.append([named(arm["name"], arm["against"]), "nothing", "", ""])
    lead = "Exactly the keys in which an arm's config differs from that of the arm it is compared with."
    parts = [f'<div class="card">{table("Differences", columns, rows)}</div>'] if rows else []
    return section("What differs", parts, lead, "differences")


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def learning_rates(report: Mapping[str, Any]) -> str:
    """Of the grid: what each rate came to, and the one that was chosen."""
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
    lead = (
        "The same grid for every arm, on a seed that is not compared; each arm takes the best of its own, by the same "
        "held-out text."
    )
    parts = [f'<div class="grid2">{sweep_chart(report)}<div class="card">{chosen}</div></div>']
    return section("Learning rates", parts, lead, "sweep")


def reproduce(report: Mapping[str, Any]) -> str:
    """Machine, versions, commands and folders."""
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
    lines = "".join(
        f'<p>{text(arm["name"])}</p><code class="command">{text(arm["command"])}</code>' for arm in report["arms"]
    )
    note = "<p>The first run of each arm with its config as the study made it: its length, seed and learning rate.</p>"
    parts.append(details("Each arm by itself", note + lines))
    dirs = [[arm["name"], str(seed["seed"]), seed["dir"]] for arm in report["arms"] for seed in arm["seeds"]]
    if dirs:
        runs_table = table("Runs", [Column("arm"), Column("seed"), Column("folder", wide=True)], dirs)
        parts.append(details("Folders of the runs", runs_table))
    return section("What it was run on, and how to run it again", parts, name="reproduce")


def how_to_read(report: Mapping[str, Any]) -> str:
    """The terms, in plain words."""
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
