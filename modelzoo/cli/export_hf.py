"""`modelzoo export`: a checkpoint as a folder that transformers loads."""

import json
from pathlib import Path
from typing import Any

import typer

from modelzoo.cli.arguments import whole_or_nothing
from modelzoo.cli.import_hf import describe, note, num_bytes


def command(
    checkpoint: Path = typer.Argument(..., help="A checkpoint, or a run's folder (its newest one)."),
    out: Path = typer.Argument(..., metavar="HF_DIR", help="The directory to write; must not exist."),
    max_shard_size: str = typer.Option("5GB", help="Weights beyond this go into several files."),
    check: bool = typer.Option(True, help="Compare logits with transformers, where it is installed."),
    weights: str = typer.Option("model", help="model, or the name of an `ema` callback: its averaged weights."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Write a checkpoint in Hugging Face's form: weights, config, tokenizer; and compare logits."""
    with whole_or_nothing(out):
        report = run(checkpoint, out, max_shard_size=max_shard_size, check=check, weights=weights)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print(f"{report['folder']}: {report['architecture']} from {report['from']}; {describe(report)}")


def run(
    checkpoint: Path, out: Path, *, max_shard_size: str = "5GB", check: bool = True, weights: str = "model"
) -> dict[str, Any]:
    """The report that `command` prints."""
    from modelzoo.cli.progress import counting
    from modelzoo.convert.exporting import export_model
    from modelzoo.saved_models import load_model_config
    from modelzoo.trainer.checkpoint import find_checkpoint

    max_file_bytes = num_bytes(max_shard_size, "--max-shard-size")
    folder = find_checkpoint(checkpoint)
    return export_model(
        folder,
        load_model_config(folder),
        out,
        max_file_bytes=max_file_bytes,
        check=check,
        weights=weights,
        progress=counting,
        on_note=note,
    )
