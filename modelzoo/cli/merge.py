"""`modelzoo merge`: a LoRA run's adapters and their base as one model."""

import json
from pathlib import Path

import typer

from modelzoo.cli.arguments import whole_or_nothing
from modelzoo.cli.import_hf import num_bytes


def command(
    checkpoint: Path = typer.Argument(..., help="A checkpoint of a LoRA run, or the run's folder (its newest one)."),
    out: Path = typer.Argument(..., help="The checkpoint to write; must not exist."),
    base: Path = typer.Option(None, help="Where the base is now, if it has been moved."),
    max_shard_size: str = typer.Option("5GB", help="Weights beyond this go into several files."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Work a LoRA run's adapters into its base: a whole model, in the types of the base."""
    from modelzoo.cli.progress import counting
    from modelzoo.convert.adapters import merge_checkpoint
    from modelzoo.saved_models import load_model_config
    from modelzoo.trainer.checkpoint import find_checkpoint

    max_file_bytes = num_bytes(max_shard_size, "--max-shard-size")
    with whole_or_nothing(out):
        folder = find_checkpoint(checkpoint)
        report = merge_checkpoint(
            folder, load_model_config(folder), out, base=base, max_file_bytes=max_file_bytes, progress=counting
        )
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print(f"{report['checkpoint']}: {report['adapters']} adapters of {report['from']} worked into {report['base']}")
