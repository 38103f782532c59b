"""A dataset as one HTML page: no script, nothing from elsewhere, every string of the data escaped."""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from data_preprocessing.inspect.contents import Contents, Document
from data_preprocessing.inspect.pieces import Piece, folded, pieces, visible

STYLE = """
:root { color-scheme: light dark; --back: #fbfaf7; --card: #fff; --text: #1d1f23; --dim: #666b74; --line: #dedbd3;
  --accent: #2563a8; --bar: #cfe0f3; --even: #f1efe9; --odd: #e2dfd6; --learnt: #06632f; --learnt-even: #e2f4e7;
  --learnt-odd: #cbe9d4; --special: #8a4700; --special-back: #fde6c8; }
@media (prefers-color-scheme: dark) { :root { --back: #15171a; --card: #1d2024; --text: #e4e6ea; --dim: #9aa1ac;
  --line: #34383f; --accent: #82b5ee; --bar: #274568; --even: #272b31; --odd: #343942; --learnt: #a5e8b8;
  --learnt-even: #173524; --learnt-odd: #21492f; --special: #ffc988; --special-back: #4d3008; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
p { margin: .3rem 0; } .dim { color: var(--dim); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 500; color: var(--dim); } tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child, .text td, .text th { text-align: left; }
.text td { white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
@media (max-width: 40rem) {
  .numbers tr:first-child { display: none; }
  .numbers tr { display: block; padding: .3rem 0; border-bottom: 1px solid var(--line); }
  .numbers tr:last-child { border: 0; }
  .numbers td { display: flex; justify-content: space-between; border: 0; padding: 0; }
  .numbers td:first-child { font-weight: 600; } .numbers td::before { content: attr(data-name); color: var(--dim); }
  .numbers td:first-child::before { content: none; } }
.quantiles { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; margin: 0 0 .6rem; }
.quantiles b { font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; } svg text { font: 13px ui-monospace, Menlo, Consolas, "Liberation Mono", monospace;
  fill: var(--text); } rect { fill: var(--bar); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0;
  font: 13px/1.65 ui-monospace, Menlo, Consolas, "Liberation Mono", monospace; }
details summary { cursor: pointer; color: var(--accent); }
article { margin-bottom: 1rem; } article h3 { font-size: .95rem; margin: 0 0 .5rem; font-weight: 600; }
article h3 span { font-weight: 400; color: var(--dim); }
label { margin-right: 1.2rem; white-space: nowrap; } input { accent-color: var(--accent); }
.controls { display: flex; flex-wrap: wrap; gap: .2rem 0; margin-bottom: .8rem; }
.t { border-radius: 2px; } .t:hover { outline: 1.5px solid var(--accent); }
:where(.tokens:has(#shade:checked)) .t { background: var(--even); }
:where(.tokens:has(#shade:checked)) .t.o { background: var(--odd); }
:where(.tokens:has(#loss:checked)) .t.m { color: var(--dim); }
:where(.tokens:has(#loss:checked)) .t.l { color: var(--learnt); background: var(--learnt-even); }
:where(.tokens:has(#loss:checked):has(#shade:checked)) .t.l.o { background: var(--learnt-odd); }
.tokens .t.s { color: var(--special); background: var(--special-back); font-weight: 600; }
"""


