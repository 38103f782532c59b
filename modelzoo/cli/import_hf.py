"""`modelzoo import`: weights of Hugging Face's as a checkpoint."""

import json
from pathlib import Path
from typing import Any

import typer

from modelzoo.cli.arguments import say, whole_or_nothing


def command(
    source: str = typer.Argument(
        ..., metavar="HF_DIR", help="A directory with config.json and weights; or owner/name[@revision] on the hub."
    ),
    out: Path = typer.Argument(..., help="The checkpoint to write; must not exist."),
    tokenizer: str = typer.Option(None, help="tokenizer.json, a directory, hf://owner/name; else what lies in HF_DIR."),
    max_shard_size: str = typer.Option("5GB", help="Weights beyond this go into several files."),
    check: bool = typer.Option(True, help="Compare logits with transformers, where it is installed."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Turn GPT-2, GPT-J or GPT-NeoX (Pythia) weights of Hugging Face's into a checkpoint, and compare logits."""
    with whole_or_nothing(out):
        report = run(source, out, tokenizer=tokenizer, max_shard_size=max_shard_size, check=check)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print(f"{report['checkpoint']}: {report['architecture']} from {report['from']}; {describe(report)}")


def run(
    source: str, out: Path, *, tokenizer: str | None = None, max_shard_size: str = "5GB", check: bool = True
) -> dict[str, Any]:
    """The report that `command` prints."""
    from modelzoo.cli.progress import counting
    from modelzoo.convert.importing import import_model
    from modelzoo.convert.source import find_source

    max_file_bytes = num_bytes(max_shard_size, "--max-shard-size")
    folder = find_source(source, note)
    return import_model(
        folder,
        out,
        name=source,
        tokenizer=tokenizer,
        max_file_bytes=max_file_bytes,
        check=check,
        progress=counting,
        on_note=note,
    )


def num_bytes(text: str, option: str) -> int:
    """ "5GB", "500MB", "2GiB" or plain bytes."""
    import re

    from modelzoo.base_config import UserError

    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)?", text.strip(), re.IGNORECASE)
    size = float(found[1]) * units[(found[2] or "").upper()] if found else 0.0
    if not 1 <= size < 2**63:
        shown = text if len(text) <= 40 else f"{text[:20]}…"
        raise UserError(f"{option} {shown}: expected a size such as 5GB, 500MB or 2GiB")
    return int(size)


def note(line: str) -> None:
    """Something the person at the terminal should know."""
    say(f"note: {line}")


def describe(report: dict[str, Any]) -> str:
    """What the logit check found, in a line."""
    check = report["logit_check"]
    if check["result"] != "equal":
        return f"logits {check['result']}: {check['reason']}"
    where = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in check["where"].items())
    return (
        f"logits equal transformers' to {check['max_difference']:.2g} (at {where}; largest logit "
        f"{check['max_logit']:.3g}, tolerance {check['tolerance']:.2g})"
    )
