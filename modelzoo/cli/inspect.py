"""`modelzoo inspect`: look into a dataset: its numbers, its lengths, its documents."""

import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import say

if TYPE_CHECKING:
    from rich.text import Text

    from data_preprocessing.inspect.contents import Contents, Document
    from data_preprocessing.inspect.pieces import Piece

EIGHTHS = " ▏▎▍▌▋▊▉"
SHADES = ("#303030", "#4a4a4a")
"""Behind the tokens, by turns. Both colours of a token are set: they read alike on dark and light terminals."""
LEARNT, MASKED, SPECIAL = "#87ff87", "#a8a8a8", "bold #ffffff on #af5f00"
PLACES = 3
"""Rejected documents that are listed for each reason."""


def command(
    path: Path = typer.Argument(..., help="A dataset's directory, one shard, or Cerebras ModelZoo's HDF5 files."),
    split: str = typer.Option(None, help="The split to look at; train otherwise."),
    document: int = typer.Option(None, help="Show the document of this index; -1 is the last."),
    num: int = typer.Option(3, min=0, help="Documents to show, evenly spread over the split."),
    search: str = typer.Option(None, help="Show the first --num documents that hold this text."),
    max_tokens: int = typer.Option(None, min=1, help="Tokens of each document to show; 1,000, or 200 around a hit."),
    tokenizer: Path = typer.Option(None, help="Of files that have none beside them: tokenizer.json, or its directory."),
    html: Path = typer.Option(None, help="Write all this as a page of its own."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Numbers, lengths, and documents with their tokens and loss mask."""
    from data_preprocessing import inspect

    if document is not None and search is not None:
        raise UserError("--document and --search both say what to show; give one of them")
    if html is not None and as_json:
        raise UserError("--html and --json are two forms of one answer; give one of them")
    if html is not None and not html.resolve().parent.is_dir():
        raise UserError(f"--html {html}: there is no directory {html.parent}; create it, or name another file")
    max_tokens = max_tokens or (1000 if search is None else 200)
    contents = inspect.open_contents(path, tokenizer)
    chosen = contents.split(split)
    if document is not None:
        documents = [inspect.find_document(contents, chosen, document, max_tokens)]
    elif search is not None:
        if not search:
            raise UserError("--search: the text is empty; give some that a document holds")
        documents = list(islice(inspect.search(contents, chosen, search, max_tokens), max(1, num)))
        if not documents:
            raise UserError(f"{path} ({chosen.name}): no {contents.unit} holds {search!r}")
    else:
        documents = list(inspect.some_documents(contents, chosen, num, max_tokens))
    if as_json:
        shown = [_for_programs(one, contents) for one in documents]
        print(json.dumps({**inspect.summary(contents), "documents": shown}, indent=1))
    elif html is not None:
        from data_preprocessing.inspect.page import page
        from modelzoo.files import write_text

        write_text(html, page(contents, inspect.summary(contents), documents))
        say(f"{html}: {len(documents)} {contents.unit}s of {path}; open it in a browser")
    else:
        if document is None and search is None:
            print_summary(inspect.summary(contents), chosen.name)
        for one in documents:
            print_document(one, contents)
        for note in contents.notes:
            say(f"note: {note}")


def print_summary(facts: dict[str, Any], split: str) -> None:
    """What the dataset is, its splits, the lengths in one of them, and what was left out."""
    import yaml

    from data_preprocessing.inspect.pieces import visible
    from modelzoo.cli.table import print_table

    tokenizer, unit = facts["tokenizer"], facts["unit"]
    show(f"{facts['path']}: {facts['what']}" + (f", mode {facts['mode']}" if facts["mode"] else ""))
    if tokenizer:
        sha256 = f", sha256 {tokenizer['sha256'][:12]}…" if "sha256" in tokenizer else ""
        size, end = tokenizer.get("vocab_size"), tokenizer.get("end_of_document_id")
        show(f"tokenizer: {size:,} ids, {end} ends a document{sha256}")
    print()
    columns = ("split", "files", f"{unit}s", "tokens", "learnt", "bytes", "bytes/token")
    rows = [
        (
            visible(name),
            f"{numbers['files']:,}",
            f"{numbers['documents']:,}",
            f"{numbers['tokens']:,}",
            f"{100 * numbers['learnt_tokens'] / max(1, numbers['tokens']):.1f}%" if numbers["has_loss_mask"] else "all",
            "–" if numbers["bytes"] is None else f"{numbers['bytes']:,}",
            "–" if numbers["bytes_per_token"] is None else f"{numbers['bytes_per_token']:.2f}",
        )
        for name, numbers in facts["splits"].items()
    ]
    print_table(columns, rows, right=columns[1:])
    print()
    for line in histogram_lines(facts["splits"][split], unit, split):
        show(line)
    if facts["ledger"]:
        print()
        for line in ledger_lines(facts["ledger"], facts["rejected"]):
            show(line)
    if facts["settings"]:
        show("\nsettings:")
        for line in yaml.safe_dump(facts["settings"], sort_keys=False, allow_unicode=True).splitlines():
            show(f"  {line}")


def histogram_lines(numbers: dict[str, Any], unit: str, split: str) -> Iterator[str]:
    """The lengths as bars, within 80 columns."""
    from data_preprocessing.inspect.lengths import QUANTILES

    counted = "learnt tokens" if unit == "row" else "tokens"
    lengths = numbers["tokens_per_document"]
    if not lengths:
        yield f"no {unit}s in {split}"
        return
    quantiles = ", ".join(
        f"{name} {lengths[key]:,}"
        for key, name in zip(QUANTILES, ("min", "1%", "25%", "median", "75%", "99%", "max"), strict=True)
    )
    yield f"{counted} per {unit} ({split}): mean {lengths['mean']:,.1f}"
    yield f"  {quantiles}"
    bins = [
        (f"{low:,}" if low == high else f"{low:,}–{high:,}", f"{count:,}", count)
        for low, high, count in numbers["histogram"]
    ]
    widths = [max(len(bin_[i]) for bin_ in bins) for i in (0, 1)]
    room = min(80, shutil.get_terminal_size().columns) - sum(widths) - 6
    most = max(count for *_, count in bins)
    for label, shown, count in bins:
        eighths = max(1, round(8 * room * count / most)) if count else 0
        bar = "█" * (eighths // 8) + EIGHTHS[eighths % 8]
        yield f"  {label:>{widths[0]}}  {shown:>{widths[1]}}  {bar}".rstrip()


def ledger_lines(ledger: dict[str, Any], listed: list[dict[str, Any]]) -> Iterator[str]:
    """How many documents came in, and the first ones of those left out for each reason."""
    reasons = ledger["rejected_by_reason"]
    written, rejected = ledger["documents_written"], sum(reasons.values())
    yield f"documents: {ledger['documents_in']:,} in, {written:,} written, {rejected:,} rejected"
    for reason, number in reasons.items():
        yield f"  {number:,} {reason}"
        places = [one for one in listed if one["reason"] == reason][:PLACES]
        for one in places:
            yield f"    {one['file']}, {one['unit']} {one['number']}" + (f": {one['detail']}" if one["detail"] else "")
        if len(places) < number:
            yield f"    … and {number - len(places):,} more"


def print_document(document: "Document", contents: "Contents") -> None:
    """One document: coloured on a terminal, with its masked parts in brackets elsewhere."""
    from rich.console import Console

    from data_preprocessing.inspect.pieces import folded, pieces, visible

    console = Console(highlight=False, markup=False, emoji=False)
    coloured = console.is_terminal and console.color_system is not None and not console.no_color
    shown = list(folded(pieces(document, contents.tokenizer)))
    has_mask = document.loss_mask is not None
    print()
    rule = f"── {visible(heading(document, contents.unit))} "
    console.print(rule + "─" * max(0, min(80, console.width) - len(rule)), style="bold", soft_wrap=True)
    if document.first_token:
        print(f"… {document.first_token:,} tokens before this place")
    if coloured:
        console.print(coloured_text(shown, has_mask), soft_wrap=True)
    else:
        print(plain_text(shown))
    if rest := document.num_tokens - document.first_token - len(document.ids):
        print(f"… {rest:,} tokens more (--max-tokens)")


def heading(document: "Document", unit: str) -> str:
    """Where the document stands, and its size."""
    learnt = ""
    if document.loss_mask is not None:
        part = "" if len(document.ids) == document.num_tokens else f" of the {len(document.ids):,} shown"
        learnt = f", {int(document.loss_mask.sum()):,}{part} learnt"
    return f"{document.split}, {unit} {document.index:,} ({document.file}): {document.num_tokens:,} tokens{learnt}"


def coloured_text(shown: Sequence["Piece"], has_mask: bool) -> "Text":
    """Tokens on two shades by turns; learnt ones green where others are masked, ends of documents orange."""
    from rich.text import Text

    text = Text()
    for i, piece in enumerate(shown):
        colour = (LEARNT if piece.learnt else MASKED) if has_mask else "#ffffff"
        text.append(piece.text, SPECIAL if piece.special else f"{colour} on {SHADES[i % 2]}")
    return text


def plain_text(shown: Sequence["Piece"]) -> str:
    """Masked spans in ⟦ ⟧, ends of documents in « »."""
    spans = []
    for learnt, span in groupby(shown, key=lambda piece: piece.learnt):
        text = "".join(f"«{piece.text}»" if piece.special else piece.text for piece in span)
        spans.append(text if learnt else f"⟦{text}⟧")
    return "".join(spans)


def show(line: str) -> None:
    """Print a line that holds strings of a file: nothing in them reaches the terminal as a command."""
    from data_preprocessing.inspect.pieces import visible

    print("\n".join(visible(part) for part in line.split("\n")))


def _for_programs(document: "Document", contents: "Contents") -> dict[str, Any]:
    facts: dict[str, Any] = {
        "split": document.split,
        "index": document.index,
        "file": document.file,
        "num_tokens": document.num_tokens,
        "first_token": document.first_token,
        "ids": document.ids.tolist(),
    }
    if contents.tokenizer is not None:
        facts["text"] = contents.tokenizer.decode(document.ids.tolist())
    if document.loss_mask is not None:
        facts["loss_mask"] = document.loss_mask.astype(int).tolist()
    return facts