def page(contents: Contents, facts: dict[str, Any], documents: Sequence[Document]) -> str:
    """The whole page: `facts` is the summary of `contents`, `documents` are shown token by token."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'none'; base-uri 'none'"
    body = "\n".join(part for section in _sections(contents, facts, documents) for part in section)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(facts['path'])}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _sections(contents: Contents, facts: dict[str, Any], documents: Sequence[Document]) -> Iterator[Iterator[str]]:
    yield _head(facts)
    yield _splits(facts)
    for name, numbers in facts["splits"].items():
        yield _histogram(name, numbers, facts["unit"])
    if facts["ledger"]:
        yield _ledger(facts["ledger"])
    if facts["settings"]:
        yield _settings(facts["settings"])
    if documents:
        yield _documents(contents, documents)


def _head(facts: dict[str, Any]) -> Iterator[str]:
    tokenizer = facts["tokenizer"]
    yield f"<h1>{_text(facts['path'])}</h1>"
    line = facts["what"] + (f" · mode {facts['mode']}" if facts["mode"] else "")
    if tokenizer:
        size, end = tokenizer.get("vocab_size"), tokenizer.get("end_of_document_id")
        line += f" · tokenizer of {size:,} ids, {end} ends a document" if size else ""
        line += f" · sha256 {tokenizer['sha256'][:12]}…" if "sha256" in tokenizer else ""
    yield f'<p class="dim">{_text(line)}</p>'
    for note in facts["notes"]:
        yield f'<p class="dim">{_text(note)}</p>'


def _splits(facts: dict[str, Any]) -> Iterator[str]:
    unit = facts["unit"]
    yield '<h2>Splits</h2>\n<div class="card"><table class="numbers">'
    names = ("split", "files", f"{unit}s", "tokens", "learnt", "bytes", "bytes/token")
    yield "<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    for name, numbers in facts["splits"].items():
        share = numbers["learnt_tokens"] / max(1, numbers["tokens"])
        cells = [
            _text(name),
            f"{numbers['files']:,}",
            f"{numbers['documents']:,}",
            f"{numbers['tokens']:,}",
            f"{share:.1%}" if numbers["has_loss_mask"] else "all",
            "–" if numbers["bytes"] is None else f"{numbers['bytes']:,}",
            "–" if numbers["bytes_per_token"] is None else f"{numbers['bytes_per_token']:.2f}",
        ]
        yield (
            "<tr>"
            + "".join(f'<td data-name="{label}">{cell}</td>' for label, cell in zip(names, cells, strict=True))
            + "</tr>"
        )
    yield "</table></div>"


def _histogram(name: str, numbers: dict[str, Any], unit: str) -> Iterator[str]:
    counted = "Learnt tokens" if unit == "row" else "Tokens"
    lengths = numbers["tokens_per_document"]
    if not lengths:
        return
    yield f'<h2>{counted} per {unit}, {_text(name)}</h2>\n<div class="card"><div class="quantiles">'
    labels = {
        "mean": "mean",
        "min": "min",
        "p1": "1 %",
        "p25": "25 %",
        "median": "median",
        "p75": "75 %",
        "p99": "99 %",
    }
    for key, label in (labels | {"max": "max"}).items():
        value = f"{lengths[key]:,.1f}" if key == "mean" else f"{lengths[key]:,}"
        yield f'<span><span class="dim">{label}</span> <b>{value}</b></span>'
    bins, height = numbers["histogram"], 22
    most = max(count for *_, count in bins)
    yield f'</div><svg height="{height * len(bins)}" role="img" aria-label="Histogram of lengths">'
    for i, (low, high, count) in enumerate(bins):
        y = i * height
        label = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        width = f"{100 * count / most:.2f}%"  # text stands on the bar, so that a narrow page has room for both
        yield f'<rect x="0" y="{y + 1}" width="{width}" height="{height - 3}" rx="3"/>'
        yield f'<text x="6" y="{y + 15}">{label}</text>'
        yield f'<text x="100%" dx="-6" y="{y + 15}" text-anchor="end">{count:,}</text>'
    yield "</svg></div>"


def _ledger(ledger: dict[str, Any]) -> Iterator[str]:
    reasons = ledger["rejected_by_reason"]
    yield '<h2>Ledger</h2>\n<div class="card">'
    yield (
        f"<p>{ledger['documents_in']:,} documents came in ({ledger['bytes_in']:,} bytes), "
        f"{ledger['documents_written']:,} were written, {sum(reasons.values()):,} rejected.</p>"
    )
    if reasons:
        counts = " · ".join(f"{number:,} {reason}" for reason, number in reasons.items())
        yield f'<p>{_text(counts)}</p>\n<details><summary>the first of them</summary><table class="text">'
        yield "<tr><th>reason</th><th>place</th><th>detail</th></tr>"
        for one in ledger["rejected"][:50]:
            cells = (one["reason"], f"{one['file']}, {one['unit']} {one['number']}", one["detail"])
            yield "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>"
        yield "</table></details>"
    yield "</div>"


def _settings(settings: dict[str, Any]) -> Iterator[str]:
    yield '<h2>Settings</h2>\n<div class="card"><details><summary>show</summary><table class="text">'
    for key, value in _flat(settings):
        yield f"<tr><td>{_text(key)}</td><td>{_text(str(value))}</td></tr>"
    yield "</table></details></div>"


def _documents(contents: Contents, documents: Sequence[Document]) -> Iterator[str]:
    yield f'<section class="tokens"><h2>{contents.unit.capitalize()}s</h2>\n<div class="controls">'
    yield '<label><input type="checkbox" id="shade" checked> shade tokens by turns</label>'
    if any(document.loss_mask is not None for document in documents):
        yield (
            '<label><input type="checkbox" id="loss" checked> loss mask: <span class="t l">learnt</span> '
            '<span class="t m">masked</span></label>'
        )
    yield '<span class="dim">point at a token for its id and bytes</span></div>'
    for document in documents:
        has_mask = document.loss_mask is not None
        learnt = f" · {int(document.loss_mask.sum()):,} learnt of those shown" if document.loss_mask is not None else ""
        yield (
            f'<article class="card"><h3>{document.index:,} <span>of {_text(document.split)} · {_text(document.file)} · '
            f"{document.num_tokens:,} tokens{learnt}</span></h3>"
        )
        if document.first_token:
            yield f'<p class="dim">… {document.first_token:,} tokens before this place</p>'
        shown = folded(pieces(document, contents.tokenizer))
        yield "<pre>" + "".join(_token(piece, i % 2, has_mask) for i, piece in enumerate(shown)) + "</pre>"
        if rest := document.num_tokens - document.first_token - len(document.ids):
            yield f'<p class="dim">… {rest:,} tokens more</p>'
        yield "</article>"
    yield "</section>"


def _token(piece: Piece, odd: int, has_mask: bool) -> str:
    classes = "t" + " o" * odd + (" l" if piece.learnt else " m") * has_mask + " s" * piece.special
    ids = ", ".join(map(str, piece.ids[:8])) + (f" and {len(piece.ids) - 8} more" if len(piece.ids) > 8 else "")
    title = f"id {ids} · bytes {piece.data[:32].hex(' ')}" if piece.data else f"id {ids}"
    return f'<span class="{classes}" title="{title}">{escape(piece.text)}</span>'


def _text(text: str) -> str:
    return escape(visible(text))


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, item)) if isinstance(item, list) else item
