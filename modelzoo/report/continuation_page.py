"""The page of a continued run: the answer first, then what it rests on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from modelzoo.report.answer import QUESTION
from modelzoo.report.charts import IntervalScale, Series, interval_mark, line_chart
from modelzoo.report.continuation import Report, Sample, Source
from modelzoo.report.domains import TOLERANCE, Domain
from modelzoo.report.numbers import count, duration, general, percent, percent_interval, probability, share
from modelzoo.report.page import absent, details, page, section, text
from modelzoo.report.tables import Column, Html, facts, settings_table, table

LONGEST_SAMPLE = 1_500
SHORT_SETTINGS = {
    "model.num_layers": "layers", "model.hidden_size": "hidden size", "data.seq_len": "tokens a row",
    "trainer.global_batch_size": "rows a batch", "optimizer.kind": "optimizer", "optimizer.lr": "peak learning rate",
    "schedule.kind": "schedule", "schedule.warmup_steps": "warm-up steps", "schedule.warmup_tokens": "warm-up tokens",
    "seed": "seed",
}  # fmt: skip
MACHINE = {"device": "device", "name": "processor", "precision": "precision", "ranks": "ranks", "torch": "torch",
           "python": "Python"}  # fmt: skip
_DRAWN = (
    "In the drawing new and old domains each have a scale of their own; the dashed line is the {limit} that an old "
    "one may lose."
)
NOTES = (
    "Bits per byte: the loss in bits, spread over the bytes of the text. It does not depend on the tokenizer, and less "
    "is better.",
    "Change: the new model's loss over the old model's, less one. Below zero the new model is better.",
    "Interval: a paired bootstrap over blocks of held-out text (10,000 resamples, bias-corrected and accelerated, "
    "95 %). Both models are measured on the same blocks, so what makes a text hard for both cancels.",
    "A change is shown where its interval leaves out zero. Of twenty domains that did not change at all, about one "
    "would still seem to.",
    "One run is one seed. Two more seeds tell whether a difference of this size comes back.",
)


def continuation_page(report: Report) -> str:
    """The whole HTML file."""
    run = report.run
    body = [*_head(report)]
    if report.domains:
        body += [_table(report), _over_the_run(report.domains)]
    body += [
        _advice(report),
        _training(report),
        _sources(report.sources, report.missing),
        _samples(report.samples, report.missing),
        _what_was_run(report),
        section("How to read this", ['<ul class="notes">' + "".join(f"<li>{text(n)}</li>" for n in NOTES) + "</ul>"]),
    ]
    return page(f"{run['name']}: {QUESTION.lower()}", body, f"modelzoo report · {run['name']} · step {run['steps']:,}")


# ---------------------------------------------------------------------- the answer


def _head(report: Report) -> Iterator[str]:
    run, answer = report.run, report.answer
    base = f" · continues {run['base']}" if run["base"] else ""
    tone, mark = {"yes": ("good", "✓"), "no": ("bad", "✕"), "open": ("open", "?")}[answer.verdict]
    yield f'<header><p class="kicker">{text(run["name"] + base)}</p>'
    yield f"<h1>{text(QUESTION)}</h1>"
    sentences = "".join(f"<p>{text(sentence)}</p>" for sentence in answer.sentences[:-1])
    yield (
        f'<div class="answer {tone}"><span class="mark" aria-hidden="true">{mark}</span><div>'
        f'<p class="verdict">{text(answer.headline)}</p>{sentences}'
        f"<p><small>{text(answer.sentences[-1])}</small></p></div></div>"
    )
    if key := next((key for key in ("domains", "before", "intervals") if key in report.missing), None):
        yield f'<p></p><p class="absent">{text(report.missing[key])}</p>'
    tiles = [_tile(domain) for domain in [*_worst(report.domains, "new"), *_worst(report.domains, "old")]]
    planned = f"of {run['total_steps']:,} steps" if run["total_steps"] and not run["complete"] else "steps"
    tiles.append(("tokens trained on", count(run["tokens"]), f"{run['steps']:,} {planned}"))
    if run["seconds"]:
        tiles.append(("time of the updates", duration(run["seconds"]), f"{count(run['tokens_per_second'])} tokens/s"))
    yield '<dl class="tiles">' + "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    yield "</dl></header>"


def _worst(domains: Sequence[Domain], role: str) -> list[Domain]:
    """The one of a role that speaks most against the new model."""
    measured = [domain for domain in domains if domain.role == role and domain.change is not None]
    return [max(measured, key=lambda domain: domain.change or 0.0)] if measured else []


def _tile(domain: Domain) -> tuple[str, str, str]:
    note = percent_interval(domain.interval) if domain.interval else "no interval"
    return f"{domain.role}: {domain.name}", percent(domain.change or 0.0), note


# ---------------------------------------------------------------------- domains


def _table(report: Report) -> str:
    domains = report.domains
    scales = {
        role: IntervalScale(
            [d.change for d in domains if d.role == role and d.change is not None],
            [d.interval for d in domains if d.role == role],
            [TOLERANCE] if role == "old" else [],
        )
        for role in ("new", "old")
    }
    columns = [
        Column("domain"),
        Column("before", number=True),
        Column("after", number=True),
        Column("change", number=True),
        Column("95 % interval", number=True),
        Column("better ← 0 → worse", wide=True),
        Column("verdict"),
        Column("blocks better", number=True),
    ]
    rows = [
        (
            Html(f"{text(domain.name)} <small>{text(_role(domain))}</small>"),
            "–" if domain.before is None else f"{domain.before:.4f}",
            f"{domain.after:.4f}",
            "–" if domain.change is None else percent(domain.change),
            percent_interval(domain.interval),
            Html("" if domain.change is None else _mark(domain, scales[domain.role])),
            Html(f'<span class="pill {_tone(domain)}">{text(_verdict(domain))}</span>'),
            Html("–" if domain.num_better is None else _blocks(domain)),
        )
        for domain in domains
    ]
    units = " and ".join(dict.fromkeys(domain.unit for domain in domains))
    return section(
        "Before and after",
        [f'<div class="card">{table("Before and after, by domain", columns, rows)}</div>'],
        f"In {units}, less is better; on the same held-out text before the first update and after the last. "
        + (_DRAWN.format(limit=_limit()) if any(d.role == "old" and d.change is not None for d in domains) else ""),
        "domains",
    )


def _mark(domain: Domain, scale: IntervalScale) -> str:
    assert domain.change is not None
    limit = TOLERANCE if domain.role == "old" else None
    return interval_mark(domain.change, domain.interval, scale, _tone(domain), limit)


def _blocks(domain: Domain) -> str:
    tested = f"sign test p {probability(domain.sign_test).replace('0.', '= 0.', 1).replace('< = ', '< ')}"
    return f"<span>{domain.num_better:,} of {domain.num_blocks:,} <small>{text(tested)}</small></span>"


def _limit() -> str:
    return percent(TOLERANCE, 0).lstrip("+")


def _role(domain: Domain) -> str:
    if domain.role == "new":
        return f"new, {share(domain.share)} of training" if domain.share else "new"
    if domain.share:
        return f"old, {share(domain.share)} of training"
    return "old, not replayed" if domain.of_base else "old, not trained on"


def _verdict(domain: Domain) -> str:
    return "worse, but kept" if domain.verdict == "worse" and domain.kept and domain.role == "old" else domain.verdict


def _tone(domain: Domain) -> str:
    if domain.verdict == "better":
        return "good"
    return "bad" if domain.verdict == "worse" and not (domain.kept and domain.role == "old") else "open"


def _over_the_run(domains: Sequence[Domain]) -> str:
    colors = {domain.name: number for number, domain in enumerate(domains)}
    changes = [
        _changes(role, title, [d for d in domains if d.role == role], colors)
        for role, title in (("new", "Learned: change of the new domains"), ("old", "Kept: change of the old domains"))
    ]
    levels = [
        line_chart(
            f"domain-{number}", domain.name, [_levels(domain, number)], "tokens", f"{domain.unit}, {domain.role}"
        )
        for number, domain in enumerate(domains)
        if len(domain.points) > 1
    ]
    if not levels:
        return ""
    columns = "grid3" if len(levels) > 2 else "grid2"
    parts = [f'<div class="grid2 large">{"".join(changes)}</div>'] if any(changes) else []
    parts.append(f'<div class="{columns}">' + "\n".join(levels) + "</div>")
    lead = "The bands are 95 % intervals. Point at a chart, or focus it and use the arrow keys."
    return section("Over the run", parts, lead if any(changes) else "", "curves")


def _changes(role: str, title: str, domains: Sequence[Domain], colors: Mapping[str, int]) -> str:
    series = []
    for domain in domains:
        points = [point for point in domain.points if point.change is not None]
        if len(points) > 1:
            bands = [point.interval for point in points]
            changes = [(float(point.tokens), float(point.change or 0.0)) for point in points]
            series.append(Series(domain.name, changes, bands, colors[domain.name], dashed=role == "old"))
    if not series:
        return ""
    rules = [(0.0, ""), *([(TOLERANCE, f"{_limit()} may be lost")] if role == "old" else [])]
    return line_chart(
        f"change-{role}", title, series, "tokens", "since step 0; less is better",
        y_format=percent, y_tick=lambda y, digits: percent(y, max(0, digits - 2)), rules=rules,
    )  # fmt: skip


def _levels(domain: Domain, color: int) -> Series:
    """The loss itself, with the interval of its change set around it."""
    before = domain.before
    bands = [
        None if before is None or p.interval is None else (before * (1 + p.interval[0]), before * (1 + p.interval[1]))
        for p in domain.points
    ]
    points = [(p.tokens, p.value) for p in domain.points]
    return Series(domain.name, points, bands if any(bands) else (), color, dashed=domain.role == "old")


# ---------------------------------------------------------------------- what to do


def _advice(report: Report) -> str:
    if not report.advice:
        return section("What to try next", ["<p>Nothing in these numbers asks for another run.</p>"], name="next")
    items = "".join(
        f'<li class="card"><p><b>{text(step.do)}</b></p><p>{text(step.why)}'
        + (f" <small>{text(step.source)}</small>" if step.source else "")
        + "</p></li>"
        for step in report.advice
    )
    return section("What to try next", [f'<ol class="steps">{items}</ol>'], "By rule from the numbers above.", "next")


# ---------------------------------------------------------------------- the run


def _training(report: Report) -> str:
    titles: dict[str, tuple[str, str, Callable[[float], str]]] = {
        "loss": ("Training loss", "nats per token", lambda y: f"{y:.4f}"),
        "lr": ("Learning rate", "of the fastest group", general),
        "gradient_norm": ("Gradient norm", "before clipping", general),
        "tokens_per_second": ("Speed", "tokens per second", count),
    }
    charts = [
        line_chart(
            f"training-{key}", title, [Series(title, report.training[key], color=5)], "tokens", label, y_format=form,
            y_tick=_tick,
        )
        for key, (title, label, form) in titles.items()
        if len(report.training[key]) > 1
    ]  # fmt: skip
    if not charts:
        return ""
    return section("Training", ['<div class="grid2">' + "\n".join(charts) + "</div>"], name="training")


def _tick(y: float, digits: int) -> str:
    return count(y) if abs(y) >= 100_000 else f"{y:,.{digits}f}" if digits < 5 else general(y)


def _sources(sources: Sequence[Source], missing: Mapping[str, str]) -> str:
    if not sources:
        return section("Tokens by source", [absent(missing["sources"], "")], name="sources")
    columns = [
        Column("source"),
        Column("tokens", number=True),
        Column("share", number=True),
        Column("", wide=True),
        Column("epochs", number=True),
    ]
    rows = [
        (
            source.name,
            f"{source.tokens:,}",
            share(source.share),
            Html(
                f'<svg class="bar c0" aria-hidden="true"><rect class="rest" width="100%" height="100%" rx="4"/>'
                f'<rect width="{100 * source.share:.2f}%" height="100%" rx="4"/></svg>'
            ),
            "–" if source.epochs is None else f"{source.epochs:.2f}",
        )
        for source in sources
    ]
    lead = "What the run has read. An epoch is once through all that is used of a source."
    parts = [f'<div class="card">{table("Tokens by source", columns, rows)}</div>']
    return section("Tokens by source", parts, lead, "sources")


def _samples(samples: Sequence[Sample], missing: Mapping[str, str]) -> str:
    if not samples:
        return section("Samples", [absent(missing["samples"], "")], name="samples")
    parts = [absent(missing["first_samples"], "")] if "first_samples" in missing else []
    for sample in samples:
        seed = f" <small>seed {text(sample.seed)}</small>" if sample.seed is not None else ""
        prompt = f"“{text(sample.prompt)}”" if sample.prompt else "<i>the beginning of a document</i>"
        sides = [("before", sample.before), ("after", sample.after)]
        columns = "".join(
            f"<div><h4>{label}, step {entry[0]:,}</h4><blockquote>{text(_cut(entry[1]))}</blockquote></div>"
            for label, entry in sides
            if entry is not None
        )
        parts.append(f'<article class="card sample"><h3>{prompt}{seed}</h3><div class="pair">{columns}</div></article>')
    lead = "The same prompts with the same random numbers. A few samples show the manner, not the quality."
    return section("Samples", parts, lead, "samples")


def _cut(sample: str) -> str:
    return "… " + sample[:LONGEST_SAMPLE].lstrip(" ") + (" …" if len(sample) > LONGEST_SAMPLE else "")


def _what_was_run(report: Report) -> str:
    run, settings = report.run, report.run["settings"]
    shown: dict[str, str | Html] = {"base": str(run["base"] or "none: weights drawn at random")}
    shown |= {
        label: general(settings[key]) if isinstance(settings[key], float) else str(settings[key])
        for key, label in SHORT_SETTINGS.items()
        if settings.get(key) is not None
    }
    shown |= {label: str(run["machine"][key]) for key, label in MACHINE.items() if run["machine"].get(key) is not None}
    parts = [f"<p>{text(run['description'])}</p>" if run["description"] else "", facts(shown)]
    if "machine" in report.missing:
        parts.append(absent(report.missing["machine"], ""))
    if settings:
        parts.append("<p>The same again, under another name:</p>")
        parts.append('<code class="command">modelzoo train config.yaml name=again</code>')
        parts.append(details("All settings", settings_table({k: _setting(v) for k, v in settings.items()})))
    return section("What was run", parts, name="run")


def _setting(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
