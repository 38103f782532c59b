"""`modelzoo export`: a checkpoint as a folder that transformers loads; of a LoRA run, one that peft does."""

import json
from pathlib import Path
from typing import Any

import typer

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import whole_or_nothing
from modelzoo.cli.import_hf import describe, note, num_bytes


def command(
    checkpoint: Path = typer.Argument(..., help="A checkpoint, or a run's folder (its newest one)."),
    out: Path = typer.Argument(..., metavar="HF_DIR", help="The directory to write; must not exist."),
    max_shard_size: str = typer.Option("5GB", help="Weights beyond this go into several files."),
    weights: str = typer.Option("model", help="model, or the name of an `ema` callback: its averaged weights."),
    base_model: str = typer.Option(None, help="Of a LoRA run: what peft's config names as the base."),
    check: bool = typer.Option(True, help="Compare logits with transformers (and peft), where it is installed."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Write a checkpoint in Hugging Face's form: weights, config, tokenizer; and compare logits. Of a LoRA run the
    adapters alone, as peft loads them; the whole model is what `modelzoo merge` makes of it."""
    with whole_or_nothing(out):
        report = run(
            checkpoint, out, max_shard_size=max_shard_size, base_model=base_model, check=check, weights=weights
        )
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print(f"{report['folder']}: {report['architecture']} from {report['from']}; {describe(report)}")


def run(
    checkpoint: Path,
    out: Path,
    *,
    max_shard_size: str = "5GB",
    base_model: str | None = None,
    check: bool = True,
    weights: str = "model",
) -> dict[str, Any]:
    """The report that `command` prints."""
    from modelzoo.cli.progress import counting
    from modelzoo.convert.adapters import holds_adapters
    from modelzoo.convert.exporting import export_model
    from modelzoo.convert.peft import export_adapters
    from modelzoo.saved_models import load_model_config
    from modelzoo.trainer.checkpoint import find_checkpoint

    max_file_bytes = num_bytes(max_shard_size, "--max-shard-size")
    folder = find_checkpoint(checkpoint)
    if holds_adapters(folder):
        return export_adapters(folder, load_model_config(folder), out, base_model=base_model, check=check)
    if base_model is not None:
        raise UserError(f"--base-model {base_model}: {folder} holds a whole model, which needs no base; leave it out")
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
