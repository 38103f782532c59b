"""`modelzoo tokenizer`: train a byte-level BPE, and compare tokenizers on text."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from modelzoo.cli.arguments import say

if TYPE_CHECKING:
    from data_preprocessing.tokenizer_report import Report

app = typer.Typer(no_args_is_help=True, help="Train tokenizers, and compare them.")

COLUMNS = 80
"""Of a table; more tokenizers than fit get tables below."""


@app.command("train")
def train_command(
    config: str = typer.Argument(..., help="A shipped name (tokenizer/…), or the path of a YAML."),
    overrides: list[str] = typer.Argument(None, help="key=value, in hydra's grammar."),
) -> None:
    """Train a byte-level BPE, GPT-2's or GPT-NeoX's style."""
    run(config, overrides or [])


def run(name: str, overrides: list[str]) -> None:
    """Train, and say where the tokenizer is."""
    from data_preprocessing.config import TokenizerTrainConfig
    from data_preprocessing.tokenizer_training import train
    from modelzoo.cli.progress import reading
    from modelzoo.config_files import load_config

    config = load_config(TokenizerTrainConfig, name, overrides)
    with reading("training the tokenizer") as on_progress:
        tokenizer = train(config, on_progress=on_progress)
    say(f"{config.output}: {tokenizer.vocab_size:,} tokens, sha256 {tokenizer.sha256[:12]}…")


@app.command("report")
def report_command(
    tokenizers: list[str] = typer.Argument(..., help="tokenizer.json, a directory, hf://owner/name; or NAME=PATH."),
    data: list[str] = typer.Option(
        [],
        help="NAME=PATH: a domain; .jsonl (the key `text`), a text file, a directory of texts, a pattern. Repeatable.",
    ),
    max_bytes: int = typer.Option(2_000_000, min=1, help="Bytes to look at of each domain."),
    plot: Path = typer.Option(None, help="Also draw it, into this .png, .svg or .pdf."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Bytes per token and tokens per word, by domain and by kind of text, of several tokenizers side by side.

    Without --data, on the documentation and the sources of the Python that runs this.
    """
    from data_preprocessing.tokenizer_report import built_in_domains, read_domain, report
    from modelzoo.base_config import UserError
    from modelzoo.tokenizer import Tokenizer

    if plot and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {plot}: expected a file that ends in .png, .svg or .pdf")
    paths = _named([path if "=" in path else f"{_name_of(path)}={path}" for path in tokenizers], "a tokenizer")
    loaded = {name: Tokenizer.load(path, background=True) for name, path in paths.items()}
    domains = [read_domain(name, path, max_bytes=max_bytes) for name, path in _named(data, "--data").items()]
    done = report(loaded, domains or list(built_in_domains(max_bytes)))
    for tokenizer in loaded.values():
        for note in tokenizer.notes:
            say(f"note: {note}")
    if plot:
        from data_preprocessing.tokenizer_plot import plot as draw

        draw(done, plot)
        say(f"wrote {plot}")
    print(json.dumps(done.to_json(), indent=1, ensure_ascii=False) if as_json else "\n".join(describe(done)))


def describe(report: "Report") -> list[str]:
    """The lines of the tables: no wider than COLUMNS, as many tables as that takes."""
    from data_preprocessing.tokenizer_report import CODE_EVERY, CODE_MARKS, KINDS

    numbers = range(len(report.tokenizers))
    rows: list[tuple[str, str, list[str]]] = [
        ("vocabulary", "", [f"{tokenizer.vocab_size:,}" for tokenizer in report.tokenizers]),
        ("bytes per token", "bytes", []),
    ]
    for index, domain in enumerate(report.domains):
        num_bytes = sum(report.counts[0][index].kind_bytes)
        rows.append(
            (f"  {domain.name}", f"{num_bytes:,}", [f"{report.bytes_per_token(t, index):.2f}" for t in numbers])
        )
    rows.append(("by kind of text", "bytes", []))
    for number, kind in enumerate(KINDS):
        of_kind = [report.kind_bytes_per_token(t, number) for t in numbers]
        shown = ["–" if value is None else f"{value:.2f}" for value in of_kind]
        rows.append((f"  {kind}", f"{report.kind_bytes(number):,}", shown))
    rows.append(("tokens per word", "words", []))
    for index, domain in enumerate(report.domains):
        fertility = [f"{report.tokens_per_word(t, index):.2f}" for t in numbers]
        rows.append((f"  {domain.name}", f"{domain.num_words:,}", fertility))
    first = min(26, max(len(name) for name, _, _ in rows))
    label = min(20, 2 + max(7, *map(len, report.names)))
    at_once = (COLUMNS - first - 12) // label
    lines = []
    for begin in range(0, len(numbers), at_once):
        chosen = slice(begin, begin + at_once)
        names = "".join(_short(name, label - 2).rjust(label) for name in report.names[chosen])
        lines += [(" " * (first + 12) + names).rstrip()]
        for title, size, values in rows:
            cells = "".join(value.rjust(label) for value in values[chosen])
            lines += [f"{_short(title, first).ljust(first)}{size.rjust(12)}{cells}".rstrip()]
        lines += [""]
    lines += [f"{domain.name}: {domain.origin}" for domain in report.domains]
    lines += [
        "words: what stands between white space. digits: 0 to 9. indentation: spaces and",
        "tabs at the start of a line. code: paragraphs in which one visible character in",
        f"{CODE_EVERY} or more is one of {CODE_MARKS.decode()}; prose: all others.",
    ]
    return lines


def _named(entries: list[str], what: str) -> dict[str, str]:
    from modelzoo.base_config import UserError

    named: dict[str, str] = {}
    for entry in entries:
        name, separator, path = entry.partition("=")
        if not separator or not name or not path:
            raise UserError(f"{what} {entry}: expected NAME=PATH")
        if name in named:
            raise UserError(f"{what} {entry}: the name {name} is taken; give another: NAME=PATH")
        named[name] = path
    return named


def _name_of(path: str) -> str:
    """What a tokenizer is called: its file, or the directory where the file's name says nothing."""
    parts = Path(path)
    name = parts.parent.name if parts.name in ("tokenizer.json", "encoder.json", "vocab.json") else parts.name
    return (name or parts.name).removesuffix(".json")


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
